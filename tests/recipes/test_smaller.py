"""Recipes made smaller: whole heads of the same width, every kind of layer, schedules that shrink with the length."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch

from corestone.core.spec import parse, plain
from corestone.plan.ladder import Budget, Size, Target, choose
from corestone.recipes.build import build_model
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.ladder import notes
from corestone.recipes.ladder_cost import Measured
from corestone.recipes.mup import at_width, mup
from corestone.recipes.smaller import APART, of_one_size, shortened, smaller
from corestone.recipes.spec import Run


@pytest.mark.parametrize(
    "name",
    [
        "shakespeare",
        "shakespeare-bert",
        "shakespeare-palm",
        "shakespeare-t5",
        "shakespeare-h3",
        "shakespeare-mogrifier",
        "shakespeare-electra",
        "mnist",
        "mnist-vit",
        "coca-emoji",
    ],
)
def test_smaller_models_are_built_and_are_as_large_as_told(name):
    run = find_recipe(name, [])
    found = smaller(run, 6, 1 / 60)
    assert len(found) >= 3
    assert found[-1].run == run
    counts = [one.parameters for one in found]
    assert all(after >= APART * before for before, after in pairwise(counts))
    assert counts[0] >= counts[-1] / 60
    for one in (found[0], found[-1]):
        model = build_model(one.run.model, 0, torch.device("cpu"))
        assert sum(parameter.numel() for parameter in model.parameters()) == one.parameters
    for one in found[:-1]:  # nothing but the model's sizes has changed
        assert {key: value for key, value in plain(one.run).items() if key != "model"} == {
            key: value for key, value in plain(run).items() if key != "model"
        }


def test_heads_keep_their_width_and_one_head_of_keys_stays_one():
    run = find_recipe("shakespeare-palm", [])
    for one in smaller(run, 6, 1 / 60):
        stack = one.run.model.stack
        before = run.model.stack
        for block in stack.blocks:
            assert block.mixer.head_dim == before.blocks[0].mixer.head_dim
            assert block.mixer.kv_heads == 1
            assert block.mixer.num_heads * before.width == before.blocks[0].mixer.num_heads * stack.width
            assert block.feedforward.hidden_dim * before.width == before.blocks[0].feedforward.hidden_dim * stack.width
        assert len(stack.blocks) >= 2
        assert one.run.model.embedding == run.model.embedding


def test_every_kind_of_layer_is_left():
    """H3 layers with attention among them, and a captioner whose last blocks alone see the picture."""
    for name, path in (("shakespeare-h3", "stack"), ("coca-emoji", "decoder")):
        run = find_recipe(name, [])
        for one in smaller(run, 6, 1 / 60):
            kinds = [
                {(type(block.mixer), block.cross is None) for block in vars(model)[path].blocks}
                for model in (run.model, one.run.model)
            ]
            assert kinds[0] == kinds[1]


def test_what_cannot_be_made_smaller_stands_alone():
    begun = find_recipe("shakespeare", ["start={path: runs/other}"])
    assert [one.run for one in smaller(begun, 6, 1 / 60)] == [begun]
    assert "begins with given weights" in of_one_size(begun)


def test_what_mup_made_for_one_width_is_not_made_narrower():
    """Its rates and deviations are numbers for that width, which a narrower model would keep."""
    run = find_recipe("shakespeare", [])
    wide = mup(at_width(run, 512), 128)
    assert [one.run for one in smaller(wide, 6, 1 / 60)] == [wide]
    assert "model.init.rules" in of_one_size(wide)
    tree = json.loads(json.dumps(plain(wide)))
    tree["model"]["init"]["rules"] = None
    rates = parse(Run, tree, "rates alone")
    assert [one.run for one in smaller(rates, 6, 1 / 60)] == [rates]
    assert "(lr_scale=0.25)" in of_one_size(rates)
    for other in (mup(at_width(run, 128), 128), find_recipe("shakespeare-h3", [])):  # the base width; rates of states
        assert of_one_size(other) == ""
    sizes = [Size(10**6, 1e9, 0.01, 1.0)]
    target = Target(10**6, 10_000, 1e9)
    measured = [Measured(smaller(wide, 6, 1 / 60)[0], sizes[0])]
    (said,) = notes(choose(sizes, target, Budget(1e13, "flops")), [measured[0].made], measured, of_one_size(wide))
    assert said == "lengths alone vary: its model.init.rules give deviations for this width alone"


def test_a_ladder_that_leaves_smaller_models_out_says_what_they_are_for():
    made = smaller(find_recipe("shakespeare", []), 6, 1 / 60)
    sizes = [Size(one.parameters, 6.0 * one.parameters, 0.01, 1.0) for one in made]
    target = Target(sizes[-1].parameters, 10_000, sizes[-1].flops_per_step)
    measured = [Measured(one, size) for one, size in zip(made, sizes, strict=True)]
    (said,) = notes(choose(sizes, target, Budget(1e13, "flops")), made, measured, "")
    assert said.startswith("lengths alone vary: nearest to the recipe itself; --vary sizes")


def test_a_schedule_shrinks_with_the_length():
    run = find_recipe("shakespeare", ["schedule={kind: warmup_stable_decay, warmup: 50 steps, decay: 1e5 tokens}"])
    short = shortened(run, 100, 1000, "short")
    assert plain(short.schedule) | {"final": 0.0} == {
        "kind": "warmup_stable_decay",
        "warmup": "5 steps",
        "decay": "10000 tokens",
        "final": 0.0,
    }
    assert str(short.training.length) == "100 steps"
    assert short.training.batch_tokens == run.training.batch_tokens
    assert (short.rhythm.evaluate, short.samples.prompts, short.model) == (None, (), run.model)
    assert str(shortened(run, 4, 1000, "short").schedule.warmup) == "1 steps"  # a warm-up does not vanish
    assert str(shortened(find_recipe("mnist", []), 4, 600, "short").schedule.warmup) == "0 steps"
