"""The growing files of a split, and the journal that says how much of them counts.

Whatever a killed run left behind the journal's lengths is cut off, so the files end with the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from corestone.core.errors import DataError
from corestone.data.document import Document

JOURNAL = "journal.json"
ROW_BYTES = 16
_SPARE_BYTES = 16 << 20


@dataclass
class SplitState:
    """How far a split has come: its totals, from which the lengths of its files follow."""

    tokens: int = 0
    bytes: int = 0
    characters: int = 0
    documents: int = 0
    unknown_tokens: int = 0
    metadata_bytes: int = 0


@dataclass
class Journal:
    """What is safely on disk.

    Attributes:
        fingerprint: of what is prepared; another one's journal is not continued.
        documents: kept documents whose tokens are in the files, both splits together.
        encoder_note: why the fast encoding was given up, where it was.
    """

    fingerprint: str
    documents: int = 0
    encoder_note: str | None = None
    splits: dict[str, SplitState] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Replace the journal of a folder in one step that survives a power cut."""
        write_durably(folder / JOURNAL, json.dumps(asdict(self), indent=1, sort_keys=True).encode())


def read_journal(folder: Path, fingerprint: str) -> Journal | None:
    """The journal of an unfinished folder, or None where there is none of this fingerprint."""
    try:
        tree = json.loads((folder / JOURNAL).read_bytes())
        states = {split: SplitState(**state) for split, state in tree.pop("splits").items()}
        journal = Journal(**tree, splits=states)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return journal if journal.fingerprint == fingerprint else None


class SplitWriter:
    """Appends to the files of one split. `resume` cuts them to the state's lengths first."""

    def __init__(self, folder: Path, split: str, dtype: str, shard_tokens: int, state: SplitState) -> None:
        self.folder, self.split, self.state = folder, split, state
        self._dtype, self._shard_tokens = np.dtype(dtype), shard_tokens
        self._index = self._open(index_parts_name(split), state.documents * ROW_BYTES)
        self._metadata = self._open(metadata_name(split), state.metadata_bytes)
        number, rest = divmod(state.tokens, shard_tokens)
        for later in folder.glob(f"{split}-*.bin"):
            if later.name > shard_name(split, number):
                later.unlink()
        self._shard = self._open(shard_name(split, number), rest * self._dtype.itemsize)

    def add(self, documents: Sequence[Document], sizes: Sequence[int], stream: NDArray[Any], lengths: Any) -> None:
        """Append documents: `stream` their ids, `lengths` tokens and `sizes` bytes of each."""
        state = self.state
        starts = state.tokens + np.cumsum(lengths) - lengths
        self._index.write(np.stack([starts, np.asarray(sizes)], axis=1).astype("<i8").tobytes())
        lines = [json.dumps({"id": d.id, "source": d.source}, ensure_ascii=False) + "\n" for d in documents]
        data = "".join(lines).encode("utf-8", "backslashreplace")
        self._metadata.write(data)
        self._append(stream)
        state.metadata_bytes += len(data)
        state.documents += len(documents)
        state.bytes += sum(sizes)
        state.characters += sum(len(document.text) for document in documents)

    def end_stream(self, separator: int) -> None:
        """Append the separator that ends the stream."""
        self._append(np.array([separator], dtype=self._dtype))
        self.sync()

    def sync(self) -> None:
        """Have everything so far on disk."""
        for stream in (self._shard, self._index, self._metadata):
            _sync(stream)

    def close(self) -> None:
        """Close the files."""
        for stream in (self._shard, self._index, self._metadata):
            stream.close()

    def _append(self, stream: NDArray[Any]) -> None:
        while len(stream):
            number, used = divmod(self.state.tokens, self._shard_tokens)
            if used == 0 and number:
                _sync(self._shard)
                self._shard.close()
                self._shard = self._open(shard_name(self.split, number), 0)
            part, stream = stream[: self._shard_tokens - used], stream[self._shard_tokens - used :]
            self._shard.write(part.astype(self._dtype, copy=False).tobytes())
            self.state.tokens += len(part)

    def _open(self, name: str, length: int) -> BinaryIO:
        path = self.folder / name
        path.touch()
        if path.stat().st_size < length:
            raise ShorterThanJournalError(path.name)
        os.truncate(path, length)
        return path.open("ab", buffering=1 << 20)


class ShorterThanJournalError(Exception):
    """A file lost bytes that were safely on disk; the folder cannot be continued."""


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.bin"


def index_name(split: str) -> str:
    return f"{split}.documents.npy"


def index_parts_name(split: str) -> str:
    """The index while it grows: rows without the .npy header, which needs their number."""
    return f"{split}.documents.part"


def metadata_name(split: str) -> str:
    return f"{split}.metadata.jsonl"


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file in one step that survives a power cut."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as stream:
        stream.write(data)
        _sync(stream)
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """Hash a file in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def check_space(folder: Path, needed: int) -> None:
    """Refuse to write where the disk would be full. Raises DataError that says how much is missing."""
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise _full(folder, f"{free / 1e6:.0f} MB free, {(needed + _SPARE_BYTES) / 1e6:.0f} MB needed next")


@contextlib.contextmanager
def alone(folder: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Let one process at a time make a folder; the others wait and then find it done."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(folder.name + ".lock")
    while True:
        with lock.open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note(f"{folder}: another process is preparing it; waiting")
                fcntl.flock(stream, fcntl.LOCK_EX)
            if not _still_named(stream, lock):
                continue  # the one before removed it, and another may hold a new one
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _still_named(stream: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full or unwritable disk into one clear line. `folder` is what was to be made."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(folder, error.strerror or "full") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DataError(f"{error.filename or folder}: cannot be written ({error.strerror})") from None
        raise


def _full(folder: Path, detail: str) -> DataError:
    return DataError(f"{folder}: the disk is full ({detail}); make room and run again")


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
