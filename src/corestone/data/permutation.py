"""A shuffle by arithmetic: a keyed bijection of 0..n-1 and its exact inverse, with no table and no state.

A Feistel network (Luby and Rackoff 1988) over the smallest power of two that holds n, with cycle walking (Black and
Rogaway 2002): a value that falls outside 0..n-1 is sent through the network again until it falls inside. The round
function is a multiplicative mixer, good for shuffling and no secret.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

_ROUNDS = 8
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # the multipliers of splitmix64
_SHIFT = np.uint64(31)
_LIMIT = 1 << 62


def permute(indices: Integers, n: int, key: int) -> Integers:
    """Send each index (0 <= index < n) to its place in the shuffle named by `key`.

    Raises ValueError for n outside 1..2**62 or an index outside 0..n-1.
    """
    return _walk(indices, n, key, _forward)


def unpermute(places: Integers, n: int, key: int) -> Integers:
    """The exact inverse of `permute` for the same n and key."""
    return _walk(places, n, key, _backward)


def _walk(values: Integers, n: int, key: int, network: Callable[[_Words, int, int], _Words]) -> Integers:
    if not 1 <= n <= _LIMIT:
        raise ValueError(f"a permutation needs 1 to 2**62 items, got {n}")
    values = np.asarray(values, dtype=np.int64)
    if values.size and (int(values.min()) < 0 or int(values.max()) >= n):
        raise ValueError(f"an index lies outside 0..{n - 1}")
    bits = (n - 1).bit_length()
    out = network(values.reshape(-1).astype(np.uint64), bits, key)
    outside = np.flatnonzero(out >= np.uint64(n))
    while outside.size:  # less than half of the domain lies outside, so the rest more than halves on average
        again = network(out[outside], bits, key)
        out[outside] = again
        outside = outside[again >= np.uint64(n)]
    return out.astype(np.int64).reshape(values.shape)


@lru_cache(maxsize=256)
def _round_keys(key: int) -> _Words:
    digest = hashlib.blake2b(str(key).encode(), digest_size=8 * _ROUNDS).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def _halves(bits: int) -> tuple[np.uint64, _Words]:
    """How far the left half is shifted, and the masks of the left (wider or equal) and the right half."""
    right = bits // 2
    return np.uint64(right), np.array([(1 << (bits - right)) - 1, (1 << right) - 1], dtype=np.uint64)


def _scramble(half: _Words, key: np.uint64, mask: np.uint64) -> _Words:
    word = (half + key) * _MIX[0]
    word ^= word >> _SHIFT
    word *= _MIX[1]
    word ^= word >> _SHIFT
    word &= mask
    return word


def _forward(values: _Words, bits: int, key: int) -> _Words:
    shift, masks = _halves(bits)
    halves = [values >> shift, values & masks[1]]
    for number, round_key in enumerate(_round_keys(key)):
        side = number % 2
        halves[side] = halves[side] ^ _scramble(halves[1 - side], round_key, masks[side])
    joined: _Words = (halves[0] << shift) | halves[1]
    return joined


def _backward(values: _Words, bits: int, key: int) -> _Words:
    shift, masks = _halves(bits)
    halves = [values >> shift, values & masks[1]]
    for number, round_key in reversed(list(enumerate(_round_keys(key)))):
        side = number % 2
        halves[side] = halves[side] ^ _scramble(halves[1 - side], round_key, masks[side])
    joined: _Words = (halves[0] << shift) | halves[1]
    return joined
