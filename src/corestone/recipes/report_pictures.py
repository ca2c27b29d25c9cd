"""Pictures that an evaluation leaves in the run's folder, for the report to show.

    pictures/augmented.png       a grid of training pictures as the model saw them
    pictures/NAME-00.png         held-out pictures as the model saw them, in the order of NAME in evaluation.json
    ...

Files of an earlier evaluation are taken away.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corestone.data.images.augment import evaluation_picture
from corestone.data.images.picture_set import PictureSet
from corestone.data.images.preview import preview
from corestone.recipes.images import ImageData
from corestone.recipes.pairs import PairData
from corestone.recipes.spec import Run

Pixels = NDArray[np.uint8]

GRID_BYTES, EACH_BYTES = 110_000, 3_500
"""The grid and each picture are made smaller until they take no more: with 24 pictures, below 200 kB together."""
SMALL = 64
"""Pixels of a side up to which the grid has eight columns; four of larger pictures, which have more to show."""


def keep_pictures(
    folder: Path, run: Run, data: ImageData | PairData, side: PictureSet, shown: Mapping[str, Sequence[int]]
) -> None:
    """Write the pictures for the report, in place of those of an earlier evaluation.

    Args:
        shown: numbers of pictures of the side, by the name that their files get.
    """
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    spec, batch = data.spec.augmentation, data.batch(run)[0]
    columns = min(8 if max(spec.size) <= SMALL else 4, batch)
    grid = preview(data.sides["train"], spec, run.seed, min(4, batch // columns), columns)
    (folder / "augmented.png").write_bytes(small_png(with_clear_gaps(grid, spec.size, columns), GRID_BYTES))
    for name, places in shown.items():
        for number, place in enumerate(places):
            pixels = evaluation_picture(spec, side.pixels(place)).permute(1, 2, 0).numpy()
            (folder / f"{name}-{number:02d}.png").write_bytes(small_png(pixels, EACH_BYTES))


def with_clear_gaps(grid: Pixels, size: tuple[int, int], columns: int) -> Pixels:
    """A grid of pictures of this size with a further channel that lets the page show between them."""
    gap = (grid.shape[1] - columns * size[1]) // max(1, columns - 1)
    down, right = (np.arange(length) % (side + gap) < side for length, side in zip(grid.shape[:2], size, strict=True))
    return np.dstack([grid, np.where(down[:, None] & right, 255, 0).astype(np.uint8)])


def small_png(pixels: Pixels, most: int) -> bytes:
    """Pixels (H, W, 1 to 4: grey or colours, and what is opaque) as a PNG file, scaled down by as little as keeps it
    within so many bytes."""
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    width, height = picture.size
    for scale in 0.9 ** np.arange(40):
        size = max(1, round(width * scale)), max(1, round(height * scale))
        stream = io.BytesIO()
        (picture if size == picture.size else picture.resize(size, Image.Resampling.BOX)).save(stream, "png")
        if stream.tell() <= most:
            break
    return stream.getvalue()
