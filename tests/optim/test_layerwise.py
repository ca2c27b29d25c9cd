"""Rates by layer claim every parameter of a model once, and are those of BEiT's fine-tuning."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestone.core.errors import SpecError
from corestone.models.decoder import build_decoder
from corestone.models.encoder import build_encoder
from corestone.optim.build import rules_of
from corestone.optim.layerwise import layerwise_rules
from corestone.optim.spec import AdamW, Lion
from corestone.zoo.bert import bert
from corestone.zoo.gpt import gpt2
from corestone.zoo.palm import palm

SMALL = {"vocab_size": 8, "context_length": 4}
DEPTH = 12  # layers 1, 10 and 11 must not be mistaken for one another
MODELS = {
    "bert": (lambda: build_encoder(bert(16, DEPTH, 2, **SMALL), device="meta"), ("head.*", "pooler.*")),
    "gpt2": (lambda: build_decoder(gpt2(16, DEPTH, 2, **SMALL), device="meta"), ("stack.final_norm.*",)),
    "palm": (lambda: build_decoder(palm(16, DEPTH, 2, 8, **SMALL), device="meta"), ("stack.final_norm.*",)),
}


def height(name: str) -> int:
    """0 for the embedding, 1 to DEPTH for the layers, DEPTH + 1 above them."""
    first, *rest = name.split(".")
    if first == "embedding":
        return 0
    return int(rest[1]) + 1 if rest[0] == "blocks" else DEPTH + 1


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", [AdamW, Lion])
def test_every_parameter_is_claimed_once_with_its_layers_rate(name, kind):
    build, head = MODELS[name]
    named = dict(build().named_parameters())
    rules = layerwise_rules(DEPTH, decay=0.5, weight_decay=0.05, head=head)
    claimed = rules_of(kind(learning_rate=1e-3, rules=rules), named)
    assert {height(name) for name in named} == set(range(DEPTH + 2))
    for parameter, rule in claimed.items():
        assert rule.lr_scale == 0.5 ** (DEPTH + 1 - height(parameter))
        vector = parameter.endswith("bias") or "norm" in parameter
        assert rule.weight_decay == (0.0 if vector else 0.05), parameter


@given(depth=st.integers(1, 48), decay=st.floats(0.01, 1))
def test_rates_rise_to_the_head(depth, decay):
    scales = [rule.lr_scale for rule in layerwise_rules(depth, decay, 0.1, head=("head.*",))]
    assert len(scales) == depth + 2
    assert scales[-1] == 1
    assert all(low == pytest.approx(decay * high) for low, high in pairwise(scales))


def test_a_wrong_depth_is_noticed():
    """One layer too few: nobody claims it; one too many: its pattern matches nothing."""
    named = dict(MODELS["gpt2"][0]().named_parameters())
    for depth, message in ((DEPTH - 1, r"'stack.blocks.11.*no rule claims it"), (DEPTH + 1, "matches no parameter")):
        rules = layerwise_rules(depth, 0.5, 0.1, head=("stack.final_norm.*",))
        with pytest.raises(SpecError, match=message):
            rules_of(AdamW(learning_rate=1e-3, rules=rules), named)


@pytest.mark.parametrize(("depth", "decay"), [(0, 0.5), (3, 0.0), (3, 1.5)])
def test_nonsense_is_refused(depth, decay):
    with pytest.raises(SpecError, match=f"got {depth} and {decay}"):
        layerwise_rules(depth, decay, 0.1, head=("head.*",))
