"""What a model sees of a set, for the eye."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from corestone.core.errors import DataError
from corestone.data.images.augment import denormalise
from corestone.data.images.augment_spec import Augmentation
from corestone.data.images.loader import ImageLoader, Pictures

_GAP = 2  # white pixels between pictures


def preview(pictures: Pictures, spec: Augmentation, seed: int, rows: int = 4, columns: int = 8) -> NDArray[np.uint8]:
    """A grid of augmented pictures, row by row: the first training batch of rows * columns pictures.

    Returns pixels (height, width, channels) with a white line between pictures. Raises DataError as ImageLoader does.
    """
    if rows < 1 or columns < 1:
        raise DataError(f"a grid of {rows} x {columns} pictures holds none; ask for one of each at least")
    batch = ImageLoader(pictures, spec, seed, rows * columns).batch(0)
    shown = denormalise(spec, batch.images_BCHW).permute(0, 2, 3, 1).numpy()
    height, width = spec.size[0] + _GAP, spec.size[1] + _GAP
    grid = np.full((rows * height - _GAP, columns * width - _GAP, spec.channels), 255, dtype=np.uint8)
    for number, picture in enumerate(shown):
        top, left = number // columns * height, number % columns * width
        grid[top : top + spec.size[0], left : left + spec.size[1]] = picture
    return grid
