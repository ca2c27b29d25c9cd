"""The verb, as a user types it, on a real checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from corestone.cli.generate import generate
from corestone.core.errors import CorestoneError, SpecError
from corestone.core.spec import to_yaml
from corestone.data.spec import BytePair
from corestone.data.tokenizer import build_tokenizer
from corestone.models.decoder import build_decoder
from corestone.train.checkpoint import write_checkpoint
from corestone.zoo.gpt import gpt2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = build_tokenizer(BytePair(vocab_size=300), ["the stones of the wall, and the wall of stones"] * 30)
    spec = gpt2(32, 2, 4, vocab_size=tokenizer.manifest.padded_vocab_size, context_length=16)
    spec = spec.model_copy(update={"init": spec.init.model_copy(update={"std": 0.4})})
    path = tmp_path_factory.mktemp("model") / "ours"
    weights = {name: value.detach() for name, value in build_decoder(spec, seed=1).named_parameters()}
    write_checkpoint(path, {"model.safetensors": weights}, {"model.yaml": to_yaml(spec), **tokenizer.files()})
    return path


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    verbs = typer.Typer()
    verbs.command("generate")(generate)
    verbs.command("other")(lambda: None)  # with one command only, typer drops its name
    return verbs


def run(app: typer.Typer, *words: str) -> str:
    done = CliRunner().invoke(app, ["generate", *words])
    if done.exception is not None:
        raise done.exception
    return done.output


def test_one_prompt_is_shown_with_its_text_and_the_seed_repeats_it(app: typer.Typer, folder: Path) -> None:
    words = (str(folder), "the wall", "--max-tokens", "30", "--precision", "float32", "--top-p", "0.9")
    first = run(app, *words, "--seed", "5")
    assert first.startswith("the wall")
    assert len(first) > len("the wall") + 5
    assert run(app, *words, "--seed", "5") == first
    assert run(app, *words, "--seed", "6") != first


def test_json_gives_the_same_texts_prompt_by_prompt(app: typer.Typer, folder: Path) -> None:
    words = ("--max-tokens", "12", "--greedy", "--precision", "float32")
    lines = [json.loads(line) for line in run(app, str(folder), "the", "stones", *words, "--json").splitlines()]
    assert [line["prompt"] for line in lines] == ["the", "stones"]
    assert run(app, str(folder), "the", *words) == "the" + lines[0]["text"] + "\n"


def test_without_a_prompt_text_comes_from_nothing(app: typer.Typer, folder: Path) -> None:
    assert json.loads(run(app, str(folder), "--json", "--max-tokens", "20", "--seed", "1"))["prompt"] == ""


@pytest.mark.parametrize("words", [("--precision", "int8"), ("--precision", "bfloat16")])
def test_every_precision_generates(app: typer.Typer, folder: Path, words: tuple[str, ...]) -> None:
    assert json.loads(run(app, str(folder), "the wall", "--json", "--max-tokens", "12", *words))["text"]


def test_a_prompt_longer_than_the_context_is_told(app: typer.Typer, folder: Path) -> None:
    output = run(app, str(folder), "q" * 40, "--max-tokens", "3")
    assert "note: prompt 1 has 41 tokens and the model's context 16: only its last 8 tokens are read" in output


def test_mistakes_are_refused_with_one_line(app: typer.Typer, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"generate: top_p: .*less than or equal to 1"):
        run(app, str(folder), "--top-p", "1.5")
    with pytest.raises(SpecError, match="contradict"):
        run(app, str(folder), "--greedy", "--temperature", "0.5")
    with pytest.raises(CorestoneError, match="no such folder"):
        run(app, str(tmp_path / "nowhere"))
