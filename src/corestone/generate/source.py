"""A model that reads before it writes as one that continues: what it read stands beside every token.

Shape letters: B batch, T tokens, S source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corestone.core.batch import IGNORE, ImageBatch, TextBatch
from corestone.core.mask import Mask
from corestone.core.protocols import Output
from corestone.nn.cache import KVCache

PAD_SEGMENT, TEXT_SEGMENT = -1, 0


class SourceReader:
    """Satisfies `generate.decode.CachedModel` for one set of sources, row by row.

    Args:
        model: with `encode` and `decode`.
        sources: a batch of what is read: texts, or pictures.
        segments_BS: which places of the sources are to be looked at; None: all.
        most: tokens that will be written; with what a model with learned positions can hold it bounds a row.
    """

    def __init__(self, model: Any, sources: TextBatch | ImageBatch, segments_BS: Tensor | None, most: int) -> None:
        self.model, self.head, self.most = model, model.head, most
        self.sources, self.segments_BS = sources, segments_BS

    @property
    def context_length(self) -> int:
        """Tokens that a row may be written to have: its beginning is never forgotten."""
        return self.most + 1

    def parameters(self) -> Iterator[Tensor]:
        """The model's."""
        found: Iterator[Tensor] = self.model.parameters()
        return found

    def empty_cache(self, batch: int, capacity: int, dtype: torch.dtype) -> KVCache:
        """Room for the rows, and which of the sources' places are text where their lengths differ."""
        cache: KVCache = self.model.empty_cache(batch, capacity, dtype)
        cache.sources_BS = None if self.segments_BS is None else self.segments_BS.to(next(self.parameters()).device)
        return cache

    def __call__(self, batch: TextBatch, cache: KVCache | None = None) -> Output:
        """Read the sources before the first token; then the cache holds all that is needed of them."""
        assert cache is not None  # decoding always has one
        hidden_BSD = None if cache.memory_BKSH else self.model.encode(self.sources.to(batch.tokens_BT.device))
        out: Output = self.model.decode(beside(batch, cache.sources_BS), hidden_BSD, cache)
        return out


def beside(batch: TextBatch, sources_BS: Tensor | None) -> TextBatch:
    """A batch whose tokens look at their sources' text, not at what fills the sources up."""
    if sources_BS is None:
        return batch
    segments_BT = torch.full_like(batch.tokens_BT, TEXT_SEGMENT, dtype=torch.int32)
    return replace(batch, mask=replace(batch.mask, segments_BT=segments_BT, sources_BS=sources_BS))


def source_batch(sources: Sequence[Sequence[int] | NDArray[np.int64]]) -> TextBatch:
    """What an encoder reads, a row each, filled up to the longest; with segments where their lengths differ."""
    lengths = set(map(len, sources))
    shape = (len(sources), max(lengths))
    tokens_BS = torch.zeros(shape, dtype=torch.int64)
    segments_BS = torch.full(shape, PAD_SEGMENT, dtype=torch.int32)
    for row, source in enumerate(sources):
        tokens_BS[row, : len(source)] = torch.as_tensor(source)
        segments_BS[row, : len(source)] = TEXT_SEGMENT
    positions_BS = torch.arange(shape[1]).expand(shape)
    mask = Mask(causal=False, segments_BT=segments_BS if len(lengths) > 1 else None)
    return TextBatch(tokens_BS, torch.full_like(tokens_BS, IGNORE), positions_BS, mask)
