"""What every layer keeps of past tokens, as a value that the caller owns.

Shape letters: B batch, S key positions, N heads (of keys and values) or values of a state, H head dim, W tokens before,
C and D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from corestone.nn.spec import Attention, Mixer, Stack


@dataclass
class KeyValues:
    """An attention layer's keys and values, in room allocated once.

    Attributes:
        recent_BWC: what its convolution saw last; None where it has none.
    """

    keys_BNSH: Tensor
    values_BNSH: Tensor
    recent_BWC: Tensor | None

    def write(self, start: int, k_BNTH: Tensor, v_BNTH: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values behind the first `start` positions; return all so far.

        The first ones come back as they were given, later all in the cache's format.
        """
        stop = start + k_BNTH.shape[2]
        self.keys_BNSH[:, :, start:stop] = k_BNTH
        self.values_BNSH[:, :, start:stop] = v_BNTH
        if start == 0:
            return k_BNTH, v_BNTH
        return self.keys_BNSH[:, :, :stop], self.values_BNSH[:, :, :stop]

    def follow(self, x_BTC: Tensor) -> Tensor | None:
        """Keep the end of what the convolution reads now; return what it read just before."""
        before = self.recent_BWC
        if before is not None:
            stream_BSC = torch.cat((before, x_BTC.to(before.dtype)), dim=1)
            self.recent_BWC = stream_BSC[:, stream_BSC.shape[1] - before.shape[1] :]
        return before

    def select(self, rows: Tensor) -> KeyValues:
        recent = None if self.recent_BWC is None else self.recent_BWC[rows]
        return KeyValues(self.keys_BNSH[rows], self.values_BNSH[rows], recent)


@dataclass
class H3State:
    """The states of an H3 layer's two models: the same size however many tokens went by.

    Attributes:
        diagonal_BDN: complex.
        coefficients: of the diagonal model's recurrence, worked out at the first token; None before.
    """

    shift_BDN: Tensor
    diagonal_BDN: Tensor
    coefficients: tuple[Tensor, ...] | None = None

    def select(self, rows: Tensor) -> H3State:
        return H3State(self.shift_BDN[rows], self.diagonal_BDN[rows], self.coefficients)


State = KeyValues | H3State
S = TypeVar("S", KeyValues, H3State)


@dataclass
class KVCache:
    """What the layers keep, each its own.

    A forward call with a cache adds its tokens behind `length` and moves it on; nothing else changes it.

    Attributes:
        layers: one state per layer, of the kind that its token mixer keeps.
        capacity: the most positions.
        dtype: of keys and values.
        length: positions filled so far.
        segments_BS: int32 ids as in Mask (left padding has an id of its own); None when every position is real.
        memory_BKSH: per layer the keys and values of the other text, once they are made.
        sources_BS: segment ids of the other text; None where there is none.
    """

    layers: Sequence[State]
    capacity: int
    dtype: torch.dtype
    length: int = 0
    segments_BS: Tensor | None = None
    memory_BKSH: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    sources_BS: Tensor | None = None

    def of(self, layer: int, kind: type[S]) -> S:
        """A layer's own state."""
        state = self.layers[layer]
        assert isinstance(state, kind)
        return state

    def memory_of(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the other text; None before they are made."""
        return self.memory_BKSH.get(layer)

    def remember(self, layer: int, k_BKSH: Tensor, v_BKSH: Tensor) -> None:
        """Keep a layer's keys and values of the other text, in the cache's format."""
        self.memory_BKSH[layer] = (k_BKSH.to(self.dtype), v_BKSH.to(self.dtype))

    def select(self, rows: Tensor) -> KVCache:
        """A cache of some of the rows (int64 indices), with the same room."""
        return KVCache(
            layers=[state.select(rows) for state in self.layers],
            capacity=self.capacity,
            dtype=self.dtype,
            length=self.length,
            segments_BS=None if self.segments_BS is None else self.segments_BS[rows],
            memory_BKSH={layer: (k[rows], v[rows]) for layer, (k, v) in self.memory_BKSH.items()},
            sources_BS=None if self.sources_BS is None else self.sources_BS[rows],
        )


def empty_cache(stack: Stack, batch: int, capacity: int, dtype: torch.dtype, device: torch.device) -> KVCache:
    """Allocate a cache for `batch` rows of at most `capacity` tokens."""
    with device:
        layers = [_empty(block.mixer, stack.width, (batch, capacity), dtype) for block in stack.blocks]
    return KVCache(layers, capacity, dtype)


def _empty(mixer: Mixer, width: int, shape: tuple[int, int], dtype: torch.dtype) -> State:
    batch, capacity = shape
    if isinstance(mixer, Attention):
        room = (batch, mixer.kv_heads, capacity, mixer.head_dim)
        channels, taps = mixer.made_heads * mixer.head_dim, mixer.conv_width
        recent = None if taps is None else torch.zeros(batch, taps - 1, channels, dtype=dtype)
        return KeyValues(torch.zeros(room, dtype=dtype), torch.zeros(room, dtype=dtype), recent)
    exact = torch.promote_types(dtype, torch.float32)
    shift = torch.zeros(batch, width, mixer.state_dim, dtype=exact)
    return H3State(shift, torch.zeros(batch, width, mixer.state_dim // 2, dtype=exact.to_complex()))
