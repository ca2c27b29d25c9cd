"""Captions as rows of tokens.

Shape letters: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from corestone.core.batch import IGNORE, TextBatch
from corestone.core.errors import DataError
from corestone.core.mask import Mask
from corestone.core.vocabulary import Vocabulary
from corestone.data.images.spec import CaptionRows

TEXT, FILLED_UP = 0, -1
"""Segments of a row: what is said, and what fills the row up to the longest of the batch."""


def caption_rows(rows: CaptionRows | None, vocabulary: Vocabulary) -> CaptionRows:
    """The record of a run on pairs, or where it has none what the vocabulary says.

    Raises DataError for an id that the vocabulary does not have.
    """
    if rows is None:
        separator = vocabulary.separator
        fill = separator if vocabulary.pad is None else vocabulary.pad
        return CaptionRows(start=separator, end=separator, fill=fill)
    beyond = [f"{name}={token}" for name, token in ids_of(rows).items() if token >= vocabulary.size]
    if beyond:
        raise DataError(f"data.rows.{beyond[0]}: the tokenizer has {vocabulary.size} tokens; name one of them")
    return rows


def ids_of(rows: CaptionRows) -> dict[str, int]:
    """The ids that a record names."""
    return {name: token for name in ("start", "end", "fill") if (token := getattr(rows, name)) is not None}


def longest_of(rows: CaptionRows, context_length: int) -> int:
    """The most ids of a caption that stay whole between what stands in front and behind."""
    return context_length - (1 if rows.start is None else 2)


def caption_batch(captions: Sequence[Sequence[int]], rows: CaptionRows, context_length: int) -> TextBatch:
    """Captions as rows: start, caption, end, filled up; each token predicts the next one.

    A caption longer than the context loses its end; the row's own stays. What fills up is a segment of its own, unless
    whole rows are read.
    """
    before, behind = [] if rows.start is None else [rows.start], [rows.end]
    most = longest_of(rows, context_length)
    filled = [[*before, *list(ids)[:most], *behind] for ids in captions]
    B, T = len(filled), context_length if rows.whole else max(map(len, filled))
    tokens_BT = torch.full((B, T), rows.fill)
    targets_BT = torch.full((B, T), IGNORE)
    segments_BT = torch.full((B, T), FILLED_UP, dtype=torch.int32)
    for row, ids in enumerate(filled):
        tokens_BT[row, : len(ids)] = torch.tensor(ids)
        targets_BT[row, : len(ids) - 1] = torch.tensor(ids[1:])
        segments_BT[row, : len(ids)] = TEXT
    return TextBatch(
        tokens_BT=tokens_BT,
        targets_BT=targets_BT,
        positions_BT=torch.arange(T).expand(B, T),
        mask=Mask(segments_BT=None if rows.whole else segments_BT),
    )
