"""Training batches as a pure function of (sets, recipe, seed, step, rank, world size), made ahead by one thread.

There is no loader state: any step can be asked for at any time and gives the same batch. Draw number
step * batch_size + row says which sample a row of the global batch holds; a rank takes a run of consecutive rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from corestone.core.batch import TextBatch
from corestone.core.errors import DataError
from corestone.data.ahead import Ahead
from corestone.data.ledger import documents_of_step
from corestone.data.mixture import Mixture
from corestone.data.packing import (
    Ids,
    Tokens,
    Windows,
    draw_order,
    inner_places,
    inner_starts,
    pack,
    sample_count,
    unused_tokens,
)
from corestone.data.permutation import Integers
from corestone.data.spec import Data

_CHUNK = 16_384  # draws located at once: the arithmetic's fixed cost is shared by many steps
_NONE = np.empty(0, dtype=np.int64)


class TextLoader:
    """Batches of packed text.

    Args:
        token_sets: one prepared training split per component of the recipe, in the recipe's order.
        spec: the recipe's data axis.
        seed: names the order in which samples are drawn.
        batch_size: samples of one step over all ranks.
        rank, world_size: which part of each step's rows this process takes.

    Raises:
        DataError: a set shorter than one sample, or a batch size that the ranks cannot share evenly.

    Attributes:
        epoch_units: tokens of one pass over all samples of all sets.
        unused_tokens: per set, tokens at the end of its stream that fill no sample and so are never trained on.
    """

    def __init__(
        self, token_sets: Sequence[Tokens], spec: Data, seed: int, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise DataError(
                f"a global batch of {batch_size} samples cannot be shared evenly by {world_size} ranks; "
                f"make batch_tokens a multiple of {world_size} * context_length ({world_size * spec.context_length:,})"
            )
        if not 0 <= rank < world_size:
            raise DataError(f"rank {rank} lies outside 0..{world_size - 1} of a world of {world_size}")
        order = draw_order(token_sets, spec, seed)
        self._maker = _Maker(token_sets, order, spec.context_length, spec.keep_documents_apart, batch_size)
        self._run = (token_sets, spec, seed, batch_size)
        self._rows = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self._depth = spec.prefetch
        self._ahead: Ahead[TextBatch] | None = None
        self.epoch_units = sum(self._maker.mixture.sizes) * spec.context_length
        self.unused_tokens = tuple(unused_tokens(token_set, spec.context_length) for token_set in token_sets)

    def batch(self, step: int) -> TextBatch:
        """This rank's rows of a step (steps count from 0)."""
        if self._depth == 0:
            return self._maker.batch(step, self._rows)
        if self._ahead is None or self._ahead.next_step != step:
            self.close()
            self._ahead = Ahead(partial(self._maker.batch, rows=self._rows), step, self._depth)
        try:
            return self._ahead.take()
        except BaseException:
            self.close()
            raise

    def names(self, step: int) -> list[str]:
        """Ids of the documents that a step sees, over all ranks, each once, in the order of the rows."""
        return list(dict.fromkeys(seen.document for seen in documents_of_step(*self._run, step)))

    def close(self) -> None:
        """Stop the background thread. The loader stays usable."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None

    def __enter__(self) -> TextLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def shuffled_once(token_set: Tokens, context_length: int, apart: bool, batch_size: int) -> Iterator[TextBatch]:
    """Every whole sample of a set once, in one fixed random order; the last batch may be smaller.

    An odd sample is left out, for objectives that take samples two by two. Raises DataError where there are not two.
    """
    samples = sample_count(token_set, context_length) // 2 * 2
    if samples == 0:
        raise DataError(
            f"prepared set with {token_set.n_tokens:,} tokens: two samples of {context_length:,} tokens are needed to "
            "score it; hold out more text or lower data.context_length"
        )
    order = Mixture([sample_count(token_set, context_length)], [1.0], seed=0)
    maker = _Maker([token_set], order, context_length, apart, batch_size)
    for step in range(-(-samples // batch_size)):
        yield maker.batch(step, slice(0, min(batch_size, samples - step * batch_size)))


@dataclass(frozen=True)
class _Located:
    """For some consecutive draws: the set, the sample's first token in it, and the documents that start inside it."""

    components: Integers
    begins: Integers
    low: Integers
    high: Integers

    def part(self, rows: slice) -> _Located:
        return _Located(self.components[rows], self.begins[rows], self.low[rows], self.high[rows])


class _Maker:
    """Makes the batch of a step; holds nothing that depends on earlier steps but a cache, so threads may share it."""

    def __init__(
        self, token_sets: Sequence[Tokens], order: Mixture, context_length: int, apart: bool, batch_size: int
    ) -> None:
        self.mixture = order
        self._token_sets = tuple(token_sets)
        self._windows = [Windows(token_set.shards, context_length + 1) for token_set in token_sets]
        self._context_length = context_length
        self._apart = apart
        self._batch_size = batch_size
        # A chunk spans few epochs even of a tiny set, because each epoch of it costs a shuffle of its own.
        self._chunk_steps = max(1, min(_CHUNK, 4 * min(self.mixture.sizes)) // batch_size)
        self._chunk = lru_cache(maxsize=2)(self._locate_chunk)

    def batch(self, step: int, rows: slice) -> TextBatch:
        chunk, within = divmod(step, self._chunk_steps)
        start = within * self._batch_size
        whole = self._chunk(chunk).part(slice(start, start + self._batch_size))
        # Looked at over the rows of all ranks, so that ranks and micro-batches choose the same kernel.
        split = self._apart and bool((whole.high > whole.low).any())
        mine = whole.part(rows)
        windows, inner = self._read(mine, split)
        return pack(windows, inner if split else None)

    def _read(self, rows: _Located, split: bool) -> tuple[Ids, Integers]:
        """The windows of these rows and, where they are to be split, the places at which documents start inside."""
        T, numbers = self._context_length, np.arange(len(rows.begins))
        if len(self._token_sets) == 1:
            bounds = (rows.low, rows.high)
            inner = inner_places(self._token_sets[0], rows.begins, bounds, numbers, T) if split else _NONE
            return self._windows[0].read(rows.begins), inner
        windows = np.empty((len(numbers), T + 1), dtype=np.int64)
        places = [_NONE]
        for component in np.unique(rows.components):
            token_set, mine = self._token_sets[component], np.flatnonzero(rows.components == component)
            begins = rows.begins[mine]
            windows[mine] = self._windows[component].read(begins)
            if split:
                places.append(inner_places(token_set, begins, (rows.low[mine], rows.high[mine]), mine, T))
        return windows, np.concatenate(places)

    def _locate_chunk(self, chunk: int) -> _Located:
        size = self._chunk_steps * self._batch_size
        components, indices = self.mixture.samples(np.arange(chunk * size, (chunk + 1) * size))
        begins = indices * self._context_length
        low, high = np.empty_like(begins), np.empty_like(begins)
        for number, token_set in enumerate(self._token_sets):
            mine = components == number
            low[mine], high[mine] = inner_starts(token_set, begins[mine], self._context_length)
        return _Located(components, begins, low, high)
