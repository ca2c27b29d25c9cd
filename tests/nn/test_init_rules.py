"""Rules of the initialisation: they win over what the record says of all, and a name that none or two mean is told."""

from __future__ import annotations

import pytest
import torch

from corestone.core.errors import SpecError
from corestone.models.decoder import build_decoder
from corestone.nn.spec import InitRule
from corestone.zoo.gpt import gpt2

SPEC = gpt2(width=64, depth=2, num_heads=4, vocab_size=512, context_length=32)


def started(*rules: InitRule) -> dict[str, torch.Tensor]:
    init = SPEC.init.model_copy(update={"rules": rules or None})
    return dict(build_decoder(SPEC.model_copy(update={"init": init}), seed=3).named_parameters())


def test_a_rule_sets_the_deviation_of_what_it_matches_and_of_nothing_else():
    plain, ruled = started(), started(InitRule(match=("stack.blocks.*.mixer.qkv.weight", "*.mixer.qkv.bias"), std=0.5))
    for name, parameter in ruled.items():
        if name.endswith("mixer.qkv.weight"):  # the same draws, 25 times as wide
            torch.testing.assert_close(parameter, plain[name] * 25)
        elif name.endswith("mixer.qkv.bias"):  # 192 draws: the deviation's own error is 5 %, four times that allowed
            assert float(parameter.detach().std()) == pytest.approx(0.5, rel=0.2)
        else:
            assert torch.equal(parameter, plain[name]), name


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([InitRule(match=("*.mixr.*",), std=1)], r"'\*.mixr.\*' matches no parameter"),
        ([InitRule(match=("*.weight",), std=1), InitRule(match=("stack.*",), std=2)], "both claim it"),
    ],
)
def test_a_rule_that_means_nothing_or_what_another_means_is_refused(rules, said):
    with pytest.raises(SpecError, match=said):
        started(*rules)
