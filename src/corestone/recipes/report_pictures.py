"""Pictures that an evaluation leaves in the run's folder, for the report to show.

    pictures/augmented.png       a grid of training pictures as the model saw them
    pictures/NAME-00.png         held-out pictures as the model saw them, in the order of NAME in evaluation.json
    ...
    pictures/attention-00.png    of a model that attends: held-out pictures, in the order of attention.shown
    pictures/attention-last-00.png, attention-rollout-00.png     where it looks in them, a pixel per place
    ...

Files of an earlier evaluation are taken away.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from corestone.core.batch import ImageBatch
from corestone.data.images.augment import colours, evaluation_picture
from corestone.data.images.picture_set import PictureSet
from corestone.data.images.preview import preview
from corestone.evaluate.attention_maps import attention_maps
from corestone.recipes.images import ImageData
from corestone.recipes.pairs import PairData
from corestone.recipes.spec import Run

Pixels = NDArray[np.uint8]

GRID_BYTES, EACH_BYTES, UNDER_BYTES = 110_000, 3_500, 5_000
"""The grid, each picture, and each one under maps of attention are made smaller until they take no more: with 24 and 12
pictures, and 24 maps, below 300 kB together."""
LOOKED_AT = 12
"""Held-out pictures, evenly spread, that are kept with maps of attention."""
HEAT, DENSEST = (255, 92, 0), 205
"""The maps' colour, and how opaque (of 255) their strongest place is."""
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


def keep_attention(
    folder: Path, model: Any, data: ImageData | PairData, side: PictureSet, says: Callable[[int], str]
) -> dict[str, Any] | None:
    """Write maps of a model's attention for the report, behind `keep_pictures`.

    Args:
        model: in evaluation mode.
        says: what a picture of the side shows, by its number.

    Returns:
        For evaluation.json: what looks, through how many layers, and of each picture its id, what it shows, and how
        many times an even share the strongest place of both maps has (None where there is no such map). None for a
        model without attention to places.
    """
    spec, device = data.spec.augmentation, next(model.parameters()).device
    shown, about = [], None
    for number in range(min(LOOKED_AT, len(side))):
        place = number * len(side) // min(LOOKED_AT, len(side))
        picture = evaluation_picture(spec, side.pixels(place))
        maps = attention_maps(model, ImageBatch(picture[None], colours=colours(spec)).to(device))
        if maps is None:
            return None
        seen, peaks = picture[:, : maps.seen[0], : maps.seen[1]], []
        (folder / f"attention-{number:02d}.png").write_bytes(small_png(seen.permute(1, 2, 0).numpy(), UNDER_BYTES))
        for name, found in (("last", maps.last_BHW), ("rollout", maps.rollout_BHW)):
            peaks.append(None if found is None else _peak(found[0]))
            if found is not None:
                (folder / f"attention-{name}-{number:02d}.png").write_bytes(_png(heat(found[0])))
        shown.append([side.id(place), says(place), *peaks])
        about = {"looks": maps.looks, "layers": maps.layers}
    return None if about is None else {**about, "shown": shown}


def heat(map_HW: Tensor) -> Pixels:
    """A map as a colour (H, W, 4) to lay over its picture: clear at its least, densest at its most."""
    map_HW = torch.nan_to_num(map_HW.float().cpu())
    room = float(map_HW.max() - map_HW.min())
    alpha_HW = (map_HW - map_HW.min()) / room * DENSEST if room > 0 else torch.zeros_like(map_HW)
    colour = np.broadcast_to(np.array(HEAT, dtype=np.uint8), (*map_HW.shape, 3))
    return np.dstack([colour, alpha_HW.round().numpy().astype(np.uint8)])


def _peak(map_HW: Tensor) -> float | None:
    """How many times the mean the most of a map is; None where a ruined model has none."""
    peak = float(map_HW.max() / map_HW.mean())
    return round(peak, 2) if math.isfinite(peak) else None


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
        content = _png(np.asarray(picture if size == picture.size else picture.resize(size, Image.Resampling.BOX)))
        if len(content) <= most:
            break
    return content


def _png(pixels: Pixels) -> bytes:
    """Pixels (H, W) or (H, W, 2 to 4) as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()
