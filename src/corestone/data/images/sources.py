"""Where pictures come from: one stream of pictures, whatever the source.

`pictures` is deterministic, streams in bounded memory, and counts whatever it does not give.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from corestone.core.paths import expanded
from corestone.core.spec import fingerprint, plain
from corestone.data.document import Counts, Problem, counted
from corestone.data.images.arrays import read_cifar10, read_idx, read_stl10
from corestone.data.images.embedded import embedded_images_fingerprint, image_entry, read_embedded_images
from corestone.data.images.files import folder_files, read_coco, read_folder, read_webdataset, shard_paths, shown
from corestone.data.images.picture import Picture
from corestone.data.images.spec import (
    Cifar10,
    CocoCaptions,
    EmbeddedImages,
    Idx,
    ImageFolder,
    ImageSource,
    ImageTable,
    Stl10,
    Together,
    WebDataset,
)
from corestone.data.images.tables import read_table, table_paths
from corestone.data.spec import OnBad


def pictures(source: ImageSource, on_bad: OnBad, counts: Counts) -> Iterator[Picture]:
    """Read a source.

    Args:
        on_bad: `stop` raises at the first input that cannot be read; `skip` counts it and goes on.
        counts: filled while reading.

    Raises:
        DataError: an input that cannot be read under `stop`, or nothing at all that could be.
    """
    return counted(_read(source), on_bad, counts, describe(source), "picture")


_READERS: dict[type[Any], Callable[[Any], Iterator[Picture | Problem]]] = {
    EmbeddedImages: read_embedded_images,
    ImageFolder: read_folder,
    Idx: read_idx,
    Cifar10: read_cifar10,
    Stl10: read_stl10,
    ImageTable: read_table,
    CocoCaptions: read_coco,
    WebDataset: read_webdataset,
}


def _read(source: ImageSource) -> Iterator[Picture | Problem]:
    if isinstance(source, Together):
        return chain.from_iterable(map(_read, source.parts))
    return _READERS[type(source)](source)


def images_fingerprint(source: ImageSource) -> str:
    """Name a source's content in 16 hex digits: another input or split gives another fingerprint.

    Files count by name, size and time of change, a catalogue entry by the hashes of its wheels. Of pictures that a
    table or COCO's captions name, only the table counts: where they change, delete the prepared set.
    """
    if isinstance(source, Together):
        return fingerprint([images_fingerprint(part) for part in source.parts])
    if isinstance(source, EmbeddedImages):
        return fingerprint(embedded_images_fingerprint(source))
    return fingerprint([plain(source), [_state(path) for path in _files(source)]])


def _files(source: Any) -> Iterator[Path]:
    if isinstance(source, (ImageFolder, Cifar10, Stl10)):
        yield from folder_files(expanded(source.path))
    elif isinstance(source, Idx):
        yield from (expanded(name) for name in (source.images, source.labels) if name)
    elif isinstance(source, ImageTable):
        yield from (path for path in table_paths(source) if isinstance(path, Path))
    elif isinstance(source, CocoCaptions):
        yield expanded(source.annotations)
    else:
        yield from shard_paths(source.shards)


def _state(path: Path) -> list[Any]:
    try:
        stat = os.stat(path)
    except OSError:
        return [shown(path), "missing"]
    return [shown(path), stat.st_size, stat.st_mtime_ns]


def card(source: ImageSource) -> list[dict[str, Any]]:
    """What a report says about a source, part by part: its licence where known, its split, what that leaves open."""
    if isinstance(source, Together):
        return [one for part in source.parts for one in card(part)]
    if isinstance(source, EmbeddedImages):
        item = image_entry(source)
        chosen = item.splits.get(source.split or next(iter(item.splits), ""), item.split)
        return [{**plain(item), "source": item.source, "split": chosen}]
    shares = f"{source.validation_percent:g} % validation, {source.test_percent:g} % test"
    return [
        {
            "name": describe(source),
            "title": "own pictures",
            "source": plain(source),
            "licence": "not stated",
            "split": f"all {source.side}" if source.side else f"by group or as the source says, {shares}",
            "not_controlled": "Related pictures may stand on both sides; only exact repeats are dropped.",
        }
    ]


def describe(source: ImageSource) -> str:
    """A source in a few words, for messages."""
    if isinstance(source, Together):
        return " + ".join(map(describe, source.parts))
    if isinstance(source, EmbeddedImages):
        return source.name
    if isinstance(source, (ImageFolder, Cifar10, Stl10)):
        return source.path
    if isinstance(source, ImageTable):
        return ", ".join(source.paths)
    if isinstance(source, WebDataset):
        return ", ".join(source.shards)
    return source.images if isinstance(source, Idx) else source.annotations
