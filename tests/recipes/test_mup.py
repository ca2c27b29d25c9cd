"""muP: nothing changes at the base width, and the rules are those of the table."""

from __future__ import annotations

import math

import pytest
import torch

from corestone.core.errors import SpecError
from corestone.core.spec import from_yaml, override, to_yaml
from corestone.optim.build import rules_of
from corestone.recipes.build import build_model
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.mup import at_width, mup
from corestone.recipes.spec import Run


def effective(run: Run) -> dict[str, tuple[float, float]]:
    """Learning-rate factor and decay of each parameter."""
    model = build_model(run.model, 0, torch.device("meta"))
    rules = rules_of(run.optimiser, dict(model.named_parameters()))
    return {name: (rule.lr_scale, rule.weight_decay) for name, rule in rules.items()}


def test_at_the_base_width_weights_rates_and_decay_stay_what_they_are():
    run = find_recipe("shakespeare", [])
    same = mup(run, 256)
    assert effective(same) == effective(run)
    one, other = (build_model(r.model, 3, torch.device("cpu")) for r in (run, same))
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert same.model.head.scale == run.model.head.scale


def test_the_rules_are_those_of_table_8():
    wide = at_width(find_recipe("shakespeare", []), 1024)
    run = mup(wide, 256)
    found = effective(run)
    hidden = ("mixer.qkv.weight", "mixer.out.weight", "feedforward.up.weight", "feedforward.down.weight")
    for name, (rate, decay) in found.items():
        assert rate == (0.25 if name.endswith(hidden) else 1.0), name
        assert rate * decay == (0.1 if name.endswith("weight") and "norm" not in name else 0.0), name
    assert run.model.head.scale == 0.25
    model = build_model(run.model, 0, torch.device("cpu"))
    deviations = {name: float(tensor.detach().std()) for name, tensor in model.named_parameters()}
    assert deviations["embedding.token.weight"] == pytest.approx(0.02, rel=0.01)
    assert deviations["stack.blocks.0.feedforward.up.weight"] == pytest.approx(0.02 / math.sqrt(4), rel=0.01)
    assert from_yaml(Run, to_yaml(run), "here") == run


@pytest.mark.parametrize(
    ("recipe", "assignments", "said"),
    [
        ("shakespeare-t5", [], "models of kind decoder, not 'encoder_decoder'"),
        ("shakespeare-palm", [], "as many kv heads as heads"),
        ("shakespeare", ["optimiser={kind: sgd, learning_rate: 0.1}"], "not 'sgd'"),
        ("shakespeare", ["optimiser.rules=[{match: ['*']}]"], "rules of its own"),
    ],
)
def test_what_it_is_not_known_for_is_refused(recipe, assignments, said):
    with pytest.raises(SpecError, match=said):
        mup(override(find_recipe(recipe, []), assignments), 128)


def test_a_base_width_of_nothing_is_refused():
    with pytest.raises(SpecError, match="base_width=0"):
        mup(find_recipe("shakespeare", []), 0)


def test_a_width_without_whole_heads_is_refused():
    with pytest.raises(SpecError, match="choose a multiple of 64"):
        at_width(find_recipe("shakespeare", []), 100)
