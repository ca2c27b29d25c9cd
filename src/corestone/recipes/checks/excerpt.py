"""A prepared split's beginning, cut into short documents, so that what happens at their borders happens often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt

from corestone.core.errors import DataError
from corestone.data.spec import Data
from corestone.data.tokenizer import Tokenizer
from corestone.data.tokens import TokenSet
from corestone.recipes.run_data import RunData
from corestone.recipes.spec import Run
from corestone.recipes.text import TextData

Ids = npt.NDArray[np.int64]
STREAM_ROWS = 40
"""How many rows short documents fill."""


class Excerpt:
    """Documents of given lengths out of a split's tokens, separators left out. Satisfies `data.packing.Tokens` and
    `evaluate.floors.StoredText`; a split that is too short is read again from its beginning.

    Args:
        lengths: tokens of each document, its separator not counted.
    """

    def __init__(self, token_set: TokenSet, tokenizer: Tokenizer, lengths: Sequence[int]) -> None:
        separator, wanted = tokenizer.vocabulary.separator, sum(lengths)
        stream = token_set.slice(0, min(token_set.n_tokens, 2 * wanted + 1000))
        text = stream[stream != separator]
        if not len(text):
            raise DataError(f"{token_set.folder}: the {token_set.split} split holds no token but separators")
        text = np.resize(text, wanted)
        parts = np.split(text, np.cumsum(lengths)[:-1])
        end = np.array([separator], dtype=np.int64)
        self._stream: Ids = np.concatenate([*(np.concatenate([end, part]) for part in parts), end])
        self.starts: Ids = np.cumsum([0, *(length + 1 for length in lengths)]).astype(np.int64)
        self.n_tokens, self.n_documents = len(self._stream), len(lengths)
        self.shards: Sequence[Ids] = [self._stream]
        # What the text of a cut document is, its tokens say: a character may be cut in two.
        sizes = [len(tokenizer.decode(part.tolist()).encode("utf-8")) for part in parts]
        self.document_bytes: Ids = np.array(sizes, dtype=np.int64)

    def slice(self, start: int, stop: int) -> Ids:
        """The ids of places start to stop."""
        return self._stream[start:stop]

    def document_id(self, i: int) -> str:
        """A document's number."""
        return f"excerpt {i}"


def with_short_texts(data: RunData, run: Run) -> RunData:
    """The data with three short documents to be held out, if it is text: whole documents are scored, and some are
    books."""
    if not isinstance(data, TextData) or not isinstance(run.data, Data):
        return data
    excerpt = Excerpt(data.validation[0], data.tokenizer, [run.data.context_length * 3 // 2 + 7] * 3)
    return replace(data, validation=[cast(TokenSet, excerpt)])


def short_documents(token_set: TokenSet, tokenizer: Tokenizer, context_length: int) -> Excerpt:
    """Documents of which two to five share a row."""
    draw, lengths = np.random.default_rng(0), list[int]()
    while sum(lengths) < STREAM_ROWS * context_length:
        lengths.append(int(draw.integers(max(2, context_length // 6), max(3, context_length // 2))))
    return Excerpt(token_set, tokenizer, lengths)
