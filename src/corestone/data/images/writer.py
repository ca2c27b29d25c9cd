"""The files of one side of a picture set while they grow: pixels in one flat file, or encoded pictures in tar shards.

The shards are plain tar files (`000000012.jpg`), so that any other tool can read them too.
"""

from __future__ import annotations

import json
import os
import tarfile
from array import array
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from corestone.core.errors import DataError
from corestone.data.images.decode import ending
from corestone.data.images.picture import Picture, Pixels
from corestone.data.prepare.writer import file_sha256


class SideWriter:
    """Appends pictures of one side; `finish` closes its files and says what a manifest says of them."""

    def __init__(self, folder: Path, split: str, shard_bytes: int) -> None:
        self._folder, self._split, self._shard_bytes = folder, split, shard_bytes
        self._metadata = (folder / f"{split}.metadata.jsonl").open("wb")
        self._pixels: BinaryIO | None = None
        self._tar: tarfile.TarFile | None = None
        self._shards: list[str] = []
        self._places: list[tuple[int, int, int]] = []
        self._labels, self._each = array("i"), array("i")
        self._several = False
        self._captions = 0

    def add(self, picture: Picture, labels: Sequence[int]) -> None:
        """Append a picture; `labels` are the numbers of its classes for the time being."""
        self._several |= isinstance(picture.label, tuple)
        if isinstance(picture.content, bytes):
            self._add_encoded(picture.content)
        else:
            self._add_pixels(picture.content)
        line: dict[str, Any] = {"id": picture.id, "source": picture.source}
        if picture.captions:
            line["captions"] = picture.captions
        self._metadata.write((json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
        self._labels.extend(labels)
        self._each.append(len(labels))
        self._captions += len(picture.captions)

    def finish(self, order: np.ndarray) -> dict[str, Any]:
        """Close the files. `order` maps the numbers that classes had for the time being to the final ones."""
        self.close()
        each = np.array(self._each, dtype=np.int64)
        most = int(each.max(initial=0)) if self._several else 1
        labels = np.full((len(each), most), -1, dtype=np.int64)
        rows = np.repeat(np.arange(len(each)), each)
        final = np.asarray(order)[np.array(self._labels, dtype=np.int64)] if len(self._labels) else rows
        ascending = np.lexsort((final, rows))
        labels[np.arange(most) < each[:, None]] = final[ascending]
        labels = labels if self._several else labels[:, 0]
        self._save("labels", labels)
        index = None
        if self._places:
            self._save("index", np.array(self._places, dtype="<i8"))
            index = self._facts(f"{self._split}.index.npy")
        return {
            "pictures": len(labels),
            "labelled": int((labels >= 0).reshape(len(labels), -1).any(axis=1).sum()),
            "captions": self._captions,
            "shards": [self._facts(name) for name in self._shards],
            "index": index,
            "labels": self._facts(f"{self._split}.labels.npy"),
            "metadata": self._facts(f"{self._split}.metadata.jsonl"),
        }

    def close(self) -> None:
        """Close the files, complete or not."""
        self._metadata.close()
        if self._pixels:
            self._pixels.close()
        if self._tar:
            self._tar.close()

    def _add_pixels(self, pixels: Pixels) -> None:
        if self._pixels is None:
            self._shards.append(f"{self._split}.bin")
            self._pixels = (self._folder / self._shards[0]).open("wb", buffering=1 << 20)
        self._pixels.write(pixels.tobytes())

    def _add_encoded(self, data: bytes) -> None:
        if self._tar is None or self._tar.offset + len(data) > self._shard_bytes:
            if self._tar:
                self._tar.close()
            self._shards.append(f"{self._split}-{len(self._shards):05d}.tar")
            path = self._folder / self._shards[-1]
            self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed by `close`)
        member = tarfile.TarInfo(f"{len(self._places):09d}.{ending(data)}")  # without a time: equal input, equal bytes
        member.size = len(data)
        start = self._tar.offset + tarfile.BLOCKSIZE
        self._tar.addfile(member, BytesIO(data))
        self._places.append((len(self._shards) - 1, start, len(data)))

    def _save(self, what: str, values: np.ndarray) -> None:
        with (self._folder / f"{self._split}.{what}.npy").open("wb") as stream:
            np.save(stream, values)

    def _facts(self, name: str) -> dict[str, Any]:
        path = self._folder / name
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        return {"file": name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}


class Kinds:
    """Whether pictures have one class each or several: no set holds both."""

    def __init__(self) -> None:
        self._of_side: dict[str, tuple[str, str]] = {}
        self._known: tuple[str, str] | None = None

    def check(self, picture: Picture) -> None:
        """Raise DataError where a picture's classes do not go with those of the first one, on its side or elsewhere."""
        kind = (
            "no class"
            if picture.label is None
            else "a class"
            if isinstance(picture.label, str)
            else "a list of classes"
        )
        here = kind, f"{picture.source}, {picture.id}"
        side = self._of_side.setdefault(picture.split, here)
        known = (self._known or here) if picture.label is not None else here
        self._known = known if picture.label is not None else self._known
        for other in (side, known):
            if kind != other[0] and "a list of classes" in (kind, other[0]):
                raise DataError(
                    f"{here[1]}: {kind}, and {other[1]}: {other[0]}; give all of them lists (an empty one where none "
                    "applies), or none"
                )


class Shape:
    """The one shape of a set's pixels, or that its pictures are encoded: no set holds both."""

    def __init__(self) -> None:
        self.found: tuple[int, ...] | None = None
        self._first = ""
        self._begun = False

    def check(self, picture: Picture) -> None:
        """Raise DataError where a picture does not go with the first one."""
        shape = None if isinstance(picture.content, bytes) else picture.content.shape
        if not self._begun:
            self._begun, self.found, self._first = True, shape, f"{picture.source}, {picture.id}"
        elif shape != self.found:
            here = f"{picture.source}, {picture.id}"
            raise DataError(
                f"{here}: {_words(shape)}, and {self._first}: {_words(self.found)}; one set holds pixels of one shape "
                "or encoded pictures: prepare them as sets of their own"
            )


def _words(shape: tuple[int, ...] | None) -> str:
    return f"pixels of shape {shape}" if shape else "an encoded picture"
