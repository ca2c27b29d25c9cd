"""Pictures that look alike: a hash of 64 bits that survives scaling and recompression, and a search for near ones.

The hash is that of the low frequencies (Zauner 2010, section 3.2.1; the library imagehash's `phash`): the picture in
grey at 32 x 32, its discrete cosine transform's 8 x 8 lowest coefficients, one bit each: above their median or not.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corestone.data.images.picture import Pixels

BITS = 64
_SIDE, _LOW = 32, 8


def _cosines() -> NDArray[np.float64]:
    """The first rows of the cosine transform (type II, unscaled) of 32 values."""
    frequency, place = np.mgrid[0:_LOW, 0:_SIDE]
    return np.asarray(2 * np.cos(np.pi * frequency * (2 * place + 1) / (2 * _SIDE)))


_TRANSFORM = _cosines()


def perceptual_hash(pixels: Pixels) -> int:
    """64 bits of a picture (H, W, 1 or 3); how many of them differ says how unlike two pictures look."""
    grey = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("L")
    small = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    low = _TRANSFORM @ small @ _TRANSFORM.T
    bits = np.packbits((low > np.median(low)).flatten())
    return int.from_bytes(bits.tobytes(), "big")


class NearDuplicates:
    """Hashes seen so far, searched exactly for those within `distance` bits.

    The bits are cut into `distance + 1` bands: two hashes that differ in no more bits agree in one band at least, so
    only hashes that share a band are compared. With n hashes that is about (distance + 1) * n / 2^(64 / (distance + 1))
    comparisons each: at distance 3, 61 of a million hashes; memory grows by some 50 bytes per band and hash.
    """

    def __init__(self, distance: int) -> None:
        self._distance = distance
        ends = np.linspace(0, BITS, distance + 2).round().astype(int).tolist()
        self._bands = [(start, (1 << (stop - start)) - 1) for start, stop in pairwise(ends)]
        self._held: list[dict[int, list[int]]] = [defaultdict(list) for _ in self._bands]

    def seen(self, value: int) -> bool:
        """Whether a hash within the distance was added."""
        for held, (start, mask) in zip(self._held, self._bands, strict=True):
            if any((value ^ other).bit_count() <= self._distance for other in held.get(value >> start & mask, ())):
                return True
        return False

    def add(self, value: int) -> None:
        """Remember a hash."""
        for held, (start, mask) in zip(self._held, self._bands, strict=True):
            held[value >> start & mask].append(value)
