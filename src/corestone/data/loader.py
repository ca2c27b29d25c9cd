"""Training batches as a pure function of (sets, recipe, seed, step, rank, world size), made ahead by one thread.

There is no loader state: any step can be asked for at any time and gives the same batch. Draw number
step * batch_size + row says which sample a row of the global batch holds; a rank takes a run of consecutive rows.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from corestone.core.batch import TextBatch
from corestone.core.errors import DataError
from corestone.data.mixture import Mixture
from corestone.data.packing import (
    Tokens,
    boundaries,
    inner_columns,
    pack,
    read_windows,
    sample_count,
    unused_tokens,
)
from corestone.data.permutation import Integers
from corestone.data.spec import Data

_CHUNK = 16_384  # draws located at once: the arithmetic's fixed cost is shared by many steps


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
        epoch_tokens: tokens of one pass over all samples of all sets.
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
        self._plan = BatchPlan(token_sets, spec, seed, batch_size)
        self._rows = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self._depth = spec.prefetch
        self._ahead: _Ahead | None = None
        self.epoch_tokens = sum(self._plan.mixture.sizes) * spec.context_length
        self.unused_tokens = tuple(unused_tokens(token_set, spec.context_length) for token_set in token_sets)

    def batch(self, step: int) -> TextBatch:
        """This rank's rows of a step (steps count from 0)."""
        if self._depth == 0:
            return self._plan.batch(step, self._rows)
        if self._ahead is None or self._ahead.next_step != step:
            self.close()
            plan, rows = self._plan, self._rows
            self._ahead = _Ahead(lambda number: plan.batch(number, rows), step, self._depth)
        try:
            return self._ahead.take()
        except BaseException:
            self.close()
            raise

    def names(self, step: int) -> list[str]:
        """Ids of the documents that a step sees, over all ranks, each once, in the order of the rows."""
        return list(dict.fromkeys(seen.document for seen in self._plan.documents(step)))

    def close(self) -> None:
        """Stop the background thread. The loader stays usable."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None

    def __enter__(self) -> TextLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
