"""Which documents stay. Each one dropped is counted with its reason and, for the first few, named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace

from corestone.data.document import Counts, Document
from corestone.data.sources import documents
from corestone.data.spec import Embedded, Prepare, Source

TOO_SHORT = "too short"
DUPLICATE = "duplicate"


def kept_documents(source: Source, options: Prepare, counts: Counts) -> Iterator[Document]:
    """The documents of a source that preparation keeps, in order. Raises DataError as `documents` does.

    A lone document of own text is cut in two, since it could only stand on one side of the split: its end is held out.
    """
    kept = keep(documents(source, options.on_bad, counts), options, counts)
    return kept if isinstance(source, Embedded) else cut_lone(kept, source.validation_percent)


def cut_lone(stream: Iterator[Document], validation_percent: float) -> Iterator[Document]:
    """Pass a stream on; where it is one document alone, hold out its last `validation_percent` of characters.

    The cut is at the last line end before that place, where there is one. All of it stays whole at 100 %.
    """
    first, second = next(stream, None), next(stream, None)
    if first is None:
        return
    if second is None and validation_percent < 100 and len(first.text) > 1:
        place = min(len(first.text) - 1, max(1, round(len(first.text) * (1 - validation_percent / 100))))
        place = first.text.rfind("\n", 0, place) + 1 or place
        yield replace(first, text=first.text[:place], split="train")
        yield replace(first, id=f"{first.id}#end", text=first.text[place:], split="validation")
        return
    yield first
    if second is not None:
        yield second
        yield from stream


def keep(stream: Iterable[Document], options: Prepare, counts: Counts) -> Iterator[Document]:
    """Pass on what is long enough and new.

    A document is a duplicate where its text, runs of white space taken as one, was seen before on either side of the
    split; so no text stands on both. Memory grows by one 16-byte digest per document.
    """
    seen: set[bytes] = set()
    for document in stream:
        length = len(document.text.strip())
        if length < options.min_characters or not length:
            counts.drop(TOO_SHORT, f"{document.id}: {length} characters")
            continue
        if options.deduplicate:
            digest = text_digest(document.text)
            if digest in seen:
                counts.drop(DUPLICATE, f"{document.id}: the same words as an earlier document")
                continue
            seen.add(digest)
        yield document


def text_digest(text: str) -> bytes:
    """16 bytes that name a text, white space aside."""
    return hashlib.blake2b(" ".join(text.split()).encode("utf-8", "replace"), digest_size=16).digest()
