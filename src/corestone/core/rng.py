"""Randomness without state: every random choice is a function of named numbers, so resuming needs no saved state."""

from __future__ import annotations

import hashlib
import math
from copy import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def fold(seed: int, *words: int | str) -> int:
    """Derive a 63-bit seed from a seed and any number of words (step, rank, purpose, parameter name)."""
    text = "\x1f".join([str(seed), *(str(word) for word in words)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


class Draws:
    """Uniform numbers for the rows of a batch.

    A row's numbers depend on the seed, on its number and on what was asked before, never on its neighbours, so a batch
    may be split over ranks and micro-batches in any way. Arithmetic: splitmix64 (Steele et al. 2014) of a counter.

    Args:
        seed: names the purpose and the step.
        rows: numbers of the rows.
    """

    def __init__(self, seed: int, rows: range) -> None:
        # Seeds are mixed before rows are told apart, so that neighbouring seeds share no sequence.
        numbers = np.arange(rows.start, rows.stop, dtype=np.uint64)
        self._keys = _mixed(_mixed(np.array([seed], dtype=np.uint64)) + _mixed(numbers))
        self._asked = 0

    def select(self, places: Tensor) -> Draws:
        """Further draws of some of the rows."""
        chosen = copy(self)
        chosen._keys = self._keys[places.numpy()]
        return chosen

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1), float32, of shape (rows, *shape)."""
        count = math.prod(shape)
        counters = np.arange(self._asked, self._asked + count, dtype=np.uint64)
        self._asked += count
        bits = _mixed(self._keys[:, None] + counters * _STEP) >> np.uint64(40)
        return torch.from_numpy((bits.astype(np.float32) * np.float32(2.0**-24)).reshape(-1, *shape))


_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finishing function of splitmix64, wrapping at 2^64."""
    x = x + _STEP
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    out: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return out
