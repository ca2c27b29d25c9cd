"""Which documents stay. Each one dropped is counted with its reason and, for the first few, named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from corestone.data.document import Counts, Document
from corestone.data.sources import documents
from corestone.data.spec import Prepare, Source

TOO_SHORT = "too short"
DUPLICATE = "duplicate"


def kept_documents(source: Source, options: Prepare, counts: Counts) -> Iterator[Document]:
    """The documents of a source that preparation keeps, in order. Raises DataError as `documents` does."""
    return keep(documents(source, options.on_bad, counts), options, counts)


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
