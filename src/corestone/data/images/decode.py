"""Image files to pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from corestone.data.images.picture import Pixels


@dataclass(frozen=True)
class Rules:
    channels: int = 3
    max_pixels: int = 64_000_000


@dataclass(frozen=True)
class Decoded:
    pixels: Pixels
    changed: tuple[str, ...] = ()


def decode(data: bytes, rules: Rules) -> Decoded | str:
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB" if rules.channels == 3 else "L"))
    return Decoded(pixels.reshape(*pixels.shape[:2], rules.channels))


def ending(data: bytes) -> str:
    return "png"
