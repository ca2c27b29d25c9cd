"""One vector out of a picture's tokens.

Shape letters: B batch, T tokens, S patches, Q queries, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from corestone.nn.attend import LoweredMask
from corestone.nn.attention import CrossAttentionLayer
from corestone.nn.feedforward import FeedForwardLayer
from corestone.nn.lowered import Lowered, Memory
from corestone.nn.norm import at_least_float32, build_norm
from corestone.nn.spec import AttentionPool, ClassTokenPool, MeanPool, Pool

EVERYTHING = LoweredMask(causal=False, bias_BTS=None)
"""The mask of who may look at all there is."""


class ClassTokenPoolLayer(nn.Module):
    """The first token of (B, T, D): (B, D)."""

    def __init__(self, spec: ClassTokenPool, width: int, before: int) -> None:
        super().__init__()

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return hidden_BTD[:, 0]


class MeanPoolLayer(nn.Module):
    """The mean over the patches of (B, T, D), summed in float32: (B, D)."""

    def __init__(self, spec: MeanPool, width: int, before: int) -> None:
        super().__init__()
        self.before = before

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return at_least_float32(hidden_BTD[:, self.before :]).mean(dim=1).to(hidden_BTD.dtype)


class AttentionPoolLayer(nn.Module):
    """What a learned query, a row of `probe`, finds among the patches of (B, T, D): (B, D); `look` gives what each of
    several finds."""

    def __init__(self, spec: AttentionPool, width: int, before: int) -> None:
        super().__init__()
        self.before = before
        self.probe = nn.Embedding(spec.queries, width)
        self.attention = CrossAttentionLayer(spec.attention, width)
        self.norm = build_norm(spec.norm, width)
        self.feedforward = FeedForwardLayer(spec.feedforward, width) if spec.feedforward is not None else None

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return self.look(hidden_BTD)[:, 0]

    def look(self, hidden_BTD: Tensor) -> Tensor:
        """What all queries find, (B, Q, D)."""
        dtype, patches_BSD = self.probe.weight.dtype, hidden_BTD[:, self.before :]
        probe_BQD = self.probe.weight.expand(len(hidden_BTD), -1, -1)
        nowhere = torch.zeros(probe_BQD.shape[:2], dtype=torch.int64, device=hidden_BTD.device)
        lowered = Lowered(EVERYTHING, nowhere, {}, {}, Memory(patches_BSD, EVERYTHING))
        found_BQD = at_least_float32(self.attention(probe_BQD, lowered))
        normed_BQD: Tensor = self.norm(found_BQD).to(dtype)
        if self.feedforward is None:
            return normed_BQD
        out: Tensor = found_BQD + self.feedforward(normed_BQD)
        return out.to(dtype)


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "class_token": ClassTokenPoolLayer,
    "mean": MeanPoolLayer,
    "attention": AttentionPoolLayer,
}


def build_pool(spec: Pool, width: int, before: int) -> nn.Module:
    """The layer that a record describes.

    Args:
        before: tokens that stand before the patches.
    """
    return LAYERS[spec.kind](spec, width, before)
