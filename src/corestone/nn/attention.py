"""The attention layer: projections around `attend`.

Shape letters: B batch, T tokens, D width, N heads, K kv heads, H head dim.
"""

from __future__ import annotations

from torch import Tensor, nn

from corestone.nn.attend import attend
from corestone.nn.cache import KVCache
from corestone.nn.lowered import Lowered
from corestone.nn.position import rotate
from corestone.nn.spec import Attention, Rotary


class AttentionLayer(nn.Module):
    """Self-attention of (B, T, D) to (B, T, D). `qkv` holds the queries', keys' and values' maps, in that order."""

    def __init__(self, spec: Attention, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.qkv = nn.Linear(width, (spec.num_heads + 2 * spec.kv_heads) * spec.head_dim, bias=spec.bias_in)
        self.out = nn.Linear(spec.num_heads * spec.head_dim, width, bias=spec.bias_out)

    def forward(self, x_BTD: Tensor, lowered: Lowered, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        B, T, _ = x_BTD.shape
        N, K = self.spec.num_heads, self.spec.kv_heads
        heads_BNTH = self.qkv(x_BTD).view(B, T, N + 2 * K, self.spec.head_dim).transpose(1, 2)
        q, k, v = heads_BNTH.split([N, K, K], dim=1)
        position = self.spec.position
        if isinstance(position, Rotary):
            q, k = (rotate(position, x, lowered.angles_of(position)) for x in (q, k))
        if cache is not None:
            k, v = cache.write(layer, k, v)
        dropout = self.spec.dropout if self.training else 0.0
        mixed_BNTH = attend(q, k, v, lowered.mask_of(self.spec), self.spec.window, dropout)
        out: Tensor = self.out(mixed_BNTH.transpose(1, 2).reshape(B, T, -1))
        return out
