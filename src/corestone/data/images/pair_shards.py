"""Pictures with captions as webdataset shards, which `WebDataset` sources and other tools read.

folder/SIDE-00000.tar    000000000.jpg, .json (id, source, caption, similarity, label) and, of one caption, .txt
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from corestone.core.errors import DataError
from corestone.core.spec import parse
from corestone.data.images.decode import ending
from corestone.data.images.picture import Picture
from corestone.data.images.spec import Together, WebDataset


class PairShards:
    """Appends pictures with captions, each side to shards of its own; equal input gives equal bytes."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self._folder, self._shard_bytes = folder, shard_bytes
        self._open: dict[str, tarfile.TarFile] = {}
        self.shards: dict[str, int] = {}
        self.pictures: dict[str, int] = {}
        self.several = False

    def add(self, picture: Picture, similarities: Sequence[float]) -> None:
        """Append an encoded picture with its captions and how similar each is to it."""
        side, data = picture.split, picture.content
        if not isinstance(data, bytes):
            raise DataError(f"{picture.source}, {picture.id}: an array of pixels; shards hold encoded pictures")
        facts: dict[str, Any] = {
            "id": picture.id,
            "source": picture.source,
            "caption": list(picture.captions),
            "similarity": [round(value, 6) for value in similarities],
        }
        if picture.label is not None:
            facts["label"] = picture.label
            self.several |= isinstance(picture.label, tuple)
        members = {
            ending(data): data,
            "json": json.dumps(facts, ensure_ascii=False).encode("utf-8", "backslashreplace"),
        }
        if len(picture.captions) == 1:
            members["txt"] = picture.captions[0].encode("utf-8", "backslashreplace")
        shard = self._shard(side, sum(map(len, members.values())))
        number = self.pictures.get(side, 0)
        for kind, body in members.items():
            member = tarfile.TarInfo(f"{number:09d}.{kind}")
            member.size = len(body)
            shard.addfile(member, BytesIO(body))
        self.pictures[side] = number + 1

    def close(self) -> None:
        """Close the shards, complete or not."""
        for shard in self._open.values():
            shard.close()

    def _shard(self, side: str, size: int) -> tarfile.TarFile:
        """The shard that has room for so many bytes."""
        shard = self._open.get(side)
        if shard is None or shard.offset + size > self._shard_bytes:
            if shard is not None:
                shard.close()
            number = self.shards.get(side, 0)
            self._open[side] = tarfile.open(self._folder / f"{side}-{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed by `close`)
            self.shards[side] = number + 1
        return self._open[side]


def source_of(folder: Path, shards: dict[str, int], several: bool) -> Together:
    """The record that reads shards back, each side as it was; `several`: with lists of classes."""
    parts = []
    for side, count in sorted(shards.items()):
        numbers = f"{{00000..{count - 1:05d}}}" if count > 1 else "00000"
        told = {"shards": [str(folder / f"{side}-{numbers}.tar")], "side": side, "label_list": several}
        parts.append(parse(WebDataset, told, str(folder)))
    return Together(parts=tuple(parts))
