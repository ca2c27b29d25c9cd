"""One transformer layer.

            x ─┬─ norm_in ─ mixer ─ dropout ─ + ─ norm_after ─┬─ norm_in ─ feedforward ─ dropout ─ + ─ norm_after ─ y
               └──────────────────────────────┘               └────────────────────────────────────┘

with attention to another text, where there is one, as a third such branch between the two.

Primer's norm of the feed-forward is neither in front nor after the sum:

            x ─┬─ feedforward ─ norm ─ dropout ─ + ─ y
               └─────────────────────────────────┘

In parallel, with one norm in front:

            x ─┬─ norm_in ─┬─ mixer ────── dropout ─┬─ + ─ y
               │           └─ feedforward ─ dropout ─┘   │
               └─────────────────────────────────────────┘

Shape letters: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from corestone.nn.attention import AttentionLayer, CrossAttentionLayer
from corestone.nn.cache import KVCache
from corestone.nn.feedforward import FeedForwardLayer
from corestone.nn.lowered import Lowered
from corestone.nn.norm import LayerNorm, RMSNorm, build_norm
from corestone.nn.spec import Block
from corestone.nn.ssm import H3Layer

MIXERS = {"attention": AttentionLayer, "h3": H3Layer}

PLACES = {"in": ("in", "in"), "after": ("after", "after"), "in_out": ("in", "out")}
"""Where the norm of mixer and cross stands and where the feed-forward's, by a block's `norm_at`."""


class BlockLayer(nn.Module):
    """`y = norm_after(x + dropout(f(norm_in(x))))` for the token mixer, then for the feed-forward; or both at once.

    x and y, the residual stream, are float32; the branches compute in their parameters' format.
    """

    def __init__(self, spec: Block, width: int) -> None:
        super().__init__()
        self.parallel = spec.residual == "parallel"
        self.mixer_norm_at, self.feedforward_norm_at = PLACES[spec.norm_at]
        self.mixer_norm = build_norm(spec.norm, width)
        self.mixer = MIXERS[spec.mixer.kind](spec.mixer, width)
        self.cross_norm = build_norm(spec.norm, width) if spec.cross is not None else None
        self.cross = CrossAttentionLayer(spec.cross, width) if spec.cross is not None else None
        self.feedforward_norm = None if self.parallel else build_norm(spec.norm, width)
        self.feedforward = FeedForwardLayer(spec.feedforward, width)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, x_BTD: Tensor, lowered: Lowered, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        if self.feedforward_norm is None:
            normed = self.mixer_norm(x_BTD).to(self.mixer_norm.weight.dtype)
            mixed = self.dropout(self.mixer(normed, lowered, cache, layer))
            w_BTD: Tensor = x_BTD + mixed + self.dropout(self.feedforward(normed))
            return w_BTD
        at = self.mixer_norm_at
        x_BTD = self._plus(x_BTD, at, self.mixer_norm, lambda h_BTD: self.mixer(h_BTD, lowered, cache, layer))
        if self.cross is not None and self.cross_norm is not None:
            cross = self.cross
            x_BTD = self._plus(x_BTD, at, self.cross_norm, lambda h_BTD: cross(h_BTD, lowered, cache, layer))
        return self._plus(x_BTD, self.feedforward_norm_at, self.feedforward_norm, self.feedforward)

    def _plus(self, x_BTD: Tensor, at: str, norm: LayerNorm | RMSNorm, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """x and one branch of it, the norm in front of the branch, behind the branch or behind the sum."""
        dtype = norm.weight.dtype
        inner_BTD = branch((norm(x_BTD) if at == "in" else x_BTD).to(dtype))
        if at == "out":
            inner_BTD = norm(inner_BTD)
        sum_BTD: Tensor = x_BTD + self.dropout(inner_BTD)
        return norm(sum_BTD) if at == "after" else sum_BTD
