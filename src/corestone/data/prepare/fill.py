"""Fill an unfinished folder up to its manifest, from wherever its journal stands."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from corestone.core.errors import DataError
from corestone.data.document import Counts
from corestone.data.prepare.batches import Batch, Encoded, batches, encode_all
from corestone.data.prepare.estimate import total_bytes
from corestone.data.prepare.filters import kept_documents
from corestone.data.prepare.finish import SPLITS, EmptySetError, check_not_empty, set_facts, token_dtype, write_manifest
from corestone.data.prepare.opened import MANIFEST
from corestone.data.prepare.writer import (
    JOURNAL,
    Journal,
    ShorterThanJournalError,
    SplitState,
    SplitWriter,
    check_space,
    read_journal,
)
from corestone.data.sources import describe
from corestone.data.spec import Prepare, Source
from corestone.data.tokenizer import Tokenizer

COMMIT_SECONDS = 2.0
"""How much work a kill can cost."""


class Progress(Protocol):
    """What a caller may want to show. `start` begins a stage and ends the one before it."""

    def start(self, what: str, total_bytes: int | None) -> None:
        """A stage begins; its length is about the UTF-8 bytes of its documents, None where nobody knows."""

    def advance(self, n_bytes: int) -> None:
        """So many more bytes are done."""

    def note(self, message: str) -> None:
        """Something a person should know."""


@dataclass(frozen=True)
class Order:
    """What is to be prepared, and how."""

    fingerprint: str
    source: Source
    tokenizer: Tokenizer
    options: Prepare
    workers: int
    progress: Progress


def fill(partial: Path, order: Order) -> None:
    """Leave a folder that lacks nothing. Raises DataError as `prepare` does."""
    journal = _open_folder(partial, order)
    if journal.encoder_note is not None:
        order = replace(order, tokenizer=order.tokenizer.without_fast())
    counts = Counts()
    try:
        difference = _append_all(partial, journal, order, counts)
    except ShorterThanJournalError as error:
        _restart(partial, order, f"{error} is shorter than the journal says", None)
        return
    except EmptySetError:
        shutil.rmtree(partial)
        raise
    if difference is not None:
        why = f"tiktoken gave other ids than tokenizers ({difference})"
        _restart(partial, order, why, why)
        return
    facts = set_facts(order.fingerprint, order.source, order.options, order.tokenizer, counts, journal.encoder_note)
    write_manifest(partial, facts, order.tokenizer, journal, order.options.shard_tokens)


def _restart(partial: Path, order: Order, why: str, encoder_note: str | None) -> None:
    order.progress.note(f"{partial}: {why}; starting again")
    shutil.rmtree(partial)
    partial.mkdir()
    _new_journal(order, encoder_note).write(partial)
    fill(partial, order)


def _new_journal(order: Order, encoder_note: str | None) -> Journal:
    return Journal(order.fingerprint, 0, encoder_note, {split: SplitState() for split in SPLITS})


def _open_folder(partial: Path, order: Order) -> Journal:
    """The journal to go on from; a folder of another order is emptied, with a note."""
    if partial.exists():
        journal = read_journal(partial, order.fingerprint)
        if journal is not None:
            if journal.documents:
                order.progress.note(f"going on after document {journal.documents:,}")
            return journal
        names = {path.name for path in partial.iterdir()} - {JOURNAL + ".new"}
        if names and not names & {JOURNAL, MANIFEST}:
            raise DataError(f"{partial}: stands where the unfinished set would go and is none; move or delete it")
        if names:
            order.progress.note(f"{partial}: left by another source, tokenizer or options; starting again")
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    journal = _new_journal(order, None)
    journal.write(partial)
    return journal


def _append_all(partial: Path, journal: Journal, order: Order, counts: Counts) -> str | None:
    """Encode and append every document after those of the journal.

    Returns where the fast encoding and the reference differ, if they do; the files are then of no use.
    """
    tokenizer, options, show = order.tokenizer, order.options, order.progress
    show.start(f"preparing {describe(order.source)}", total_bytes([order.source]))
    show.advance(sum(state.bytes for state in journal.splits.values()))
    dtype = token_dtype(tokenizer)
    documents = kept_documents(order.source, options, counts)
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                closing(SplitWriter(partial, split, dtype, options.shard_tokens, journal.splits[split]))
            )
            for split in SPLITS
        }
        work = encode_all(batches(documents, journal.documents), tokenizer, dtype, order.workers)
        stack.enter_context(closing(work))
        committed = time.monotonic()
        for batch, encoded in work:
            if encoded.difference is not None:
                return encoded.difference
            check_space(partial, encoded.stream.nbytes + sum(batch.sizes))
            _write(writers, batch, encoded, tokenizer)
            journal.documents += len(batch.documents)
            show.advance(sum(batch.sizes))
            if time.monotonic() - committed >= COMMIT_SECONDS:
                _commit(partial, journal, writers)
                committed = time.monotonic()
        _commit(partial, journal, writers)
        check_not_empty(journal, counts, describe(order.source))
        for writer in writers.values():
            writer.end_stream(tokenizer.manifest.separator)
    return None


def _commit(partial: Path, journal: Journal, writers: dict[str, SplitWriter]) -> None:
    for writer in writers.values():
        writer.sync()
    journal.write(partial)


def _write(writers: dict[str, SplitWriter], batch: Batch, encoded: Encoded, tokenizer: Tokenizer) -> None:
    """Append each side's part of a batch to its files."""
    sides = np.array([document.split for document in batch.documents])
    for split, writer in writers.items():
        mine = sides == split
        chosen = np.flatnonzero(mine).tolist()
        if not chosen:
            continue
        stream = encoded.stream[np.repeat(mine, encoded.lengths)]
        writer.state.unknown_tokens += _unknown(stream, len(chosen), tokenizer)
        writer.add(
            [batch.documents[n] for n in chosen], [batch.sizes[n] for n in chosen], stream, encoded.lengths[mine]
        )


def _unknown(stream: Any, documents: int, tokenizer: Tokenizer) -> int:
    """Pieces of text that the vocabulary could not write; a tokenizer may use one id for them and the separator."""
    if tokenizer.unknown_id is None:
        return 0
    separators = documents if tokenizer.unknown_id == tokenizer.manifest.separator else 0
    return int(np.count_nonzero(stream == tokenizer.unknown_id)) - separators
