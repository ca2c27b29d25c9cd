"""Which sample of which set is drawn when: a pure function of the seed and the number of the draw, both ways.

Draws are numbered 0, 1, 2, ... over the whole run (draw = step * batch_size + row). A single set is shuffled once per
epoch. Several sets are drawn by weight: draws fall into blocks, each set has a quota of each block, and the order
inside a block is shuffled. The quotas of the first b blocks together are the weights' exact shares of them, rounded
by largest remainder, so that no set is ever more than one draw away from its share at the end of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np

from corestone.core.errors import DataError
from corestone.core.rng import fold
from corestone.data.permutation import Integers, permute, unpermute

BLOCK = 1024
"""Draws per block; more (a power of two) where a set's share is under one draw in so many."""

_MAX_BLOCK = 1 << 20


class Mixture:
    """The order in which samples of weighted sets are drawn.

    Args:
        sizes: number of samples of each set.
        weights: how often each set is drawn; they need not sum to one.
        seed: names the shuffles.

    Raises:
        DataError: a set without samples, or a weight so small that it would be drawn less than once in 2**20.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        for number, size in enumerate(sizes):
            if size < 1:
                raise DataError(f"component {number} of the data: it holds no whole sample; give it more text")
        self.sizes = tuple(int(size) for size in sizes)
        self.seed = seed
        exact = [Fraction(repr(float(weight))) for weight in weights]  # 0.1 means one tenth, not its nearest double
        self._shares = tuple(weight / sum(exact) for weight in exact)
        smallest = min(self._shares)
        if smallest * _MAX_BLOCK < 1:
            number = self._shares.index(smallest)
            raise DataError(
                f"component {number} of the data: its weight {weights[number]:g} is less than one sample in "
                f"{_MAX_BLOCK:,}; raise data.components.{number}.weight or leave the component out"
            )
        # A block holds at least one draw of each set: then largest-remainder totals never fall from block to block.
        self.block = BLOCK
        while smallest * self.block < 1:
            self.block *= 2

    def samples(self, draws: Integers) -> tuple[Integers, Integers]:
        """For each draw, the number of the set and the number of the sample in it."""
        components, turns = self._turns(np.asarray(draws, dtype=np.int64))
        indices = np.empty_like(turns)
        for component in np.unique(components):
            mine = components == component
            indices[mine] = self._shuffled(int(component), turns[mine])
        return components, indices

    def draws(self, component: int, indices: Integers, until: int) -> Integers:
        """Every draw before `until` that takes one of these samples of a set, in ascending order."""
        size = self.sizes[component]
        indices = np.asarray(indices, dtype=np.int64)
        blocks = -(-until // self.block)
        turns_until = until if len(self.sizes) == 1 else self._taken(blocks)[component]
        found = [np.empty(0, dtype=np.int64)]
        for epoch in range(-(-turns_until // size)):
            turns = epoch * size + unpermute(indices, size, self._key(component, epoch))
            found.append(self._draws_of_turns(component, turns))
        draws = np.concatenate(found)
        return np.sort(draws[draws < until])

    def _key(self, component: int, epoch: int) -> int:
        return fold(self.seed, "samples", component, epoch)

    def _shuffled(self, component: int, turns: Integers) -> Integers:
        """The sample that a set gives at its turns 0, 1, 2, ...: each epoch is a shuffle of the whole set."""
        size = self.sizes[component]
        epochs = turns // size
        within = turns - epochs * size
        first, last = (int(epochs.min()), int(epochs.max())) if turns.size else (0, -1)
        indices = np.empty_like(turns)
        for epoch in range(first, last + 1):
            mine = epochs == epoch
            if mine.any():
                indices[mine] = permute(within[mine], size, self._key(component, epoch))
        return indices

    def _turns(self, draws: Integers) -> tuple[Integers, Integers]:
        """For each draw, whose it is and the how-manieth of that set it is."""
        if len(self.sizes) == 1:
            return np.zeros_like(draws), draws
        components, turns = np.empty_like(draws), np.empty_like(draws)
        blocks = draws // self.block
        for block in np.unique(blocks):
            mine = blocks == block
            before, edges = self._layout(int(block))
            places = permute(draws[mine] - block * self.block, self.block, self._block_key(int(block)))
            component = np.searchsorted(edges, places, side="right") - 1
            components[mine] = component
            turns[mine] = before[component] + places - edges[component]
        return components, turns

    def _draws_of_turns(self, component: int, turns: Integers) -> Integers:
        if len(self.sizes) == 1:
            return turns
        draws = []
        for turn in turns.tolist():
            # A total is at most its exact share rounded up, so the block is this one or, rounded down, the next.
            block = int(turn / (self._shares[component] * self.block))
            while self._taken(block + 1)[component] <= turn:
                block += 1
            before, edges = self._layout(block)
            place = np.array([edges[component] + turn - before[component]])
            draws.append(block * self.block + int(unpermute(place, self.block, self._block_key(block))[0]))
        return np.array(draws, dtype=np.int64)

    def _block_key(self, block: int) -> int:
        return fold(self.seed, "mixture", block)

    def _taken(self, blocks: int) -> tuple[int, ...]:
        """How many draws of each set the first blocks hold."""
        return _largest_remainder(blocks * self.block, self._shares)

    def _layout(self, block: int) -> tuple[Integers, Integers]:
        """Draws of each set before a block, and where each set's places begin among the places of the block."""
        before, after = np.array(self._taken(block)), np.array(self._taken(block + 1))
        quotas = after - before
        return before, np.cumsum(quotas) - quotas


@lru_cache(maxsize=4096)
def _largest_remainder(total: int, shares: tuple[Fraction, ...]) -> tuple[int, ...]:
    """Split a whole number by exact shares into whole numbers of the same sum."""
    parts = [share * total for share in shares]
    whole = [int(part) for part in parts]
    by_remainder = sorted(range(len(parts)), key=lambda number: (whole[number] - parts[number], number))
    for number in by_remainder[: total - sum(whole)]:
        whole[number] += 1
    return tuple(whole)
