"""Tasks as lm-eval ships them, on a Corestone checkpoint and by lm-eval's own `HFLM` on the folder that was exported.

Of each task's file only the data set is replaced, by rows made up here, in the way that docs/lm-eval.md tells users.
Every answer is compared, then every metric. Measured worst case of log-probabilities: 2.8e-7 of their size, both
models. Hits, accuracies and generated texts are equal.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import typer
from tiny_models import make_decoder
from tokenizers.processors import TemplateProcessing
from typer.testing import CliRunner

from corestone.cli.evaluate import evaluate
from corestone.core.errors import SpecError
from corestone.core.spec import to_yaml
from corestone.data.spec import Unigram
from corestone.data.tokenizer import build_tokenizer
from corestone.interop.incoming import import_huggingface
from corestone.interop.outgoing import export_huggingface
from corestone.models.encoder_decoder import build_encoder_decoder
from corestone.recipes.load import load_model
from corestone.train.checkpoint import write_checkpoint
from corestone.zoo.bert import bert
from corestone.zoo.t5 import t5

pytestmark = pytest.mark.parity

DOCUMENT = Path(__file__).parents[2] / "docs" / "lm-eval.md"
WORDS = (
    "a stone",
    "wall",
    "stands",
    "where",
    "the",
    "were cut",
    "corner",
    "key of",
    "Größe",
    "naïve",
    "12",
    "3.5",
    ",",
)
CONTEXT = 320
"""Longer than what most tasks ask, shorter than five examples of gsm8k and than the longest page of wikitext."""

Row = dict[str, Any]


def said(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS, k=words))


def lambada(c: random.Random) -> Row:
    return {"text": said(c, 9), "domain": None}


def wikitext(c: random.Random) -> Row:
    return {"page": f" = {said(c, 3)} = \n \n {said(c, c.choice([5, 300]))} @-@ {said(c, 4)} . \n"}


def hellaswag(c: random.Random) -> Row:
    endings = [f"{said(c, n)} [title] {said(c, 2)}." for n in (2, 7, 4, 1)]
    label = str(c.randrange(4))
    return {"activity_label": "Wall", "ctx_a": said(c, 6), "ctx_b": said(c, 2), "endings": endings, "label": label}


def piqa(c: random.Random) -> Row:
    return {"goal": said(c, 5), "sol1": said(c, 3), "sol2": said(c, 6), "label": c.randrange(2)}


def arc(c: random.Random) -> Row:
    choices = {"text": [said(c, n) for n in (1, 3, 5, 1)], "label": list("ABCD")}
    return {"id": "x", "question": said(c, 6), "choices": choices, "answerKey": c.choice("ABCD")}


def winogrande(c: random.Random) -> Row:
    sentence = f"{said(c, 4)} _ {said(c, 5)}."
    return {"sentence": sentence, "option1": "stone", "option2": said(c, 2), "answer": c.choice("12")}


def boolq(c: random.Random) -> Row:
    return {"passage": said(c, 20), "question": said(c, 4), "idx": 0, "label": c.randrange(2)}


def gsm8k(c: random.Random) -> Row:
    return {"question": f"{said(c, 6)}?", "answer": f"{said(c, 8)}\n#### {c.randrange(99)}"}


def triviaqa(c: random.Random) -> Row:
    return {"question": said(c, 5), "answer": {"value": "stone", "aliases": ["stone", "a stone"]}}


TASKS: dict[str, tuple[str, Callable[[random.Random], Row]]] = {
    "lambada_openai": ("lambada/lambada_openai.yaml", lambada),
    "lambada_standard": ("lambada/lambada_standard.yaml", lambada),
    "wikitext": ("wikitext/wikitext.yaml", wikitext),
    "hellaswag": ("hellaswag/hellaswag.yaml", hellaswag),
    "piqa": ("piqa/piqa.yaml", piqa),
    "arc_easy": ("arc/arc_easy.yaml", arc),
    "winogrande": ("winogrande/default.yaml", winogrande),
    "boolq": ("super_glue/boolq/default.yaml", boolq),
    "gsm8k": ("gsm8k/gsm8k.yaml", gsm8k),
    "triviaqa": ("triviaqa/default.yaml", triviaqa),
}
GENERATING = ("gsm8k", "triviaqa")


def write_tasks(folder: Path) -> Path:
    """The shipped task files, each with rows of ours, by the document's example."""
    import lm_eval.tasks

    (example,) = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    shipped = Path(lm_eval.tasks.__file__).parent
    folder.mkdir()
    for number, (name, (place, row)) in enumerate(TASKS.items()):
        for split, seed in (("train", 1000), ("validation", number), ("test", number)):
            chance = random.Random(seed)
            lines = [json.dumps(row(chance), ensure_ascii=False) + "\n" for _ in range(12)]
            (folder / f"{name}.{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        text = example.replace("/path/to/lm_eval/tasks/hellaswag/hellaswag.yaml", str(shipped / place))
        (folder / f"{name}.yaml").write_text(text.replace("/path/to/hellaswag", str(folder / name)))
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'corestone[eval]'")
    scratch = tmp_path_factory.mktemp("tasks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(scratch / "cache"))
        import datasets

        patch.setattr(datasets.config, "HF_DATASETS_CACHE", scratch / "cache")
        yield write_tasks(scratch / "tasks")


def run(model: Any, folder: Path, name: str, shots: int | None = None) -> tuple[list[Any], dict[str, Any], Any]:
    """All answers by document, the metrics without their errors, and the number of examples."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=model, tasks=[name], task_manager=manager, num_fewshot=shots, bootstrap_iters=0, log_samples=True
    )
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    metrics = {key: value for key, value in found["results"][name].items() if isinstance(value, float)}
    return [sample["resps"] for sample in samples], metrics, found["n-shot"][name]


def same(mine: Any, theirs: Any, longer: bool = False) -> list[float]:
    """Assert that answers are the same, nested lists of texts, hits and log-probabilities.

    Args:
        longer: texts of the reference may go on.

    Returns:
        Differences of log-probabilities, relative to those beyond 1.
    """
    if isinstance(theirs, (list, tuple)):
        assert len(mine) == len(theirs)
        return [worst for pair in zip(mine, theirs, strict=True) for worst in same(*pair, longer)]
    if isinstance(theirs, float):
        assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-5)
        return [abs(mine - theirs) / max(1.0, abs(theirs))]
    assert mine == (theirs[: len(mine)] if longer and isinstance(theirs, str) else theirs)
    return []


def agree(ours: Any, theirs: Any, folder: Path, name: str, shots: int | None = None, longer: bool = False) -> list[Any]:
    mine, my_metrics, my_shots = run(ours, folder, name, shots)
    other, metrics, their_shots = run(theirs, folder, name, shots)
    print(f"{name}: worst difference of a log-probability {max(same(mine, other, longer), default=0.0):.2g}")
    assert metrics.keys() == my_metrics.keys() != set()
    for key, value in metrics.items():
        exact = key.split(",")[0] in ("acc", "acc_norm", "exact_match")
        assert my_metrics[key] == (value if exact else pytest.approx(value, rel=1e-5)), key
    assert my_shots == their_shots
    return mine


@pytest.fixture
def sides(tasks: Path, huggingface: Callable[..., Path], tmp_path: Path) -> Callable[..., tuple[Any, Any]]:
    """Ours, and lm-eval's own model of what `corestone export` writes."""
    from lm_eval.models.huggingface import HFLM

    from corestone.interop.harness import CorestoneLM

    spec = make_decoder(vocab_size=280)
    spec = spec.model_copy(update={"embedding": spec.embedding.model_copy(update={"context_length": CONTEXT})})
    ours = import_huggingface(huggingface(spec), tmp_path / "ours").folder

    def both(batch_size: int) -> tuple[Any, Any]:
        model, tokenizer = load_model(ours, "float32")
        theirs = export_huggingface(ours, tmp_path / "back").folder
        reference = HFLM(pretrained=str(theirs), device="cpu", dtype="float32", batch_size=batch_size)
        return CorestoneLM(model, tokenizer, CONTEXT, batch_size), reference

    return both


@pytest.mark.parametrize("name", TASKS)
def test_gpt2_answers_as_the_reference_does(name: str, sides: Any, tasks: Path) -> None:
    ours, theirs = sides(3)
    answers = agree(ours, theirs, tasks, name)
    assert len({json.dumps(answer) for answer in answers}) > 10  # the rows are told apart
    if name in GENERATING:
        assert any(text for [[text]] in answers)


@pytest.mark.parametrize("name", ["piqa", "lambada_openai"])
def test_examples_are_those_of_the_reference(name: str, sides: Any, tasks: Path) -> None:
    ours, theirs = sides(3)
    assert agree(ours, theirs, tasks, name, shots=2) != run(ours, tasks, name)[0]


@pytest.mark.parametrize("name", ["lambada_openai", "gsm8k", "triviaqa"])
def test_a_tokenizer_that_begins_texts_with_the_separator(
    name: str, tasks: Path, huggingface: Callable[..., Path], tmp_path: Path
) -> None:
    """As OPT's does; of texts that are too long the separator goes first."""
    from lm_eval.models.huggingface import HFLM

    from corestone.interop.harness import CorestoneLM

    spec = make_decoder(vocab_size=280)
    spec = spec.model_copy(update={"embedding": spec.embedding.model_copy(update={"context_length": CONTEXT})})
    given = huggingface(spec)
    library = tokenizers.Tokenizer.from_file(str(given / "tokenizer.json"))
    library.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    library.save(str(given / "tokenizer.json"))
    ours = import_huggingface(given, tmp_path / "ours").folder
    theirs = export_huggingface(ours, tmp_path / "back").folder
    model, tokenizer = load_model(ours, "float32")
    assert tokenizer.begins_texts
    reference = HFLM(pretrained=str(theirs), device="cpu", dtype="float32", batch_size=1)
    mine = agree(CorestoneLM(model, tokenizer, CONTEXT, 1), reference, tasks, name)
    without = run(CorestoneLM(model, tokenizer, CONTEXT, 1, add_bos_token=False), tasks, name)[0]
    assert (mine == without) == (name == "gsm8k")  # five examples are too long


@pytest.fixture
def t5_sides(request: pytest.FixtureRequest, tasks: Path, tmp_path: Path) -> tuple[Any, Any]:
    """A T5 1.0; of version 1.1, with a head of its own, where the test asks for it."""
    from lm_eval.models.huggingface import HFLM

    from corestone.interop.harness import CorestoneLM

    texts = [said(random.Random(n), 40) + " Question: Answer:" for n in range(20)]
    tokenizer = build_tokenizer(Unigram(vocab_size=160, sentinels=6), texts)
    own_head = getattr(request, "param", False)
    spec = t5(12, 2, 3, 4, 40, gated=own_head, vocab_size=tokenizer.manifest.vocab_size)
    tensors = {name: value.detach() for name, value in build_encoder_decoder(spec, 2).named_parameters()}
    if not own_head:  # it would write one token for ever
        tensors = {n: v * (0.2 if "embedding" in n else 3.0 if v.ndim > 1 else 1.0) for n, v in tensors.items()}
    ours = tmp_path / "ours"
    write_checkpoint(ours, {"model.safetensors": tensors}, {"model.yaml": to_yaml(spec), **tokenizer.files()})
    theirs = export_huggingface(ours, tmp_path / "theirs").folder
    model, tokenizer = load_model(ours, "float32")
    reference = HFLM(pretrained=str(theirs), device="cpu", dtype="float32", batch_size=3)
    assert reference.backend == "seq2seq"
    if own_head:  # it ties every head on loading, so that its numbers are those of another model
        reference.model.lm_head.weight = torch.nn.Parameter(tensors["head.weight"])
    return CorestoneLM(model, tokenizer, model.context_length, 3), reference


@pytest.mark.parametrize("name", TASKS)
def test_t5_answers_as_the_reference_does(name: str, t5_sides: Any, tasks: Path) -> None:
    """The reference writes up to as many tokens more as it read, so its texts may go on."""
    answers = agree(*t5_sides, tasks, name, longer=True)
    assert len({json.dumps(answer) for answer in answers}) > (4 if name in GENERATING else 10)


@pytest.mark.parametrize("t5_sides", [True], indirect=True)
def test_t5_with_a_head_of_its_own(t5_sides: Any, tasks: Path) -> None:
    agree(*t5_sides, tasks, "arc_easy")


@pytest.mark.parametrize("name", ["hellaswag", "gsm8k"])
def test_the_command_gives_these_numbers(name: str, sides: Any, tasks: Path, tmp_path: Path) -> None:
    _, theirs = sides(3)
    app = typer.Typer()
    app.command()(evaluate)
    arguments = [str(tmp_path / "ours"), "--task", f"lm-eval:{name}", "--data", str(tasks), "--shots", "1", "--json"]
    done = CliRunner().invoke(app, [*arguments, "--precision", "float32"])
    assert done.exit_code == 0, (done.output, done.exception)
    found = {item["name"]: item for item in json.loads(done.stdout)["model"]}
    _, metrics, shots = run(theirs, tasks, name, shots=1)
    assert shots == 1
    for key, value in metrics.items():
        metric, _, kind = key.partition(",")
        item = found[f"{name}: {metric}" + ("" if kind == "none" else f" ({kind})")]
        assert item["value"] == value
        assert ", 1 examples, rows of up to 320 tokens" in item["convention"]


def test_an_encoder_is_refused_in_one_clear_line(tasks: Path, checkpoint: Callable[..., Path]) -> None:
    from corestone.interop.harness import CorestoneLM
    from corestone.recipes.harness import evaluate_lm_eval
    from corestone.recipes.tasks import Asked

    spec = bert(12, 2, 3, 320, 32).model_copy(update={"pooler": None})
    folder = checkpoint(spec)
    with pytest.raises(SpecError, match="learnt masked_token, and a task scores next tokens; give a model") as caught:
        evaluate_lm_eval(folder, "hellaswag", Asked(data=str(tasks)))
    assert "\n" not in str(caught.value)
    model, tokenizer = load_model(folder, "float32")
    with pytest.raises(SpecError, match="this model is an encoder"):
        CorestoneLM(model, tokenizer, 32, 1)


def test_nothing_of_a_long_answer_is_left_out(t5_sides: Any) -> None:
    """An answer longer than a row is scored in parts, each behind the whole question."""
    ours, _ = t5_sides
    answer = " stone wall" * 400

    class Request:
        args = ("where", answer)

    ((whole, _),) = ours.loglikelihood([Request])
    ids = ours.tokenizer.encode(answer)
    assert len(ids) > ours.context_length
    assert math.isfinite(whole)
    assert sum(len(row.tokens) - 1 for row in ours._pair(*Request.args)) == len(ids)
