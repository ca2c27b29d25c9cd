"""The factor of an encoder's logits: on all of them but their biases, in the head and in the loss."""

from __future__ import annotations

import pytest
import torch

from corestone.models.encoder import build_encoder
from corestone.models.spec import Head
from corestone.nn.cross_entropy import linear_cross_entropy
from corestone.zoo.bert import bert


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_scaled_but_not_their_biases(tied):
    spec = bert(32, 1, 2, 64, 16, dropout=0.0)
    head = spec.head if tied else Head(tied=False, bias=True)
    plain, scaled = (
        build_encoder(spec.model_copy(update={"head": head.model_copy(update={"scale": scale})})) for scale in (1, 0.25)
    )
    hidden, targets = torch.randn(5, 32), torch.arange(5)
    with torch.no_grad():
        for model in (plain, scaled):
            model.head.bias.copy_(torch.linspace(-1, 1, 64))
        logits = 0.25 * (plain.head(hidden) - plain.head.bias) + plain.head.bias
        torch.testing.assert_close(scaled.head(hidden), logits)
        total, _ = linear_cross_entropy(hidden, scaled.head, targets)
        expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(total, expected)
