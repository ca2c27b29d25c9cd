"""Picture recipes at published scale build with the published size and follow the published rates."""

from __future__ import annotations

import pytest
import torch

from corestone.core.errors import CorestoneError
from corestone.core.units import Duration
from corestone.optim.build import rules_of
from corestone.optim.schedule import build_schedule
from corestone.recipes.catalogue import PUBLISHED, find_recipe
from corestone.recipes.pretrain import pretrain
from corestone.recipes.registry import MODELS
from corestone.recipes.spec import Run
from corestone.zoo.catalogue import find

NAMES = [name.removeprefix("vision/") for name in PUBLISHED if name.startswith("vision/")]
TRAIN_PICTURES = 1_281_167  # of ImageNet-1k; only says how many steps an epoch has


def built(name: str) -> torch.nn.Module:
    return MODELS.build(find_recipe(name, []).model, device="meta")


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_models_see_what_the_data_gives(name):
    run, model = find_recipe(name, []), built(name)
    seen = run.data.augmentation
    assert (model.image_size, model.channels) == (seen.size, seen.channels)
    assert run.training.batch_examples % run.training.micro_batch == 0


def test_sizes_are_the_counted_ones():
    """By timm: ViT-L/16 of ten classes at 384 pixels; ViT-B/16 without a head, then the head's two maps; CoAtNet-0."""
    assert count(built("vit-l16-cifar10")) == 303_701_002
    assert count(built("vit-b16")) == 85_798_656 + 768 * 769 + 1000 * 769
    assert count(built("coatnet-0")) == count(MODELS.build(find("coatnet-0").spec, device="meta"))


@pytest.mark.parametrize(("name", "decays"), [("vit-b16", 0.3), ("coatnet-0", 0.05), ("vit-l16-cifar10", 0.0)])
def test_matrices_decay_and_the_rest_does_not(name, decays):
    parameters = dict(built(name).named_parameters())
    rules = rules_of(find_recipe(name, []).optimiser, parameters)
    assert {rules[key].weight_decay for key, tensor in parameters.items() if tensor.ndim > 1} == {decays}
    assert {rules[key].weight_decay for key, tensor in parameters.items() if tensor.ndim < 2} == {0.0}


def rate(run: Run, step: int) -> float:
    """Learning rate at a step, counted from 0."""

    def steps(length: Duration) -> int:
        batch = run.training.batch_examples
        return length.steps(batch_tokens=batch, batch_examples=batch, epoch_tokens=TRAIN_PICTURES)

    return run.optimiser.learning_rate * build_schedule(run.schedule, steps(run.training.length), steps)(step)


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("vit-b16", 4_999, 1.5e-3),
        ("vit-b16", 9_999, 3e-3),
        ("vit-b16", 93_835, 0.0),  # 300 epochs are 93,835.3 steps
        ("coatnet-0", 9_999, 1e-3),
        ("coatnet-0", 93_835, 1e-5),
        ("vit-l16-cifar10", 499, 0.03),
        ("vit-l16-cifar10", 9_999, 0.0),
    ],
)
def test_rates_follow_the_papers(name, step, expected):
    # Worst difference seen: 1.2e-16.
    assert rate(find_recipe(name, []), step) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_what_the_papers_print():
    scratch, tuned, mixed = (find_recipe(name, []) for name in ("vit-b16", "vit-l16-cifar10", "coatnet-0"))
    for run in (scratch, mixed):
        assert (str(run.training.length), run.training.batch_examples) == ("300 epochs", 4096)
    assert {run.training.clip_norm for run in (scratch, tuned, mixed)} == {1.0}
    assert {block.dropout for block in scratch.model.stack.blocks} == {0.1}
    assert (tuned.optimiser.kind, tuned.optimiser.momentum, tuned.training.batch_examples) == ("sgd", 0.9, 512)
    assert (str(tuned.training.length), tuned.model.embedding.image_size) == ("10000 steps", (384, 384))
    assert tuned.start.zero_head
    assert (mixed.objective.smoothing, mixed.model.drop_path, mixed.data.augmentation.mix[0].alpha) == (0.1, 0.2, 0.8)


@pytest.mark.parametrize(("name", "missing"), [("vit-b16", "imagenet"), ("vit-l16-cifar10", "cifar-10-batches-bin")])
def test_missing_pictures_are_one_clear_line(name, missing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorestoneError, match=missing):
        pretrain(find_recipe(name, []), tmp_path / "run")
