"""`corestone evaluate --dynamic` on runs of a recurrent model and of a decoder, with text of the user's own."""

from __future__ import annotations

import hashlib
import io
import random
from dataclasses import replace

import pytest
from rich.console import Console

from corestone.core.errors import CheckpointError, SpecError
from corestone.core.units import duration
from corestone.data.spec import Bytes, Component, Data, Files
from corestone.evaluate.spec import RMS, SGD
from corestone.objectives.spec import NextToken
from corestone.optim.spec import AdamW, Constant
from corestone.recipes.evaluate import evaluate
from corestone.recipes.pretrain import pretrain
from corestone.recipes.spec import Run, Samples
from corestone.recipes.tasks import Asked, evaluate_task
from corestone.train.archive import locate
from corestone.train.spec import Training
from corestone.zoo.gpt import gpt2
from corestone.zoo.mogrifier import mogrifier

MODELS = {
    "mogrifier": mogrifier(32, 1, 2, 4, 320),
    "gpt2": gpt2(32, 1, 2, vocab_size=320, context_length=64),
}


@pytest.fixture(params=MODELS)
def run(request, tmp_path):
    """A run folder: one text of 40 invented words, whose end is held out; names there are new."""
    words = random.Random(0).choices([f"w{number:02d}" for number in range(40)], k=3000)
    names = random.Random(1).choices(["1w2w3w4w5", "99w88w77", "0123456789"], k=200)
    lines = (word + ("\n" if place % 4 == 0 else " ") for place, word in enumerate([*words, *names]))
    (tmp_path / "text.txt").write_text("".join(lines), encoding="utf-8")
    source = Files(paths=(str(tmp_path / "text.txt"),), validation_percent=12.0)
    recipe = Run(
        name="tiny",
        model=MODELS[request.param],
        objective=NextToken(),
        data=Data(components=(Component(source=source),), tokenizer=Bytes(), context_length=64),
        optimiser=AdamW(learning_rate=0.01),
        schedule=Constant(),
        training=Training(length=duration("30 steps"), batch_tokens=1024, precision="float32"),
        samples=Samples(prompts=()),
    )
    pretrain(recipe, tmp_path / "run", console=Console(quiet=True))
    return tmp_path / "run"


def bits(result, side):
    return next(metric["value"] for metric in result[side] if metric["name"] == "bits_per_byte")


@pytest.mark.parametrize("spec", [SGD(eta=0.3, segment=16), RMS(eta=5e-4, segment=16)], ids=["sgd", "rms"])
def test_both_figures_stand_in_one_table(run, spec):
    """New names come again and again: a model that goes on learning saves bits."""
    (before,) = evaluate(run, precision="float32", console=Console(quiet=True))
    weights = hashlib.sha256((locate(run) / "model.safetensors").read_bytes()).hexdigest()
    output = io.StringIO()
    (result,) = evaluate(run, console=Console(file=output, width=140), dynamic=spec)
    assert result["model"] == before["model"]
    assert result["floors"] == before["floors"]
    assert [metric["name"] for metric in result["dynamic"]] == [metric["name"] for metric in result["model"]]
    assert result["dynamic_settings"] == spec.model_dump(mode="json")
    assert bits(result, "dynamic") < bits(result, "model") - 0.2
    assert f"bits_per_byte, dynamic ({spec.kind})" in output.getvalue()
    assert weights == hashlib.sha256((locate(run) / "model.safetensors").read_bytes()).hexdigest()


def test_a_bare_checkpoint_learns_by_sgd_and_has_no_text_for_rms(run, tmp_path):
    checkpoint, text = locate(run), str(tmp_path / "text.txt")
    (result,) = evaluate(checkpoint, text, console=Console(quiet=True), dynamic=SGD(eta=0.1, segment=512))
    assert bits(result, "dynamic") < bits(result, "model")
    with pytest.raises(CheckpointError, match="give the run's folder, or use sgd"):
        evaluate(checkpoint, text, console=Console(quiet=True), dynamic=RMS())


def test_a_task_that_reads_a_text_has_both_figures_and_the_settings(run, tmp_path):
    line = " ".join("1w2w3w4w5_99w88w77_w05")
    (tmp_path / "ptb.char.test.txt").write_text(f"{line} \n" * 30, encoding="utf-8")
    asked = Asked(data=str(tmp_path / "ptb.char.test.txt"), dynamic=RMS(eta=5e-4, segment=16))
    result = evaluate_task(run, "ptb_char", asked, console=Console(quiet=True))
    static, dynamic = result["model"]
    assert (static["name"], dynamic["name"]) == ("bits_per_character", "bits_per_character_dynamic")
    assert static["n"] == dynamic["n"] == 30 * 23
    assert dynamic["value"] < static["value"] - 0.2
    assert "eta 0.0005" in dynamic["convention"]
    same = evaluate_task(run, "ptb_char", replace(asked, dynamic=SGD(eta=0.0)), console=Console(quiet=True))["model"]
    assert same[1]["value"] == pytest.approx(same[0]["value"], rel=1e-6)
    with pytest.raises(SpecError, match="--dynamic: means nothing to lambada_openai"):
        evaluate_task(run, "lambada_openai", asked, console=Console(quiet=True))
