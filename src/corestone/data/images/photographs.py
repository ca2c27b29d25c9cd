"""Photographs out of the catalogue's wheel, in grey."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator

import numpy as np

from corestone.core.errors import DataError
from corestone.data.catalogue import CatalogueEntry, wheel_of
from corestone.data.images.decode import Rules, decode
from corestone.data.images.picture import Pixels

FILES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
"""The photographs in the wheel of scikit-image, without drawings, charts, scanned pages, and a second view of the
motorcycle."""

_RULES = Rules(channels=1, max_pixels=2_000_000)


def photographs(item: CatalogueEntry) -> Iterator[tuple[str, Pixels]]:
    """Name and grey pixels (H, W, 1) of each."""
    with zipfile.ZipFile(wheel_of(item)) as archive:
        for file in FILES:
            found = decode(archive.read(f"skimage/data/{file}"), _RULES)
            if isinstance(found, str):
                raise DataError(f"data set '{item.name}': {file}: {found}")
            yield file.partition(".")[0], found.pixels


def tiles(pixels: Pixels, side: int) -> np.ndarray:
    """A picture's square parts (rows of tiles, columns of tiles, side, side), without what is left right and below."""
    rows, columns = (size // side for size in pixels.shape[:2])
    return pixels[: rows * side, : columns * side, 0].reshape(rows, side, columns, side).swapaxes(1, 2)
