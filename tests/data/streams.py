"""A prepared split in memory, for tests of what stands on it: the attributes of a TokenSet, any shard layout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corestone.data.spec import Bytes, Component, Data, Embedded

SEPARATOR = 0


class Stream:
    """Documents of these lengths (separator included) with random tokens; document i is called '{name}-i'."""

    def __init__(self, lengths: Sequence[int], name: str = "doc", shard_tokens: int = 10**9, seed: int = 0) -> None:
        assert min(lengths) >= 1
        self.name = name
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.n_tokens = int(self.starts[-1]) + 1
        self.n_documents = len(lengths)
        self.tokens = np.random.default_rng(seed).integers(1, 60_000, self.n_tokens).astype(np.uint16)
        self.tokens[self.starts] = SEPARATOR
        self.shards = [self.tokens[i : i + shard_tokens] for i in range(0, self.n_tokens, shard_tokens)]

    def slice(self, start: int, stop: int) -> np.ndarray:
        return self.tokens[start:stop].astype(np.int64)

    def document_id(self, i: int) -> str:
        return f"{self.name}-{i}"


def data(context_length: int, weights: Sequence[float] = (1.0,), apart: bool = True, prefetch: int = 0) -> Data:
    """The data axis of a recipe over as many sources as there are weights."""
    return Data(
        components=tuple(Component(source=Embedded(name=f"set{i}"), weight=w) for i, w in enumerate(weights)),
        tokenizer=Bytes(),
        context_length=context_length,
        keep_documents_apart=apart,
        prefetch=prefetch,
    )
