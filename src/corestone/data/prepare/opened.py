"""What all prepared sets have: a manifest, files that it describes, and lines of metadata."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corestone.core.errors import DataError
from corestone.data.prepare.writer import file_sha256

MANIFEST = "manifest.json"


def manifest_tree(folder: Path, absent: str, cure: str) -> Any:
    """The JSON of a folder's manifest. Raises DataError where there is none (saying `absent`) or it cannot be read."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder}: {absent}")
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {cure}") from None


def check_keys(path: Path, manifest: dict[str, Any], wanted: set[str], cure: str) -> None:
    """Raise DataError where a manifest lacks one of these keys."""
    missing = wanted - manifest.keys()
    if missing:
        raise DataError(f"{path}: lacks {', '.join(sorted(missing))}; {cure}")


def check_file(path: Path, size: int, sha256: str | None, cure: str) -> None:
    """Raise DataError where a file is missing or not of this size or, where one is given, not of this hash."""
    if not path.is_file():
        raise DataError(f"{path}: missing; {cure}")
    found = path.stat().st_size
    if found != size:
        raise DataError(f"{path}: has {found:,} bytes, its manifest says {size:,}; {cure}")
    if sha256 is not None and (actual := file_sha256(path)) != sha256:
        raise DataError(f"{path}: its content changed (sha256 expected {sha256}, found {actual}); {cure}")


class MetadataLines:
    """A file of one JSON object per line, of which any is read at once; nothing is read before the first is asked for.

    Args:
        what: the objects are of, for messages.
    """

    def __init__(self, path: Path, count: int, what: str) -> None:
        self._path, self._count, self._what = path, count, what

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not 0 <= i < self._count:
            raise IndexError(f"{self._what} {i} of {self._count}")
        data, ends = self._lines
        begin = int(ends[i - 1]) + 1 if i else 0
        found: dict[str, Any] = json.loads(bytes(data[begin : int(ends[i])]))
        return found

    @cached_property
    def _lines(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The bytes of the file and where its lines end."""
        data = np.memmap(self._path, np.uint8, "r")
        return data, np.flatnonzero(data == ord("\n"))
