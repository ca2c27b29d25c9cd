"""Documents in batches of about a megabyte, encoded in this process or in several, in their order."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corestone.core.errors import DataError
from corestone.data.document import Document
from corestone.data.tokenizer import Tokenizer, TokenizerManifest

BATCH_BYTES = 1_000_000
_FIRST_CHECK, _CHECK = 256_000, 16_000  # characters of a batch on which the fast encoding is held to the reference


@dataclass(frozen=True)
class Batch:
    """Documents to encode together: `place` is that of the first one in the source, `sizes` are their UTF-8 bytes."""

    place: int
    documents: list[Document]
    sizes: list[int]


@dataclass(frozen=True)
class Encoded:
    """A batch as one stream of ids, each document behind its separator.

    Attributes:
        stream: uint16 or uint32 ids.
        lengths: int64 tokens per document, separator included.
        difference: where the fast encoding and the reference differ, if they do; the stream is then not to be used.
    """

    stream: NDArray[Any]
    lengths: NDArray[np.int64]
    difference: str | None


def batches(documents: Iterable[Document], first: int = 0) -> Iterator[Batch]:
    """Group documents; the cuts depend on nothing but the documents, and documents before `first` are passed over."""
    members: list[Document] = []
    sizes: list[int] = []
    total = 0
    for place, document in enumerate(documents):
        if place < first:
            continue
        size = len(document.text.encode("utf-8", "replace"))
        members.append(document)
        sizes.append(size)
        total += size
        if total >= BATCH_BYTES:
            yield Batch(place + 1 - len(members), members, sizes)
            members, sizes, total = [], [], 0
    if members:
        yield Batch(place + 1 - len(members), members, sizes)


def encode_all(
    stream: Iterable[Batch], tokenizer: Tokenizer, dtype: str, workers: int
) -> Generator[tuple[Batch, Encoded], None, None]:
    """Encode batches, in their order.

    Args:
        dtype: `<u2` or `<u4`, of the ids.
        workers: processes; 0 works in this one, on all its cores where the encoder can.

    Raises:
        DataError: a worker process died, or a text cannot be encoded.
    """
    if workers == 0:
        for batch in stream:
            yield batch, encode_texts(tokenizer, _texts(batch), batch.place, dtype, None)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(tokenizer.files(), tokenizer.encoder != "tokenizers"),
    )
    waiting: deque[tuple[Batch, Future[Encoded]]] = deque()
    try:
        for batch in stream:
            waiting.append((batch, pool.submit(_work, _texts(batch), batch.place, dtype)))
            if len(waiting) > 2 * workers:
                yield _result(waiting)
        while waiting:
            yield _result(waiting)
    except BrokenProcessPool:
        raise DataError(
            "prepare: a worker process died (out of memory?); run again with fewer workers, it goes on where it was"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str], place: int, dtype: str, threads: int | None) -> Encoded:
    """Encode the texts of one batch, and hold the fast encoding to the reference on a part of them."""
    difference = tokenizer.difference(_beginning(texts, _CHECK if place else _FIRST_CHECK))
    ids = tokenizer.encode_batch(texts, threads)
    lengths = np.fromiter((len(part) + 1 for part in ids), dtype=np.int64, count=len(ids))
    stream = np.empty(int(lengths.sum()), dtype=dtype)
    inner = np.ones(len(stream), dtype=bool)
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    inner[starts] = False
    stream[starts] = tokenizer.manifest.separator
    stream[inner] = np.concatenate(ids)
    return Encoded(stream, lengths, difference)


def _texts(batch: Batch) -> list[str]:
    return [document.text for document in batch.documents]


def _result(waiting: deque[tuple[Batch, Future[Encoded]]]) -> tuple[Batch, Encoded]:
    batch, future = waiting.popleft()
    return batch, future.result()


def _beginning(texts: Sequence[str], characters: int) -> list[str]:
    """The first texts of a batch, the last one cut, of so many characters together."""
    chosen = []
    for text in texts:
        if characters <= 0:
            break
        chosen.append(text[:characters])
        characters -= len(text)
    return chosen


# -- in a worker process ------------------------------------------------------------------------------------------

_worker_tokenizer: list[Tokenizer] = []


def _start_worker(files: dict[str, str], fast: bool) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    text, manifest = files["tokenizer.json"], files["tokenizer-manifest.json"]
    _worker_tokenizer.append(Tokenizer(text, TokenizerManifest.model_validate_json(manifest), fast))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot stop its workers, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _work(texts: list[str], place: int, dtype: str) -> Encoded:
    return encode_texts(_worker_tokenizer[0], texts, place, dtype, 1)
