"""One split of a prepared picture set, memory-mapped: any picture at any time.

Shape letters: N pictures, H height, W width, C channels.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corestone.core.errors import DataError, unknown
from corestone.data.images.decode import Rules
from corestone.data.images.jpeg import part_of
from corestone.data.images.picture import Choose, Pixels, Size, cut, whole
from corestone.data.prepare.opened import MANIFEST, MetadataLines, check_file, check_keys, manifest_tree

VERSION = 1
_CURE = "delete the folder and prepare the pictures again"


class PictureSet:
    """One split of a prepared set. Made by `open_pictures`; no picture of it is read before it is used.

    Attributes:
        manifest: that of the whole set.
        fingerprint: names the set's content.
        classes: the names of the classes of all splits, in the order of their numbers.
        labels: int64 (N,), the number of each picture's class, -1 where it has none; where several may apply at once
            (N, most of a picture), filled up with -1.
        shape: (H, W, C) of every picture, or None where each has its own height and width.
        channels: C of every picture.
        array: uint8 (N, H, W, C), all pictures as one memory map, or None where they are encoded.
    """

    def __init__(self, folder: Path, split: str, manifest: dict[str, Any]) -> None:
        facts = manifest["splits"][split]
        self.folder, self.split, self.manifest = folder, split, manifest
        self.fingerprint: str = manifest["fingerprint"]
        self.classes: tuple[str, ...] = tuple(manifest["classes"])
        self.labels: NDArray[np.int64] = self._load(facts["labels"]["file"]).astype(np.int64)
        self._metadata = MetadataLines(folder / facts["metadata"]["file"], len(self.labels), "picture")
        self.shape: tuple[int, int, int] | None = tuple(manifest["shape"]) if manifest["shape"] else None
        self.channels: int = manifest["channels"]
        self.array: Pixels | None = None
        self._rules = Rules(channels=manifest["channels"], max_pixels=manifest["options"]["max_pixels"])
        self._shards = [folder / shard["file"] for shard in facts["shards"]]
        if self.shape:
            shape = (facts["pictures"], *self.shape)
            self.array = np.memmap(self._shards[0], np.uint8, "r", shape=shape).view(np.ndarray)
        else:
            self._index = self._load(facts["index"]["file"])

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, i: int) -> Pixels:
        """A picture, uint8 (H, W, C), an array of its own.

        Raises:
            IndexError: no picture of this number.
            DataError: its bytes cannot be decoded any more.
        """
        return self.part(i, whole)

    def part(self, i: int, choose: Choose, least: Size | None = None) -> Pixels:
        """The part of a picture that `choose` names once it is told the height and width, an array of its own.

        Args:
            least: see `jpeg.part_of`.

        Raises:
            IndexError, DataError: as `pixels` does.
        """
        self._check(i)
        if self.array is not None:
            pixels = self.array[i]
            return cut(pixels, choose(pixels.shape[:2]))
        found = part_of(self.encoded(i), self._rules, choose, least)
        if isinstance(found, str):
            name = self._shards[int(self._index[i, 0])]
            raise DataError(f"{name}: picture '{self.id(i)}' was readable when prepared and is not now; {_CURE}")
        return found

    def encoded(self, i: int) -> bytes:
        """The bytes of a picture's file as they were given; pixels that were given as an array, in .npy form."""
        self._check(i)
        if self.array is not None:
            stream = io.BytesIO()
            np.save(stream, self.array[i])
            return stream.getvalue()
        shard, offset, size = self._index[i].tolist()
        with self._shards[shard].open("rb") as stream:  # opened anew: there may be more shards than files may be open
            stream.seek(offset)
            data: bytes = stream.read(size)
        return data

    def id(self, i: int) -> str:
        """The id of a picture. Raises IndexError where there is none of number i."""
        return str(self.metadata(i)["id"])

    def captions(self, i: int) -> tuple[str, ...]:
        """The sentences that describe a picture; () where there is none. Raises IndexError as `id` does."""
        return tuple(self.metadata(i).get("captions", ()))

    def metadata(self, i: int) -> dict[str, Any]:
        """The id of a picture, where it was read, and its captions. Raises IndexError as `id` does."""
        return self._metadata[i]

    def _load(self, name: str) -> NDArray[Any]:
        found: NDArray[Any] = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
        return found

    def _check(self, i: int) -> None:
        if not 0 <= i < len(self):
            raise IndexError(f"picture {i} of {len(self)}")


def open_pictures(folder: Path, split: str, verify: bool = False) -> PictureSet:
    """Open a split of a prepared set.

    Args:
        split: `train`, `validation`, `test` or `unlabelled`, where the set has it.
        verify: hash every file of the split; without it only their sizes are compared.

    Raises:
        DataError: no prepared set, another version's, no picture on this side, or a file that is missing, of the wrong
            size or content.
    """
    manifest = read_manifest(folder)
    if split not in manifest["splits"]:
        raise DataError(f"{folder}: {unknown('split', split, manifest['splits'])}")
    facts = manifest["splits"][split]
    for part in (*facts["shards"], facts["labels"], facts["metadata"], *([facts["index"]] if facts["index"] else [])):
        check_file(folder / part["file"], part["bytes"], part["sha256"] if verify else None, _CURE)
    return PictureSet(folder, split, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared set. Raises DataError where there is none that this version reads."""
    path = folder / MANIFEST
    absent = f"no prepared pictures (it has no {MANIFEST}); prepare them, or {_CURE}"
    manifest: dict[str, Any] = manifest_tree(folder, absent, _CURE)
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION or manifest.get("content") != "pictures":
        raise DataError(f"{path}: not the manifest of pictures that this Corestone reads (version {VERSION}); {_CURE}")
    check_keys(path, manifest, {"fingerprint", "splits", "classes", "shape", "channels", "options"}, _CURE)
    return manifest
