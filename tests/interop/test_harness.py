"""lm-eval on a Corestone model: the same numbers as lm-eval's own Hugging Face model on the exported folder.

Where ours is asked to put the separator before a context, the reference's begins with `<|endoftext|>` spelt out, which
its tokenizer reads as the separator. Measured worst cases: pairs 2.4e-6 of up to 94 nats, rolling 3.7e-5 of 1,338 nats.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from tiny_models import make_decoder
from typer.testing import CliRunner

from corestone.cli.evaluate import evaluate
from corestone.core.errors import DataError, SpecError
from corestone.evaluate.spec import SGD
from corestone.interop.incoming import import_huggingface
from corestone.interop.outgoing import export_huggingface
from corestone.recipes.load import load_model
from corestone.recipes.tasks import Asked

Write = Callable[..., Path]

pytestmark = pytest.mark.parity

START = "<|endoftext|>"
PAIRS = [
    ("a stone wall stands where", " the stones were cut"),
    ("a stone wall stands where ", "the stones"),  # the space counts to what follows
    ("", "corner stones"),
    ("12 keystones:", " stone"),
    ("cornerstone, keystone, corestone " * 6, " stones"),  # longer than the context: its last tokens count
    ("a", " stone wall"),
]
ROLLING = ["a stone wall", "a stone wall stands where the stones were cut, 12 stones of it\n" * 4, "x"]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/rows.jsonl
  cache_dir: {folder}/cache
output_type: {kind}
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
{choices}
metric_list:
  - metric: {metric}
"""


class Request:
    """What both sides need of lm-eval's `Instance`."""

    def __init__(self, *args: Any) -> None:
        self.args = args


@pytest.fixture
def sides(huggingface: Write, tmp_path: Path) -> Callable[..., tuple[Any, Any]]:
    """Ours and lm-eval's own model of the same weights, for a batch size."""
    pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'corestone[eval]'")
    from lm_eval.models.huggingface import HFLM

    from corestone.interop.harness import CorestoneLM

    spec = make_decoder(vocab_size=280)
    spec = spec.model_copy(update={"embedding": spec.embedding.model_copy(update={"context_length": 40})})
    ours = import_huggingface(huggingface(spec), tmp_path / "ours").folder
    theirs = export_huggingface(ours, tmp_path / "back").folder

    def both(batch_size: int, begin: bool | None = None) -> tuple[Any, Any]:
        model, tokenizer = load_model(ours, "float32")
        reference = HFLM(pretrained=str(theirs), device="cpu", dtype="float32", batch_size=batch_size)
        return CorestoneLM(model, tokenizer, model.context_length, batch_size, begin), reference

    return both


@pytest.mark.parametrize(("batch_size", "begin"), [(1, True), (4, True), (4, False), (4, None)])
def test_loglikelihoods_are_those_of_the_reference(sides: Any, batch_size: int, begin: bool | None) -> None:
    ours, theirs = sides(batch_size, begin)
    start = START if begin else ""
    found = ours.loglikelihood([Request(*pair) for pair in PAIRS])
    wanted = theirs.loglikelihood([Request(start + context if context else "", after) for context, after in PAIRS])
    for (mine, greedy), (other, also) in zip(found, wanted, strict=True):
        assert mine == pytest.approx(other, rel=1e-7, abs=1e-5)
        assert greedy == also
    assert len({round(mine, 2) for mine, _ in found}) == len(PAIRS)


@pytest.mark.parametrize("begin", [True, False])
def test_greedy_is_what_generation_gives(sides: Any, begin: bool) -> None:
    ours, theirs = sides(4, begin)
    contexts = [context for context, _ in PAIRS if context and len(context) < 60]
    settings = {"until": ["zzz"], "max_gen_toks": 6, "do_sample": False}
    found = ours.generate_until([Request(context, settings) for context in contexts])
    wanted = theirs.generate_until([Request(START * begin + context, settings) for context in contexts])
    assert found == wanted
    assert all(found)


def test_the_likeliest_next_token_is_greedy_and_another_one_is_not(sides: Any) -> None:
    ours, theirs = sides(4, False)
    contexts = ["a stone", "a wall", "the corner", "12", "stands", "keystone,", "where", "cut:"]
    settings = {"max_gen_toks": 1, "do_sample": False}
    texts = ours.generate_until([Request(context, settings) for context in contexts])
    encode = ours.tokenizer.encode  # a token that its text does not give back cannot be asked for
    asked = [(c, t) for c, t in zip(contexts, texts, strict=True) if len(encode(c + t)) == len(encode(c)) + 1]
    assert len(asked) > 2
    asked += [(context, "\x00") for context in contexts]
    found = [greedy for _, greedy in ours.loglikelihood([Request(*pair) for pair in asked])]
    assert found == [text != "\x00" for _, text in asked]
    wanted = theirs.loglikelihood([Request(context, text) for context, text in asked])
    assert found == [greedy for _, greedy in wanted]


def test_generation_stops_before_a_string_and_keeps_the_last_tokens(sides: Any) -> None:
    ours, _ = sides(2)
    long = "a stone wall stands where the stones were cut, " * 9
    settings = {"max_gen_toks": 10}
    ids = ours.tokenizer.encode(long)
    kept = ours.tokenizer.decode(ids[len(ids) - (40 - 10) :])
    whole, cut = ours.generate_until([Request(long, settings), Request(kept, settings)])
    assert whole == cut
    stop = whole[3:5]
    (stopped,) = ours.generate_until([Request(long, {**settings, "until": stop})])
    assert stopped == whole[: whole.index(stop)]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_rolling_likelihoods_are_those_of_the_reference(sides: Any, batch_size: int) -> None:
    ours, theirs = sides(batch_size)
    found = ours.loglikelihood_rolling([Request(text) for text in ROLLING])
    wanted = theirs.loglikelihood_rolling([Request(text) for text in ROLLING])
    assert len(ours.tokenizer.encode(ROLLING[1])) > 2 * 40
    for mine, other in zip(found, wanted, strict=True):
        assert mine == pytest.approx(other, rel=1e-7, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "choices", "metric"),
    [
        ("multiple_choice", 'doc_to_choice: ["stone", "wall", "cut"]', "acc"),
        ("loglikelihood", "", "perplexity"),
        ("loglikelihood_rolling", "", "word_perplexity"),
        ("generate_until", "generation_kwargs: {until: ['zzz'], max_gen_toks: 4}", "exact_match"),
    ],
)
def test_a_task_of_own_runs_on_both_by_the_command_line(
    sides: Any, tmp_path: Path, kind: str, choices: str, metric: str
) -> None:
    """Four kinds of task over a local JSONL file: ours by the command line, the reference by lm-eval's own entry."""
    _, theirs = sides(4)
    import lm_eval
    from lm_eval.tasks import TaskManager

    rows = [{"question": f"the {word} of a", "answer": "stone"} for word in "abcdef"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    facts = {"kind": kind, "choices": choices, "metric": metric, "folder": tmp_path}
    (tmp_path / "tasks" / "stones.yaml").write_text(TASK.format(name="stones", **facts))
    app = typer.Typer()
    app.command()(evaluate)
    arguments = [str(tmp_path / "ours"), "--task", "lm-eval:stones", "--data", str(tmp_path / "tasks"), "--json"]
    done = CliRunner().invoke(app, [*arguments, "--precision", "float32"])
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(done.stdout)
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    wanted = lm_eval.simple_evaluate(model=theirs, tasks=["stones"], task_manager=manager)["results"]["stones"]
    (number,) = [item for item in found["model"] if item["name"] == f"stones: {metric}"]
    assert number["value"] == pytest.approx(wanted[f"{metric},none"], rel=1e-5)
    assert number["n"] == len(rows)
    assert number["convention"].startswith("lm-eval ")


def test_an_unknown_task_is_one_clear_line(sides: Any, tmp_path: Path) -> None:
    sides(1)
    from corestone.recipes.harness import evaluate_lm_eval

    with pytest.raises(SpecError, match="no such task; did you mean 'lambada_openai'"):
        evaluate_lm_eval(tmp_path / "ours", "lambda_openai", Asked())
    with pytest.raises(SpecError, match="is no folder"):
        evaluate_lm_eval(tmp_path / "ours", "lambada_openai", Asked(data="nowhere"))
    with pytest.raises(SpecError, match="--stride"):
        evaluate_lm_eval(tmp_path / "ours", "lambada_openai", Asked(stride=3))
    with pytest.raises(SpecError, match="--dynamic"):
        evaluate_lm_eval(tmp_path / "ours", "lambada_openai", Asked(dynamic=SGD()))


@pytest.mark.parametrize(
    "rows", ['{"question": "the"\n', "", '{"quest": "the", "answer": "stone"}\n'], ids=["broken", "empty", "column"]
)
def test_data_that_lm_eval_cannot_read_is_one_clear_line(sides: Any, tmp_path: Path, rows: str) -> None:
    sides(1)
    from corestone.recipes.harness import evaluate_lm_eval

    (tmp_path / "rows.jsonl").write_text(rows)
    facts = {"kind": "loglikelihood", "choices": "", "metric": "acc", "folder": tmp_path}
    (tmp_path / "stones.yaml").write_text(TASK.format(name="stones", **facts))
    with pytest.raises(DataError, match="lm-eval cannot run it") as caught:
        evaluate_lm_eval(tmp_path / "ours", "stones", Asked(data=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_defect_of_ours_is_not_told_as_one_of_the_data(sides: Any, tmp_path: Path, monkeypatch: Any) -> None:
    sides(1)
    from corestone.interop import harness
    from corestone.recipes.harness import evaluate_lm_eval

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(harness, "score_rows", broken)
    (tmp_path / "rows.jsonl").write_text('{"question": "the", "answer": "stone"}\n')
    facts = {"kind": "loglikelihood", "choices": "", "metric": "acc", "folder": tmp_path}
    (tmp_path / "stones.yaml").write_text(TASK.format(name="stones", **facts))
    with pytest.raises(ZeroDivisionError):
        evaluate_lm_eval(tmp_path / "ours", "stones", Asked(data=str(tmp_path)))
