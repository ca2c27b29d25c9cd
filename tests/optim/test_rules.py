"""Every parameter has exactly one rule."""

from __future__ import annotations

import pytest
import torch

from corestone.core.errors import SpecError
from corestone.core.spec import parse
from corestone.models.decoder import build_decoder
from corestone.optim.build import (
    build_optimiser,
    claim,
    frozen_names,
    load_optimiser_tensors,
    optimiser_tensors,
    rules_of,
    set_learning_rate,
)
from corestone.optim.spec import AdamW, Rule
from corestone.zoo.bloom import bloom
from corestone.zoo.gpt import gpt1, gpt2
from corestone.zoo.gptj import gptj
from corestone.zoo.palm import palm
from corestone.zoo.primer import primer, primer_ez

NAMES = ["a.weight", "a.bias", "b.weight"]


def test_decay_of_every_parameter():
    """Without rules: matrices and tables of any model, no gain, no bias."""
    spec = AdamW(learning_rate=1e-3, weight_decay=0.3)
    small = {"vocab_size": 8, "context_length": 4}
    models = [gpt2(16, 1, 2, **small), gpt1(), bloom(16, 1, 2, **small), palm(16, 1, 2, 8, **small)]
    ez = primer_ez(16, 1, 2, 32, **small)
    for model in (*models, gptj(16, 1, 2, 4, **small), ez, primer(ez)):
        named = dict(build_decoder(model, device="meta").named_parameters())
        decayed = {name for name, rule in rules_of(spec, named).items() if rule.weight_decay == 0.3}
        assert decayed == {name for name in named if name.endswith("weight") and "norm" not in name}
        assert all(rule.weight_decay == 0 for name, rule in rules_of(spec, named).items() if name not in decayed)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((Rule(match=("a.*",)),), "'b.weight': no rule claims it"),
        ((Rule(match=("*.weight",)), Rule(match=("a.*",))), "'a.weight': rules .* both claim it"),
        ((Rule(match=("*", "typo.*")),), "pattern 'typo.*' matches no parameter"),
        ((Rule(match=("a.*",), frozen=True), Rule(match=("*.weight",))), "'a.weight': rules .* both claim it"),
    ],
)
def test_a_parameter_without_its_one_rule_is_an_error(rules, message):
    with pytest.raises(SpecError, match=message):
        claim(NAMES, rules)


def test_frozen_parameters_are_claimed_and_unknown_to_the_optimiser():
    parameters = {name: torch.ones(3) for name in NAMES}
    rules = (Rule(match=("a.*",), frozen=True), Rule(match=("b.*",), weight_decay=0.5))
    spec = AdamW(learning_rate=0.1, rules=rules)
    assert frozen_names(spec, parameters) == {"a.weight", "a.bias"}
    optimiser = build_optimiser(spec, parameters)
    assert [group["names"] for group in optimiser.param_groups] == [["b.weight"]]
    for parameter in parameters.values():
        parameter.grad = torch.ones(3)
    optimiser.step()
    assert [name for name in NAMES if torch.equal(parameters[name], torch.ones(3))] == ["a.weight", "a.bias"]
    assert {name.split("/")[0] for name in optimiser_tensors(optimiser)} == {"b.weight"}


def test_freezing_everything_or_what_decays_is_an_error():
    frozen = AdamW(learning_rate=0.1, rules=(Rule(match=("*",), frozen=True),))
    with pytest.raises(SpecError, match="every parameter is frozen"):
        build_optimiser(frozen, {"a": torch.ones(1)})
    for setting in ({"weight_decay": 0.1}, {"lr_scale": 0.5}):
        with pytest.raises(SpecError, match="frozen=true leaves nothing to decay or to scale"):
            parse(Rule, {"match": ["*"], "frozen": True, **setting}, "rule")


def test_rules_reach_the_optimiser_and_its_state_survives_a_round_trip():
    parameters = {name: torch.ones(3) for name in NAMES}
    spec = AdamW(
        learning_rate=0.1,
        rules=(Rule(match=("*.weight",), weight_decay=0.5, lr_scale=2.0), Rule(match=("*.bias",))),
    )
    optimiser = build_optimiser(spec, parameters)
    assert optimiser_tensors(optimiser) == {}
    set_learning_rate(optimiser, 0.01)
    assert [group["lr"] for group in optimiser.param_groups] == [0.02, 0.01]
    for parameter in parameters.values():
        parameter.grad = torch.zeros(3)
    optimiser.step()
    assert parameters["a.weight"][0].item() == pytest.approx(1 - 0.02 * 0.5)
    assert parameters["a.bias"][0].item() == 1
    saved = {name: value.clone() for name, value in optimiser_tensors(optimiser).items()}
    again = build_optimiser(spec, parameters)
    load_optimiser_tensors(again, saved)
    assert optimiser_tensors(again).keys() == saved.keys()
    assert all(torch.equal(optimiser_tensors(again)[name], value) for name, value in saved.items())
