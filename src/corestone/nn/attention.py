"""The attention layer: projections around `attend`.

Shape letters: B batch, T tokens, D width, N heads, K kv heads, H head dim, C = (N + 2K) H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corestone.nn.attend import attend, attention_weights
from corestone.nn.cache import KeyValues, KVCache
from corestone.nn.conv import CausalConv
from corestone.nn.lowered import Lowered, Memory
from corestone.nn.position import rotate
from corestone.nn.spec import Attention, Rotary


class AttentionLayer(nn.Module):
    """Self-attention of (B, T, D) to (B, T, D). `qkv` holds the queries', keys' and values' maps, in that order; the
    keys' and values' alone where `q` makes queries of keys."""

    def __init__(self, spec: Attention, width: int) -> None:
        super().__init__()
        self.spec = spec
        channels, inner = spec.made_heads * spec.head_dim, spec.num_heads * spec.head_dim
        self.qkv = nn.Linear(width, channels, bias=spec.bias_in)
        self.conv = CausalConv(spec.conv_width, channels) if spec.conv_width is not None else None
        self.q = nn.Linear(inner, inner, bias=spec.bias_in) if spec.shared_qk else None
        self.out = nn.Linear(inner, width, bias=spec.bias_out)

    def forward(self, x_BTD: Tensor, lowered: Lowered, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        q, k, v = self.heads(x_BTD, lowered, cache, layer)
        dropout = self.spec.dropout if self.training else 0.0
        mixed_BNTH = attend(q, k, v, lowered.mask_of(self.spec), self.spec.window, dropout, self.spec.scale)
        out: Tensor = self.out(mixed_BNTH.transpose(1, 2).flatten(2))
        return out

    def weights(self, x_BTD: Tensor, lowered: Lowered) -> Tensor:
        """How much each head's queries look at each token, (B, N, T, T)."""
        q, k, _ = self.heads(x_BTD, lowered)
        return attention_weights(q, k, lowered.mask_of(self.spec), self.spec.window, self.spec.scale)

    def heads(
        self, x_BTD: Tensor, lowered: Lowered, cache: KVCache | None = None, layer: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, N, T, H), keys and values (B, K, S, H) each, with positions, and with what a cache holds."""
        made_BTC = self.qkv(x_BTD)
        if self.conv is not None:
            past = None if cache is None else cache.of(layer, KeyValues).follow(made_BTC)
            made_BTC = self.conv(made_BTC, lowered.positions_BT, past)
        q, k, v = self._split(made_BTC)
        position = self.spec.position
        if isinstance(position, Rotary):
            q, k = (rotate(position, x, lowered.angles_of(position)) for x in (q, k))
        if cache is not None:
            k, v = cache.of(layer, KeyValues).write(cache.length, k, v)
        return q, k, v

    def _split(self, made_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, N, T, H), keys and values (B, K, T, H) each."""
        N, K, H = self.spec.num_heads, self.spec.kv_heads, self.spec.head_dim
        if self.q is None:
            q, k, v = made_BTC.split([N * H, K * H, K * H], dim=-1)
        else:
            k, v = made_BTC.chunk(2, dim=-1)
            q = self.q(k)
        q_BNTH, k_BKTH, v_BKTH = (x.unflatten(-1, (-1, H)).transpose(1, 2) for x in (q, k, v))
        return q_BNTH, k_BKTH, v_BKTH

    @torch.no_grad()
    def start_like_scaled(self) -> None:
        """Queries whose scores are not divided by sqrt(H), or the keys they are made of, start smaller by as much
        (Raffel et al. 2020, code; So et al. 2021, code)."""
        if self.spec.scale is not None:
            self.qkv.weight[: self.spec.num_heads * self.spec.head_dim] *= self.spec.head_dim**-0.5 / self.spec.scale


class CrossAttentionLayer(nn.Module):
    """Attention of (B, T, D) to another text's hidden values (B, S, D), both of one width (Vaswani et al. 2017,
    section 3.2.3). `kv` holds the keys' and values' maps, in that order."""

    def __init__(self, spec: Attention, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.q = nn.Linear(width, spec.num_heads * spec.head_dim, bias=spec.bias_in)
        self.kv = nn.Linear(width, 2 * spec.kv_heads * spec.head_dim, bias=spec.bias_in)
        self.out = nn.Linear(spec.num_heads * spec.head_dim, width, bias=spec.bias_out)

    def forward(self, x_BTD: Tensor, lowered: Lowered, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        q, k, v = self.heads(x_BTD, lowered, cache, layer)
        dropout = self.spec.dropout if self.training else 0.0
        mixed_BNTH = attend(q, k, v, _memory(lowered).mask, None, dropout, self.spec.scale)
        out: Tensor = self.out(mixed_BNTH.transpose(1, 2).flatten(2))
        return out

    def weights(self, x_BTD: Tensor, lowered: Lowered) -> Tensor:
        """How much each head's queries look at each of the other text's tokens, (B, N, T, S)."""
        q, k, _ = self.heads(x_BTD, lowered)
        return attention_weights(q, k, _memory(lowered).mask, None, self.spec.scale)

    def heads(
        self, x_BTD: Tensor, lowered: Lowered, cache: KVCache | None = None, layer: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, N, T, H), keys and values (B, K, S, H) each; a cache remembers these."""
        spec = self.spec
        q_BNTH = self.q(x_BTD).unflatten(-1, (spec.num_heads, spec.head_dim)).transpose(1, 2)
        past = None if cache is None else cache.memory_of(layer)
        if past is None:
            hidden_BSD = _memory(lowered).hidden_BSD
            assert hidden_BSD is not None
            kv_BKSH = self.kv(hidden_BSD).view(len(x_BTD), -1, 2 * spec.kv_heads, spec.head_dim).transpose(1, 2)
            k, v = kv_BKSH.split(spec.kv_heads, dim=1)
            past = (k, v)
            if cache is not None:
                cache.remember(layer, *past)
        return q_BNTH, *past

    @torch.no_grad()
    def start_like_scaled(self) -> None:
        """As for self-attention."""
        if self.spec.scale is not None:
            self.q.weight *= self.spec.head_dim**-0.5 / self.spec.scale


def _memory(lowered: Lowered) -> Memory:
    assert lowered.memory is not None  # models with cross-attention always have one
    return lowered.memory
