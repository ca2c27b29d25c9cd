"""Recipes on pairs at published scale build with the published size and follow the published rates."""

from __future__ import annotations

import pytest
import torch

from corestone.core.errors import CorestoneError
from corestone.core.units import Duration
from corestone.data.images.spec import Pairs
from corestone.optim.build import rules_of
from corestone.optim.schedule import build_schedule
from corestone.recipes.catalogue import PUBLISHED, find_recipe
from corestone.recipes.pretrain import pretrain
from corestone.recipes.registry import MODELS
from corestone.recipes.spec import Run
from corestone.zoo.catalogue import find

NAMES = [name.removeprefix("multimodal/") for name in PUBLISHED if name.startswith("multimodal/")]
PAIRS = 400_000_000
"""Of WIT; only says how many steps an epoch has."""
IN_ZOO = {"siglip-b16": "siglip-b16-224", "basic-s-1": "coatnet-0", "basic-l-1": "coatnet-7"}
IN_ZOO |= {"basic-s-2": "basic-s", "basic-s-3": "basic-s", "basic-l-2": "basic-l", "basic-l-3": "basic-l"}


def built(name: str) -> torch.nn.Module:
    return MODELS.build(find_recipe(name, []).model, device="meta")


@pytest.mark.parametrize("name", NAMES)
def test_models_are_the_zoos_and_see_what_the_data_gives(name):
    run, model = find_recipe(name, []), built(name)
    seen, plain = run.data.augmentation, name.replace("-lion", "")
    assert run.model == find(IN_ZOO.get(plain, plain)).spec
    assert (model.image_size, model.channels) == (seen.size, seen.channels)
    assert run.training.batch_examples % run.training.micro_batch == 0
    if isinstance(run.data, Pairs):
        assert model.vocab_size == run.data.tokenizer.vocab_size
        assert model.context_length == run.data.context_length


@pytest.mark.parametrize("name", NAMES)
def test_matrices_decay_the_rest_does_not_and_second_stages_freeze_the_image_tower(name):
    decay = {"clip": 0.2, "siglip": 1e-4, "coca": 0.01, "basic": 0.05 if "lion" in name else 0.01}[name.split("-")[0]]
    parameters = dict(built(name).named_parameters())
    rules = rules_of(find_recipe(name, []).optimiser, parameters)
    frozen = {key for key, rule in rules.items() if rule.frozen}
    tower = {key for key in parameters if key.startswith("image_tower.")}
    assert frozen == (tower if name.startswith("basic") and name.endswith("-2") else set())
    trained = {key: tensor for key, tensor in parameters.items() if key not in frozen}
    assert {rules[key].weight_decay for key, tensor in trained.items() if tensor.ndim > 1} == {decay}
    assert {rules[key].weight_decay for key, tensor in trained.items() if tensor.ndim < 2} == {0.0}


def rate(run: Run, step: int) -> float:
    """Learning rate at a step, counted from 0."""

    def steps(length: Duration) -> int:
        batch = run.training.batch_examples
        return length.steps(batch_tokens=batch, batch_examples=batch, epoch_tokens=PAIRS)

    return run.optimiser.learning_rate * build_schedule(run.schedule, steps(run.training.length), steps)(step)


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("clip-vit-b32", 1_999, 5e-4),
        ("clip-vit-b32", 390_624, 0.0),  # 32 epochs of 400 M pairs are 390,625 steps
        ("clip-vit-l14", 999, 2e-4),
        ("clip-vit-l14-336", 1_999, 2e-5),
        ("clip-vit-l14-336", 12_206, 0.0),
        ("coca-base", 9_999, 8e-4),
        ("coca-base", 499_999, 0.0),
        ("basic-s-1", 19_999, 1e-3),
        ("basic-l-1", 19_999, 5e-4),
        ("basic-l-lion-1", 19_999, 1e-4),
    ],
)
def test_rates_follow_the_papers(name, step, expected):
    # Worst difference seen: 4.7e-13, where an epoch is no whole number of steps.
    assert rate(find_recipe(name, []), step) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_what_the_papers_print():
    clip, coca, siglip = (find_recipe(name, []) for name in ("clip-vit-b32", "coca-base", "siglip-b16"))
    assert (clip.training.batch_examples, str(clip.training.length)) == (32_768, "32 epochs")
    assert (clip.optimiser.beta1, clip.optimiser.beta2, clip.optimiser.eps) == (0.9, 0.98, 1e-6)
    assert (coca.training.batch_examples, str(coca.training.length)) == (65_536, "500000 steps")
    assert (coca.optimiser.beta1, coca.optimiser.beta2, coca.optimiser.kind) == (0.9, 0.999, "adafactor")
    assert (coca.objective.caption_weight, coca.objective.contrastive_weight) == (2.0, 1.0)
    assert (siglip.training.batch_examples, siglip.objective.loss) == (32_768, "sigmoid")
    assert {find_recipe(f"basic-l-{stage}", []).training.batch_examples for stage in (2, 3)} == {65_536}


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("basic")])
def test_a_stage_begins_with_the_one_before(name):
    run, stage = find_recipe(name, []), int(name[-1])
    assert (run.start.path if run.start else "") == ("" if stage == 1 else f"runs/{name[:-1]}{stage - 1}")
    assert run.optimiser.kind == ("lion" if "lion" in name else "adamw" if stage == 1 else "adafactor")


@pytest.mark.parametrize(("name", "missing"), [("clip-vit-b32", "pairs"), ("basic-s-1", "labelled")])
def test_missing_shards_are_one_clear_line(name, missing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorestoneError, match=rf"^{missing}/.*: no picture could be read \(10000 x missing shard\)$"):
        pretrain(find_recipe(name, []), tmp_path / "run")
