"""Does a model compute the same from the same pictures in another library's hands? From uint8 pixels to logits.

Shape letters: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from corestone.core.batch import ImageBatch
from corestone.core.errors import CheckpointError, Disagreement
from corestone.data.images.augment import evaluation_picture, normalise
from corestone.data.images.augment_spec import Augmentation
from corestone.interop.agreement import agree, cannot_load, check_loading, quiet
from corestone.interop.pictured import Pictured, Pixels, crops, resize_of
from corestone.interop.weights import build_with
from corestone.models.coatnet import build_coatnet
from corestone.models.picture_spec import ImageEncoder

TOLERANCE = 1e-4
"""Largest difference allowed between two logits of one picture, from its uint8 pixels on."""

ROUNDING = 1e-3
"""Largest difference, in levels of 255, between two pixels that are the same but for rounding."""

RESIZED = {"bilinear": 1, "bicubic": 2}
"""Largest difference, in whole levels, that another make of a resize may have: measured between torchvision's and
Pillow's, which rounds between its two passes."""

PICTURES = 3
LEVELS = (64, 193)
"""Of the pictures. Bicubic resizing of brighter or darker noise would be cut off at black or white, by Pillow after
each of its two passes, by up to 20 levels of difference."""


@dataclass(frozen=True)
class Seen:
    """What one library makes of some pictures.

    Attributes:
        pixels_BCHW: what its preprocessing gives, as float64.
        logits: of such pixels (B, C, H, W) in any precision, in the same: (B, K).
    """

    pixels_BCHW: Tensor
    logits: Callable[[Tensor], Tensor]


def some_pictures(seen: Augmentation) -> list[Pixels]:
    """Random pictures that evaluation takes; one of them grey where it turns grey ones into colour.

    Of an odd number of pixels to cut off, libraries round the half either way: such pictures are left out where others
    are found.
    """
    (h, w), resize = seen.size, resize_of(seen)
    shapes = [(h, w)] * PICTURES
    if resize is not None and resize.shorter is None:
        shapes = [(h, w), (2 * h + 1, 3 * w), (h * 3 // 4 + 1, w + 5)]
    elif resize is not None and crops(seen.evaluation):
        s = resize.shorter or 0
        candidates = [(s, s), (2 * s, 2 * s + 1), (s + 9, s), (3 * s, 2 * s), (s, s + 17), (s, 2 * s), (s // 2 + 1, s)]
        alike = [shape for shape in candidates if not _rounds_up(shape, s, seen.size)]
        shapes = (alike or candidates)[:PICTURES]
    elif resize is not None:
        shapes = [(h * times, w * times) for times in (1, 2, 3)]
    elif crops(seen.evaluation):
        shapes = [(h, w), (h + 1, w + 4), (h + 5, w + 2)]
    generator = np.random.default_rng(0)
    return [
        generator.integers(*LEVELS, (*shape, 1 if place == 1 else seen.channels), dtype=np.uint8)
        for place, shape in enumerate(shapes)
    ]


def _rounds_up(shape: tuple[int, int], shorter: int, size: tuple[int, int]) -> bool:
    """Whether half of what is cut off above or at the left is a half that is rounded up to an even number."""
    resized = [shorter if side == min(shape) else int(shorter * side / min(shape)) for side in shape]
    return any((have - want) % 4 == 3 for have, want in zip(resized, size, strict=True))


def picture_model(spec: Pictured, tensors: Mapping[str, Tensor], where: str) -> Any:
    """A model in evaluation mode that holds exactly these weights and statistics.

    Raises CheckpointError naming what is missing, unexpected or misshaped.
    """
    if isinstance(spec, ImageEncoder):
        return build_with(spec, tensors, where)
    model = build_coatnet(spec)
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CheckpointError(
            f"{where}: the weights do not fit its model.yaml ({' '.join(str(error).split())})"
        ) from None
    return model.eval()


def ours(model: Any, seen: Augmentation, pictures: Sequence[Pixels]) -> Seen:
    """What one of our models makes of pictures, by the run's own evaluation."""
    pixels = torch.stack([normalise(seen, evaluation_picture(seen, picture)) for picture in pictures])
    return Seen(pixels.double(), logits_of(model))


def logits_of(model: Any) -> Callable[[Tensor], Tensor]:
    """Of one of our models, by pixels."""

    @torch.no_grad()
    def compute(pixels_BCHW: Tensor) -> Tensor:
        cast = model.to(pixels_BCHW.dtype)
        logits_BK: Tensor = cast.head(cast(ImageBatch(pixels_BCHW)).hidden)
        return logits_BK

    return compute


def compare(what: str, mine: Seen, other: Seen, seen: Augmentation, where: str) -> list[str]:
    """Say how well two libraries agree, of the same pixels and from the pictures on, a line each.

    A resize of another make may round a pixel to another of the 255 levels; what that does to the logits is told.

    Raises CheckpointError where the logits of the same pixels differ, or the pixels do by more.
    """

    def by(logits: Callable[[Tensor], Tensor], pixels_BCHW: Tensor) -> Callable[[torch.dtype], Tensor]:
        return lambda dtype: logits(pixels_BCHW.to(dtype))

    same = agree(f"{what}, same pixels", by(mine.logits, mine.pixels_BCHW), by(other.logits, mine.pixels_BCHW), where)
    if mine.pixels_BCHW.shape != other.pixels_BCHW.shape:
        raise Disagreement(
            f"{where}: refused, nothing was written: {what} makes pixels of shape {list(other.pixels_BCHW.shape)} of "
            f"pictures, the run {list(mine.pixels_BCHW.shape)}"
        )
    std = torch.tensor(seen.std, dtype=torch.float64)[:, None, None]
    levels_BCHW = (mine.pixels_BCHW - other.pixels_BCHW).abs() * 255 * std
    worst, begun = float(levels_BCHW.max()), f"{what}, from {len(mine.pixels_BCHW)} pictures on"
    if worst <= ROUNDING:
        whole = agree(begun, by(mine.logits, mine.pixels_BCHW), by(other.logits, other.pixels_BCHW), where, TOLERANCE)
        return [same, whole]
    resize = resize_of(seen)
    if resize is None or not worst <= RESIZED[resize.interpolation] + ROUNDING:
        raise Disagreement(
            f"{where}: refused, nothing was written: {what} gives other pixels (largest difference {worst:.3g} levels "
            "of 255)"
        )
    moved = mine.logits(mine.pixels_BCHW.float()) - other.logits(other.pixels_BCHW.float())
    share = float((levels_BCHW > ROUNDING).double().mean())
    told = f"its resize rounds {share:.2%} of the values to another level of 255, which moves logits by at most"
    return [same, f"{begun}: {told} {float(moved.abs().max()):.2g}"]


def as_pillow(picture: Pixels, channels: int) -> Any:
    """A picture as these libraries are given them."""
    grey = picture.shape[2] == 1
    return Image.fromarray(picture[..., 0] if grey else picture).convert("L" if channels == 1 else "RGB")


def check_transformers(
    folder: Path, mine: Seen, seen: Augmentation, pictures: Sequence[Pixels], where: str
) -> list[str]:
    """Load an exported folder with `transformers` and compare; where it is not installed, one line that says so."""
    try:
        import transformers
    except ImportError:
        return ["transformers: not checked, the library is not installed (pip install 'corestone[hf]')"]
    with quiet(transformers):
        try:
            model, loading = transformers.AutoModelForImageClassification.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
            processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
            given = [as_pillow(picture, seen.channels) for picture in pictures]
            pixels = torch.cat([processor(one, return_tensors="pt")["pixel_values"] for one in given])
        except Exception as error:  # the library's errors have no base of their own
            raise cannot_load("transformers", error, where) from None
    check_loading(loading, where)
    model.eval()

    @torch.no_grad()
    def logits(pixels_BCHW: Tensor) -> Tensor:
        found: Tensor = model.to(pixels_BCHW.dtype)(pixels_BCHW).logits
        return found

    name = f"transformers {transformers.__version__} ({type(model).__name__}, {type(processor).__name__})"
    return compare(name, mine, Seen(pixels.double(), logits), seen, where)
