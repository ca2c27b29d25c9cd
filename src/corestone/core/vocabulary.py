"""What models and objectives need to know of a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """Ids and their roles; a role that the tokenizer lacks is None.

    Attributes:
        size: ids below it may be drawn.
        separator: stands between documents.
        mask, pad, classify: what hides a token, fills up a row, begins a text.
        sentinels: ids that stand for spans of text, in their order.
        special: ids that are no text.
        starts_word: for every id, 1 where it begins a word, else 0.
    """

    size: int
    separator: int
    mask: int | None = None
    pad: int | None = None
    classify: int | None = None
    sentinels: tuple[int, ...] = ()
    special: frozenset[int] = frozenset()
    starts_word: bytes = b""
