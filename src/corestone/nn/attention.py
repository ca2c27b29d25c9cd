"""The attention layer: projections around `attend`.

Shape letters: B batch, T tokens, D width, N heads, H head dim.
"""

from __future__ import annotations

from torch import Tensor, nn

from corestone.nn.attend import LoweredMask, attend
from corestone.nn.cache import KVCache
from corestone.nn.spec import Attention


class AttentionLayer(nn.Module):
    """Self-attention of (B, T, D) to (B, T, D). `qkv` holds the queries', keys' and values' maps, in that order."""

    def __init__(self, spec: Attention, width: int) -> None:
        super().__init__()
        self.spec = spec
        inner = spec.num_heads * spec.head_dim
        self.qkv = nn.Linear(width, 3 * inner)
        self.out = nn.Linear(inner, width)

    def forward(self, x_BTD: Tensor, mask: LoweredMask, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        B, T, _ = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(B, T, 3, self.spec.num_heads, self.spec.head_dim).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = cache.write(layer, k, v)
        dropout = self.spec.dropout if self.training else 0.0
        mixed_BNTH = attend(q, k, v, mask, self.spec.window, dropout)
        out: Tensor = self.out(mixed_BNTH.transpose(1, 2).reshape(B, T, -1))
        return out
