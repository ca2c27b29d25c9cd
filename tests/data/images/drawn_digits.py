"""Pictures with real structure, made in memory: seven-segment digits of a place, stroke and colour of their own."""

from __future__ import annotations

import numpy as np

from corestone.core.errors import DataError
from corestone.core.rng import Draws
from corestone.data.images.picture import Choose, Size, cut

SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abfgcd")


def digit(number: int, pixels: np.ndarray, top: int, left: int, unit: int, stroke: int, colour: np.ndarray) -> None:
    """Write a digit `unit` wide and twice as high into pixels (H, W, C)."""
    places = {
        "a": (0, 0, 1, 0),
        "g": (1, 0, 1, 0),
        "d": (2, 0, 1, 0),
        "f": (0, 0, 0, 1),
        "b": (0, 1, 0, 1),
        "e": (1, 0, 0, 1),
        "c": (1, 1, 0, 1),
    }
    for segment in SEGMENTS[number]:
        down, right, wide, high = places[segment]
        y, x = top + down * unit, left + right * unit
        pixels[y : y + high * unit + stroke, x : x + wide * unit + stroke] = colour


class Digits:
    """A picture set. `broken` is the number of a picture that cannot be read; None: all can."""

    def __init__(self, count: int, height: int = 28, width: int = 28, channels: int = 1, uneven: bool = False) -> None:
        self.classes: tuple[str, ...] = tuple(str(number) for number in range(10))
        self.labels = (np.arange(count, dtype=np.int64) * 7) % 10
        self.fingerprint = f"digits-{count}-{height}-{width}-{channels}-{uneven}"
        self.broken: int | None = None
        self._shape, self._uneven = (height, width, channels), uneven

    def __len__(self) -> int:
        return len(self.labels)

    def id(self, i: int) -> str:
        return f"digit-{i}"

    def pixels(self, i: int) -> np.ndarray:
        if i == self.broken:
            raise DataError(f"picture '{self.id(i)}': the file ends early; prepare the set again")
        height, width, channels = self._shape
        numbers = Draws(17, range(i, i + 1)).uniform(16)[0].tolist()
        if self._uneven:
            height, width = height + int(numbers[0] * height), width + int(numbers[1] * width)
        shade = np.linspace(0, 60 * numbers[2], width)[None, :, None]
        pixels = np.broadcast_to(shade, (height, width, channels)).astype(np.uint8)
        unit = max(2, int(min(height, width) * (0.2 + 0.15 * numbers[3])))
        top, left = (
            int(number * (length - factor * unit - 3))
            for number, length, factor in ((numbers[4], height, 2), (numbers[5], width, 1))
        )
        colour = np.array([120 + 135 * number for number in numbers[6 : 6 + channels]]).astype(np.uint8)
        digit(int(self.labels[i]), pixels, max(0, top), max(0, left), unit, 2 + int(2 * numbers[9]), colour)
        return pixels

    def part(self, i: int, choose: Choose, least: Size | None = None) -> np.ndarray:
        pixels = self.pixels(i)
        return cut(pixels, choose(pixels.shape[:2]))
