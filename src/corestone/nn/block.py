"""One transformer layer.

            x ─┬─ norm_in ─ mixer ─ dropout ─ + ─ norm_after ─┬─ norm_in ─ feedforward ─ dropout ─ + ─ norm_after ─ y
               └──────────────────────────────┘               └────────────────────────────────────┘

In parallel, with one norm in front:

            x ─┬─ norm_in ─┬─ mixer ────── dropout ─┬─ + ─ y
               │           └─ feedforward ─ dropout ─┘   │
               └─────────────────────────────────────────┘

Shape letters: B batch, T tokens, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from corestone.nn.attention import AttentionLayer
from corestone.nn.cache import KVCache
from corestone.nn.feedforward import FeedForwardLayer
from corestone.nn.lowered import Lowered
from corestone.nn.norm import build_norm
from corestone.nn.spec import Block


class BlockLayer(nn.Module):
    """`y = norm_after(x + dropout(f(norm_in(x))))` for the token mixer, then for the feed-forward; or both at once.

    x and y, the residual stream, are float32; the mixer and the feed-forward compute in their parameters' format.
    """

    def __init__(self, spec: Block, width: int) -> None:
        super().__init__()
        self.pre, self.parallel = spec.norm_at == "in", spec.residual == "parallel"
        self.mixer_norm = build_norm(spec.norm, width)
        self.mixer = AttentionLayer(spec.mixer, width)
        self.feedforward_norm = None if self.parallel else build_norm(spec.norm, width)
        self.feedforward = FeedForwardLayer(spec.feedforward, width)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, x_BTD: Tensor, lowered: Lowered, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        dtype = self.mixer_norm.weight.dtype
        if self.feedforward_norm is None:
            normed = self.mixer_norm(x_BTD).to(dtype)
            mixed = self.dropout(self.mixer(normed, lowered, cache, layer))
            w_BTD: Tensor = x_BTD + mixed + self.dropout(self.feedforward(normed))
            return w_BTD
        if self.pre:
            x_BTD = x_BTD + self.dropout(self.mixer(self.mixer_norm(x_BTD).to(dtype), lowered, cache, layer))
            y_BTD: Tensor = x_BTD + self.dropout(self.feedforward(self.feedforward_norm(x_BTD).to(dtype)))
            return y_BTD
        x_BTD = self.mixer_norm(x_BTD + self.dropout(self.mixer(x_BTD.to(dtype), lowered, cache, layer)))
        z_BTD: Tensor = self.feedforward_norm(x_BTD + self.dropout(self.feedforward(x_BTD.to(dtype))))
        return z_BTD
