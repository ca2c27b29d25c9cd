"""`corestone evaluate --task`: every protocol on a checkpoint, as a user types it; mistakes are one clear line."""

from __future__ import annotations

import gzip
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from known_models import BYTES, SEPARATOR
from typer.testing import CliRunner

from corestone.cli.evaluate import evaluate
from corestone.core.batch import plain_batch
from corestone.core.errors import CorestoneError
from corestone.core.spec import to_yaml
from corestone.evaluate.published import published
from corestone.models.decoder import DecoderModel, build_decoder
from corestone.recipes.registry import MODELS
from corestone.recipes.tasks import TASKS
from corestone.train.checkpoint import write_checkpoint
from corestone.zoo.bert import bert
from corestone.zoo.gpt import gpt2

FILES = {
    "wiki.test.tokens": " \n = Stone walls = \n \n A wall of field stones , dry @-@ built . \n",
    "ptb.test.txt": " the <unk> rose N points \n no it was n't a monday \n",
    "ptb.char.test.txt": "n o _ i t\n< u n k > _ N\n",
    "lambada_test.jsonl": "".join(
        json.dumps({"text": f"The {stone} lay on the {stone}, and under the {stone}"}) + "\n"
        for stone in ("stone", "slate", "flint", "marble", "tile")
    ),
    "lambada.txt": "the stone lay on the stone\nthe tile lay on the tile\n",
    "body.jsonl": "".join(json.dumps({"body": f"The {n} stones lay on the {n} stones"}) + "\n" for n in ("two", "ten")),
    "talk.txt": "It was said that the two of them had seen the old stone wall again and again. " * 12,
}
DATA = {
    "wikitext103": "wiki.test.tokens",
    "wikitext103_natural": "wiki.test.tokens",
    "ptb": "ptb.test.txt",
    "ptb_char": "ptb.char.test.txt",
    "lambada_openai": "lambada_test.jsonl",
    "lambada_standard": "lambada.txt",
    "last_word": "talk.txt",
    "c4": "c4-validation.00000-of-00008.json.gz",
}
METRICS = {
    "wikitext103": ["word_perplexity", "token_perplexity"],
    "wikitext103_natural": ["word_perplexity", "token_perplexity"],
    "ptb": ["word_perplexity", "token_perplexity"],
    "ptb_char": ["bits_per_character"],
    "lambada_openai": ["last_word_accuracy", "last_word_perplexity"],
    "lambada_standard": ["last_word_accuracy", "last_word_perplexity"],
    "last_word": ["last_word_accuracy", "last_word_perplexity"],
    "c4": ["bits_per_byte", "token_perplexity"],
}
DOCUMENTS = ["A wall of stones.", "Ünder the wall, a gate.", "A wall of stones."]


def tiny() -> DecoderModel:
    spec = gpt2(32, 2, 4, vocab_size=BYTES.manifest.padded_vocab_size, context_length=128)
    init = spec.init.model_copy(update={"std": 0.3, "token_std": None, "position_std": 0.3})
    return build_decoder(spec.model_copy(update={"init": init}), seed=5)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a checkpoint and excerpts in the field's formats."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORESTONE_CACHE", str(tmp_path / "cache"))
    model = tiny()
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    write_checkpoint(
        tmp_path / "ours", {"model.safetensors": tensors}, {"model.yaml": to_yaml(model.spec), **BYTES.files()}
    )
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    rows = "".join(json.dumps({"text": text, "url": "x"}) + "\n" for text in DOCUMENTS)
    (tmp_path / DATA["c4"]).write_bytes(gzip.compress(rows.encode()))
    return tmp_path


def corestone(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(evaluate)
    return CliRunner().invoke(app, ["ours", "--precision", "float32", *arguments], env={"COLUMNS": "200"})


def found(*arguments: str) -> dict[str, Any]:
    done = corestone("--json", *arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_every_task_is_tried_here() -> None:
    assert DATA.keys() == METRICS.keys() == TASKS.keys()


@pytest.mark.parametrize("task", DATA)
def test_a_task_gives_its_metrics_with_n_and_convention_whatever_the_batch_size(folder: Path, task: str) -> None:
    one, many = (found("--task", task, "--data", DATA[task], "--batch-size", size) for size in ("1", "5"))
    assert [metric["name"] for metric in one["model"]] == METRICS[task]
    for metric, other in zip(one["model"], many["model"], strict=True):
        assert metric["value"] == pytest.approx(other["value"], rel=1e-4)  # the exponential of up to 60 nats
        assert metric["n"] == other["n"] > 0
        assert len(metric["convention"]) > 40
    shown = corestone("--task", task, "--data", DATA[task]).output
    for metric in one["model"]:
        assert f"{metric['name']}: {metric['convention'][:30]}" in shown
    for row in published(task):
        assert f"published: {row.system}" in shown
        assert row.caveat[:30] in shown
    assert one["published"] == [row.model_dump(mode="json") for row in published(task)]


def test_word_perplexity_is_that_of_the_whole_file_row_by_row(folder: Path) -> None:
    """By hand: one row in double precision (the file fits), divided by words and ends of lines."""
    text = FILES["wiki.test.tokens"]
    tokens = torch.tensor([[SEPARATOR, *text.encode()]])
    model = tiny().double().eval()
    with torch.no_grad():
        log_p = torch.log_softmax(model.head(model(plain_batch(tokens[:, :-1])).hidden), dim=-1)
    nats = -float(log_p.gather(2, tokens[:, 1:, None]).sum())
    words = len(text.split()) + text.count("\n")
    word, token = found("--task", "wikitext103", "--data", "wiki.test.tokens")["model"]
    assert (word["n"], token["n"]) == (words, len(text))
    assert math.log(word["value"]) == pytest.approx(nats / words, rel=1e-5)  # worst seen 4.4e-10
    assert math.log(token["value"]) == pytest.approx(nats / len(text), rel=1e-5)


def test_shorter_rows_and_overlap_are_taken_and_said(folder: Path) -> None:
    arguments = ("--task", "ptb", "--data", "ptb.test.txt", "--context", "16")
    apart, over, whole = found(*arguments), found(*arguments, "--stride", "4"), found(*arguments[:4])
    values = [result["model"][0]["value"] for result in (apart, over, whole)]
    assert len(set(values)) == 3
    assert "rows of up to 16 tokens, 4 new" in over["model"][0]["convention"]


def test_c4_keeps_repeated_documents_and_counts_bytes(folder: Path) -> None:
    bits, token = found("--task", "c4", "--data", DATA["c4"])["model"]
    n_bytes = sum(len(text.encode()) for text in DOCUMENTS)
    assert (bits["n"], token["n"]) == (n_bytes, n_bytes + len(DOCUMENTS))
    assert bits["value"] * math.log(2) * n_bytes == pytest.approx(math.log(token["value"]) * token["n"])


@pytest.mark.parametrize("task", ["lambada_openai", "c4"])
def test_text_under_another_key_is_named_behind_the_file(folder: Path, task: str) -> None:
    done = corestone("--task", task, "--data", "body.jsonl")
    assert isinstance(done.exception, CorestoneError), done.output
    assert "body.jsonl, line 1: no key 'text': " in str(done.exception)
    assert "it has: body; write 'PATH?text_key=NAME', or where a recipe" in str(done.exception)
    result = found("--task", task, "--data", "body.jsonl?text_key=body")
    assert result["documents"] == 2
    assert result["data"] == "body.jsonl?text_key=body"


def test_examples_change_the_question(folder: Path) -> None:
    plain, shown = (
        found("--task", "lambada_openai", "--data", "lambada_test.jsonl", "--shots", shots) for shots in ("0", "2")
    )
    assert plain["model"][1]["value"] != shown["model"][1]["value"]
    assert "2 examples, fill-in-the-blank form of GPT-3" in shown["model"][0]["convention"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "lambda_openai"], "unknown task 'lambda_openai': did you mean 'lambada_openai'"),
        (["--task", "ptb"], r"ptb: needs its test file, .* give --data FILE \(ptb.test.txt\)"),
        (["--task", "ptb", "--data", "ptb.tset.txt"], "did you mean .*ptb.test.txt"),
        (["--task", "ptb", "--data", "lambada_test.jsonl"], "row 1: 'The' has capital letters"),
        (["--task", "ptb", "--data", "ptb.test.txt", "--shots", "2"], "--shots: means nothing to ptb"),
        (["--task", "c4", "--data", "x", "--stride", "2"], "--stride: means nothing to c4"),
        (["--task", "ptb", "--data", "ptb.test.txt", "--stride", "200"], "not within 1 and the context of 128"),
        (["--task", "ptb", "--data", "ptb.test.txt", "--context", "129"], "reads at most 128 tokens, not 129"),
        (["--task", "last_word"], "a checkpoint has no data of its own; name some with --data"),
        (["--task", "last_word", "--data", "ptb.test.txt"], "no passage that ends with a repeated word"),
        (["--shots", "2"], "belong to a task; name one with --task"),
    ],
)
def test_a_mistake_is_one_clear_line(folder: Path, arguments: list[str], message: str) -> None:
    done = corestone(*arguments)
    assert isinstance(done.exception, CorestoneError), done.output
    with pytest.raises(CorestoneError, match=message):
        raise done.exception
    assert "\n" not in str(done.exception)


def test_lm_eval_is_asked_for_where_it_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "corestone.recipes.harness", raising=False)
    done = corestone("--task", "lm-eval:lambada_openai")
    assert isinstance(done.exception, CorestoneError)
    assert "pip install 'corestone[eval]'" in str(done.exception)


@pytest.mark.parametrize("task", DATA)
def test_published_rows_name_metrics_that_the_task_gives(task: str) -> None:
    for row in published(task):
        assert set(row.metrics) <= set(METRICS[task])
        assert set(row.tasks) <= set(TASKS)
        assert row.caveat


def test_a_model_that_does_not_predict_next_tokens_is_refused(folder: Path) -> None:
    spec = bert(32, 2, 4, BYTES.manifest.padded_vocab_size, 128).model_copy(update={"pooler": None})
    tensors = {name: parameter.detach() for name, parameter in MODELS.build(spec, 0, "cpu").named_parameters()}
    files = {"model.yaml": to_yaml(spec), **BYTES.files()}
    shutil.rmtree(folder / "ours")
    write_checkpoint(folder / "ours", {"model.safetensors": tensors}, files)
    done = corestone("--task", "ptb", "--data", "ptb.test.txt")
    assert isinstance(done.exception, CorestoneError), done.exception
    assert "ours: learnt masked_token, and a task scores next tokens" in str(done.exception)
