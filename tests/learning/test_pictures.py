"""Models that see pictures learn: shipped recipes beat what needs no model, on digits and drawings that were held out.

That a vote of several kinds is at least as good as its best member takes an hour of training and is measured by hand:

    for seed in 0 1 2; do for recipe in mnist mnist-m5 mnist-m7; do
        corestone pretrain $recipe seed=$seed --run votes/$recipe-$seed
    done; done
    corestone vote votes/*
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from corestone.parallel.collectives import World
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.images import open_images
from corestone.recipes.pretrain import pretrain
from corestone.recipes.spec import Run


def accuracies(run: Run, folder: Path) -> dict[str, float]:
    """Train; accuracies on the test side, the model's as `top1` and the floors', by name."""
    pretrain(run, folder)
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["split"] == "test"
    values = {metric["name"]: metric["value"] for part in ("model", "floors") for metric in found[part]}
    shown = {name.removesuffix("_accuracy"): value for name, value in values.items() if name.endswith("_accuracy")}
    print(run.name, {name: round(value, 4) for name, value in shown.items()})
    return shown


def nearest_picture(run: Run) -> float:
    """How often the nearest training picture, by pixels, is of the same class as one of the test side."""
    data = open_images(run, World(rank=0, size=1, device=torch.device("cpu")))
    sides = [data.sides[name] for name in ("train", "test")]
    known, asked = (torch.tensor(side.array).flatten(1).float() for side in sides)
    nearest = torch.cdist(asked, known).argmin(dim=1).numpy()
    return float((sides[0].labels[nearest] == sides[1].labels).mean())


@pytest.mark.slow
def test_one_convolutional_network_names_98_of_100_digits(tmp_path):
    """M3 as shipped, three to four minutes on two free cores. The aim is 98.5 %. Seen: 98.8 % (n = 518), where the
    nearest training picture has 93.8 %."""
    run = find_recipe("mnist", [])
    found, floor = accuracies(run, tmp_path / "run"), nearest_picture(run)
    assert found["top1"] >= 0.98
    assert found["top1"] > floor + 0.02


@pytest.mark.slow
def test_a_vision_transformer_beats_ridge_regression(tmp_path):
    """As shipped, some eight minutes on two free cores. Seen: 90.4 % of the validation side, where ridge regression has
    83 %."""
    found = accuracies(find_recipe("mnist-vit", []), tmp_path / "run")
    assert found["top1"] > found["pixel_ridge"] + 0.02


@pytest.mark.slow
def test_clip_finds_names_for_an_artist_it_never_saw(tmp_path):
    """As shipped, some ten minutes on one busy core. Seen with two seeds: 32.9 and 31.6 % of 3,311 drawings find their
    name among 3,311; the nearest training drawing has the right one for 25.5 %, chance is 0.03 %."""
    pretrain(find_recipe("clip-emoji", []), tmp_path / "run")
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    value = {metric["name"]: metric["value"] for part in ("model", "floors") for metric in found[part]}
    assert value["text_recall_at_1"] > value["nearest_picture_has_the_caption"] + 0.04
