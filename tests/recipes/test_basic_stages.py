"""BASIC's three stages follow one another: classifier, frozen image tower with texts, both towers."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from corestone.cli.main import main
from corestone.core.errors import CheckpointError
from corestone.nn.position import resized_offsets
from corestone.nn.spec import PatchEmbedding
from corestone.objectives.spec import Captioning
from corestone.optim.spec import Lion
from corestone.parallel.collectives import World
from corestone.recipes.build import Built
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.load import open_data
from corestone.recipes.pretrain import pretrain
from corestone.train.checkpoint import read_tensors
from corestone.zoo.coca import coca

STEPS = 3
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "grey": (120, 120, 120)}
SHORT = [
    f"training.length={STEPS} steps",
    "training.batch_examples=16",
    "training.precision=float32",
    "schedule.warmup=1 steps",
    "rhythm.evaluate=null",
    "rhythm.checkpoint=1 steps",
    "rhythm.keep_last=9",
    "evaluation.batch_size=20",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty pictures of four colours, with class and caption; a line of overrides per stage."""
    folder = tmp_path_factory.mktemp("stages")
    generator, lines = np.random.default_rng(0), []
    for number in range(40):
        name, colour = list(COLOURS.items())[number % 4]
        pixels = np.clip(np.array(colour) + generator.integers(-25, 25, (32, 32, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        lines.append(json.dumps({"path": f"{number}.png", "label": name, "caption": f"a {name} square"}))
    (folder / "table.jsonl").write_text("\n".join(lines))
    return folder


def changes(folder, stage: int) -> list[str]:
    table = {"kind": "table", "paths": [str(folder / "table.jsonl")], "image_key": "path", "validation_percent": 30}
    keys = {"label_key": "label"} if stage == 1 else {"caption_key": "caption"}
    more = ["model.classes=4"] if stage == 1 else ["data.tokenizer={kind: bytes}"]
    return [f"data.source={json.dumps({**table, **keys})}", *SHORT, *more]


@pytest.fixture(scope="module")
def runs(folder):
    """The three recipes, one after the other, by the command line and their own start paths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (1, 2, 3):
            patch.setattr("sys.argv", ["corestone", "pretrain", f"basic-emoji-{stage}", *changes(folder, stage)])
            with pytest.raises(SystemExit) as end:
                main()
            assert end.value.code == 0
    return folder / "runs"


def tensors(runs, stage: int, file: str = "model.safetensors", step: int = STEPS) -> dict[str, torch.Tensor]:
    return read_tensors(runs / f"basic-emoji-{stage}" / "checkpoints" / f"step-{step:07d}" / file)


TOWER = "image_tower."


def tower(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(TOWER): tensor for name, tensor in found.items() if name.startswith(TOWER)}


def test_the_second_stage_leaves_the_classifiers_tower_as_it_was(runs):
    """Weights and running statistics to the bit, and the optimiser knows nothing of it; all else is trained."""
    classifier, second, first = tensors(runs, 1), tensors(runs, 2), tensors(runs, 2, step=1)
    body = {name: tensor for name, tensor in classifier.items() if not name.startswith("head.")}
    assert tower(second).keys() == body.keys()
    assert all(torch.equal(tower(second)[name], tensor) for name, tensor in body.items())
    rest = {name for name in second if not name.startswith(TOWER)}
    assert all(not torch.equal(first[name], second[name]) for name in rest)
    known = {name.split("/")[0] for name in tensors(runs, 2, "optimizer.safetensors")}
    assert known == rest


def test_the_third_stage_trains_both_towers_from_the_second(runs):
    second, third = tensors(runs, 2), tensors(runs, 3)
    assert second.keys() == third.keys()
    moved = {name for name in second if not torch.equal(second[name], third[name])}
    assert {name for name in second if name.endswith("weight")} <= moved
    for stage in (2, 3):
        begun = json.loads((runs / f"basic-emoji-{stage}/checkpoints/step-0000003/start.json").read_text())
        assert begun["path"] == f"runs/basic-emoji-{stage - 1}"


def test_a_stage_with_a_frozen_tower_resumes_with_the_same_bits(runs, folder, monkeypatch):
    monkeypatch.chdir(folder)
    again = folder / "again"
    shutil.copytree(runs / "basic-emoji-2", again)
    shutil.rmtree(again / "checkpoints" / f"step-{STEPS:07d}")
    pretrain(find_recipe("basic-emoji-2", changes(folder, 2)), again, console=Console(quiet=True))
    for file in ("model.safetensors", "optimizer.safetensors"):
        whole, resumed = tensors(runs, 2, file), read_tensors(again / "checkpoints" / f"step-{STEPS:07d}" / file)
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def built(folder, stage: int, *more: str, dtype: torch.dtype = torch.float32) -> Built:
    run = find_recipe(f"basic-emoji-{stage}", [*changes(folder, stage), *more])
    world = World(rank=0, size=1, device=torch.device("cpu"))
    return Built(run, open_data(run, world), world, dtype)


def test_what_a_tower_is_taken_from_is_told(runs, folder, monkeypatch):
    monkeypatch.chdir(folder)
    fresh = built(folder, 2)
    for part in (f"{fresh.start.taken} tensors of runs/basic-emoji-1", "head.dense.weight", "text_tower.*"):
        assert part in fresh.start.told()
    assert fresh.start.fresh == ["image_projection.*", "similarity.*", "text_tower.*"]
    monkeypatch.chdir(runs / "basic-emoji-1")
    with pytest.raises(CheckpointError, match=r"does not fit the model \(.*image_tower.stages.0.0"):
        built(folder, 2, f"start.path={runs / 'basic-emoji-1'}", "model.image.stages.0.width=36")


def test_a_model_of_pictures_alone_starts_no_captioner(runs, folder):
    patches = PatchEmbedding(image_size=(32, 32), patch_size=8, class_token=False)
    model = coca(32, 2, (1, 64), (1, 64), vocab_size=320, picture=patches, queries=3)
    run = find_recipe("basic-emoji-2", [*changes(folder, 2), f"start.path={runs / 'basic-emoji-1'}"])
    optimiser = Lion(learning_rate=1e-4)
    captioned = run.model_copy(update={"model": model, "objective": Captioning(), "optimiser": optimiser})
    world = World(rank=0, size=1, device=torch.device("cpu"))
    with pytest.raises(CheckpointError, match=r"holds no tokenizer-manifest.json, and this run reads text"):
        Built(captioned, open_data(captioned, world), world, torch.float32)


SMALLER = [
    "data.augmentation.size=[16, 48]",
    "data.augmentation.steps=[{kind: resize}]",
]


@pytest.mark.parametrize(("stage", "begun"), [(2, 1), (3, 2)])
def test_tables_of_offsets_follow_the_size_of_the_pictures(runs, folder, stage, begun):
    """Of a classifier as of a two-tower model; everything else is taken as it is."""
    more = [f"start.path={runs / f'basic-emoji-{begun}'}", "model.image.image_size=[16, 48]", *SMALLER]
    fresh = built(folder, stage, *more)
    theirs, ours = tensors(runs, begun), fresh.weights.masters
    assert "2 tables of offsets of" in fresh.start.told()
    assert "from 4x4 to 2x6 places" in fresh.start.told()
    for name, tensor in ours.items():
        if not name.startswith(TOWER):
            continue
        old = theirs[name if begun == 2 else name.removeprefix(TOWER)]
        if name.endswith("mixer.position.weight"):
            sizes = {"2": ((4, 4), (2, 6)), "3": ((2, 2), (1, 3))}[name.split(".")[2]]
            old = resized_offsets(old, *sizes)
        assert torch.equal(tensor, old), name
    assert fresh.start.taken == len(theirs) - 4 - (4 if begun == 1 else 0)


def test_masters_of_a_frozen_tower_are_kept_in_bfloat16_runs(runs, folder):
    """Its float32 weights are saved, and get no gradient."""
    fresh = built(folder, 2, f"start.path={runs / 'basic-emoji-1'}", dtype=torch.bfloat16)
    batch = fresh.loader.batch(0)
    fresh.objective.gradients(fresh.model, [batch.rows(0, 9), batch.rows(9, 16)], [0, 1])
    trained = [name for name in fresh.weights.masters if not name.startswith(TOWER)]
    assert len(fresh.weights.gradients()) == len(trained)
    assert {name for name, master in fresh.weights.masters.items() if master.grad is not None} == set(trained)
    fresh.optimiser.step()
    fresh.weights.publish()
    frozen = tower(fresh.weights.masters)
    assert all(torch.equal(tensors(runs, 1)[name], master) for name, master in frozen.items())


def test_averages_of_a_frozen_tower_are_itself(runs, folder):
    fresh = built(folder, 2, f"start.path={runs / 'basic-emoji-1'}", "training.average={decay: 0.9}")
    fresh.objective.gradients(fresh.model, [fresh.loader.batch(0)], [0])
    fresh.optimiser.step()
    fresh.updated()
    averages = tower(fresh.average.averages)
    assert averages
    assert all(torch.equal(tensors(runs, 1)[name], average) for name, average in averages.items())
    with fresh.given_away() as model:  # which takes statistics anew, but for frozen norms
        assert all(torch.equal(tensors(runs, 1)[n.removeprefix(TOWER)], b) for n, b in model.named_buffers())
