"""Keys and values of past tokens, as a value that the caller owns.

Shape letters: B batch, S key positions, N heads (of keys and values), H head dim, W tokens before, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from corestone.nn.spec import Stack


@dataclass
class KVCache:
    """Room for the keys and values of every layer, allocated once.

    A forward call with a cache writes behind `length` and moves it on; nothing else changes it.

    Attributes:
        keys_BNSH, values_BNSH: one tensor per layer.
        recent_BWC: per layer what its convolution saw last; None where it has none.
        memory_BKSH: per layer the keys and values of the other text, once they are made.
        sources_BS: segment ids of the other text; None where there is none.
        length: positions filled so far.
        segments_BS: int32 ids as in Mask (left padding has an id of its own); None when every position is real.
    """

    keys_BNSH: list[Tensor]
    values_BNSH: list[Tensor]
    recent_BWC: list[Tensor | None]
    length: int = 0
    segments_BS: Tensor | None = None
    memory_BKSH: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    sources_BS: Tensor | None = None

    @property
    def capacity(self) -> int:
        return self.keys_BNSH[0].shape[2]

    def write(self, layer: int, k_BNTH: Tensor, v_BNTH: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values; return all of that layer's so far.

        The first ones come back as they were given, later all in the cache's format.
        """
        stop = self.length + k_BNTH.shape[2]
        self.keys_BNSH[layer][:, :, self.length : stop] = k_BNTH
        self.values_BNSH[layer][:, :, self.length : stop] = v_BNTH
        if self.length == 0:
            return k_BNTH, v_BNTH
        return self.keys_BNSH[layer][:, :, :stop], self.values_BNSH[layer][:, :, :stop]

    def follow(self, layer: int, x_BTC: Tensor) -> Tensor | None:
        """Keep the end of what a layer's convolution reads now; return what it read just before."""
        before = self.recent_BWC[layer]
        if before is not None:
            stream_BSC = torch.cat((before, x_BTC.to(before.dtype)), dim=1)
            self.recent_BWC[layer] = stream_BSC[:, stream_BSC.shape[1] - before.shape[1] :]
        return before

    def memory_of(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the other text; None before they are made."""
        return self.memory_BKSH.get(layer)

    def remember(self, layer: int, k_BKSH: Tensor, v_BKSH: Tensor) -> None:
        """Keep a layer's keys and values of the other text, in the cache's format."""
        dtype = self.keys_BNSH[layer].dtype
        self.memory_BKSH[layer] = (k_BKSH.to(dtype), v_BKSH.to(dtype))

    def select(self, rows: Tensor) -> KVCache:
        """A cache of some of the rows (int64 indices), with the same room."""
        return KVCache(
            keys_BNSH=[keys[rows] for keys in self.keys_BNSH],
            values_BNSH=[values[rows] for values in self.values_BNSH],
            recent_BWC=[None if recent is None else recent[rows] for recent in self.recent_BWC],
            length=self.length,
            segments_BS=None if self.segments_BS is None else self.segments_BS[rows],
            memory_BKSH={layer: (k[rows], v[rows]) for layer, (k, v) in self.memory_BKSH.items()},
            sources_BS=None if self.sources_BS is None else self.sources_BS[rows],
        )


def empty_cache(stack: Stack, batch: int, capacity: int, dtype: torch.dtype, device: torch.device) -> KVCache:
    """Allocate a cache for `batch` rows of at most `capacity` tokens."""

    def room() -> list[Tensor]:
        return [
            torch.zeros(batch, block.mixer.kv_heads, capacity, block.mixer.head_dim, dtype=dtype, device=device)
            for block in stack.blocks
        ]

    recent: list[Tensor | None] = []
    for mixer in (block.mixer for block in stack.blocks):
        channels = (mixer.num_heads + 2 * mixer.kv_heads) * mixer.head_dim
        taps = mixer.conv_width
        recent.append(None if taps is None else torch.zeros(batch, taps - 1, channels, dtype=dtype, device=device))
    return KVCache(keys_BNSH=room(), values_BNSH=room(), recent_BWC=recent)
