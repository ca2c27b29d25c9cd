"""Runs on pictures keep the promises of runs on text."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from corestone.cli.main import app
from corestone.core.errors import CheckpointError, CorestoneError, SpecError
from corestone.core.spec import override, plain
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.evaluate import evaluate
from corestone.recipes.load import load_model
from corestone.recipes.pretrain import pretrain
from corestone.train.checkpoint import read_tensors
from corestone.zoo.mnist_cnn import mnist_cnn

QUIET = Console(quiet=True)
EVERYTHING = (
    "{size: [28, 28], channels: 1, steps: [{kind: random_affine, degrees: 20, translate: 0.2}, "
    "{kind: random_erasing, probability: 0.5}], mix: [{kind: mixup}, {kind: cutmix}], mean: [0.5], std: [0.5]}"
)
SHORT = [
    "training.length=6 steps",
    "schedule.warmup=2 steps",
    "training.batch_examples=16",
    "training.precision=float32",
    "training.average={decay: 0.9}",
    "evaluation.pictures_while_training=40",
    "rhythm.checkpoint=3 steps",
    "rhythm.evaluate=3 steps",
    "rhythm.keep_last=9",
    f"data.augmentation={EVERYTHING}",
]


def run(*more: str, name: str = "mnist"):
    """A recipe cut to seconds."""
    small = plain(mnist_cnn(7, (8, 8, 8, 8)))
    return find_recipe(name, [*([f"model={json.dumps(small)}"] if name == "mnist" else []), *SHORT, *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of six steps with all augmentations and averaged weights."""
    folder = tmp_path_factory.mktemp("mnist") / "run"
    pretrain(run(), folder, console=QUIET)
    return folder


def tensors(folder, step: int):
    path = folder / "checkpoints" / f"step-{step:07d}"
    names = ("model.safetensors", "optimizer.safetensors", "average.safetensors")
    return {(name, key): value for name in names for key, value in read_tensors(path / name).items()}


def test_a_resumed_run_ends_with_the_same_bits(trained, tmp_path):
    """Weights, optimiser, averages, statistics of batch norms; a further evaluation in between changes nothing."""
    cut = tmp_path / "cut"
    shutil.copytree(trained, cut)
    shutil.rmtree(cut / "checkpoints" / "step-0000006")
    pretrain(run("rhythm.evaluate=1 steps"), cut, console=QUIET)
    whole, resumed = tensors(trained, 6), tensors(cut, 6)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert any(not torch.equal(value, tensors(trained, 3)[key]) for key, value in whole.items())


def test_workers_change_nothing(trained, tmp_path):
    pretrain(run("data.workers=4", "data.prefetch=0"), tmp_path / "run", console=QUIET)
    ended, wanted = tensors(tmp_path / "run", 6), tensors(trained, 6)
    assert all(torch.equal(wanted[key], ended[key]) for key in wanted)


def test_the_average_is_what_is_scored(trained):
    found = json.loads((trained / "evaluation.json").read_text())
    assert found["split"] == "test"
    assert found["precision"] == "float32"  # the recipe's, whatever this machine multiplies faster
    names = [metric["name"] for metric in found["model"]]
    assert names[:3] == ["nats", "top1_accuracy", "top5_accuracy"]
    assert {floor["name"] for floor in found["floors"]} >= {"majority_class_accuracy", "pixel_ridge_accuracy"}
    n = found["model"][0]["n"]
    assert sum(map(sum, found["confusion"])) == n
    wrong = n - sum(row[place] for place, row in enumerate(found["confusion"]))
    assert len(found["misclassified"]) == wrong
    by_seven, by_hundred = (
        evaluate(trained, batch_size=size, precision="float32", console=QUIET)[0]["model"] for size in (7, 100)
    )
    for one, other in zip(by_seven, by_hundred, strict=True):
        assert one["value"] == pytest.approx(other["value"], abs=1e-6)


def test_a_vision_transformer_learns_from_the_same_record(tmp_path):
    pretrain(run(name="mnist-vit"), tmp_path / "vit", console=QUIET)
    assert (tmp_path / "vit" / "report.html").exists()


def test_what_reads_text_says_so(trained):
    with pytest.raises(CheckpointError, match="reads pictures"):
        load_model(trained)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["training.batch_examples=null", "training.batch_tokens=64"], "counts in training.batch_examples"),
        (["data.augmentation.size=[32, 32]"], "28 x 28 x 1"),
        (["model.classes=11"], "names 11 classes and the data has 10"),
        (["objective={kind: next_token}"], "next_token"),
        (["training.length=1e6 tokens"], "counts in pictures"),
        (["data.source.name=mnist5"], "mnist5k"),
    ],
)
def test_mistakes_are_told(tmp_path, change, message):
    with pytest.raises((SpecError, CorestoneError), match=message):
        pretrain(override(run(), change), tmp_path / "run", console=QUIET)


def test_the_ledger_knows_pictures(trained):
    told = CliRunner().invoke(app, ["ledger", str(trained), "--step", "2"]).output.splitlines()
    assert told[0] == "step 2: 16 pictures"
    assert len(told) == 17
    assert all(name.startswith("row:") for name in told[1:])
    steps = CliRunner().invoke(app, ["ledger", str(trained), "--document", told[1]]).output.splitlines()
    assert "2" in steps[1:]
