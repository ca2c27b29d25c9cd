"""What a picture source gives, and on which side of the split each picture stands."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corestone.data.document import position

Pixels = NDArray[np.uint8]
"""(H, W, C), C = 1 grey or 3 red, green, blue."""
Size = tuple[int, int]
"""Height and width."""
Box = tuple[int, int, int, int]
"""Top, left, height and width of a part of a picture."""
Choose = Callable[[Size], Box]
"""Names a part of a picture by the picture's height and width."""


def whole(size: Size) -> Box:
    """All of a picture."""
    return 0, 0, *size


def cut(pixels: Pixels, box: Box) -> Pixels:
    """A part of a picture, as an array of its own."""
    top, left, height, width = box
    return np.array(pixels[top : top + height, left : left + width], order="C")


Label = str | tuple[str, ...] | None
"""A class, several classes, or nothing known."""


@dataclass(frozen=True)
class Picture:
    """One picture, with what is known of it.

    Attributes:
        id: unique in its source: a file's path below the given folder, `file:row`, a member's name.
        content: the bytes of an image file, or pixels (H, W, C) uint8.
        split: its side: `train`, `validation`, `test` or `unlabelled`.
        source: where it was read: the file as it was given, or the data set's name.
        label: the name of its class; where several may apply at once, those that do, perhaps none; None: nothing is
            known.
        captions: sentences that describe it.
    """

    id: str
    content: bytes | Pixels
    split: str
    source: str
    label: Label = None
    captions: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the file's bytes, or of the pixels and their shape."""
        if isinstance(self.content, bytes):
            return bytes_sha256(self.content)
        return pixels_sha256(self.content)


def several(values: Any) -> tuple[str, ...] | None:
    """A list of classes as a label, each once and by name; None where it is no list of texts and whole numbers."""
    if not isinstance(values, list) or any(not isinstance(value, (str, int)) for value in values):
        return None
    names = {str(value).strip() for value in values}
    return tuple(sorted(names - {""}))


def bytes_sha256(data: bytes) -> str:
    """Hash bytes to 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def pixels_sha256(pixels: Pixels) -> str:
    """Hash pixels together with their shape."""
    return bytes_sha256(repr(pixels.shape).encode() + pixels.tobytes())


def side_of_three(group: str, validation_percent: float, test_percent: float) -> str:
    """Say on which side a group stands: by `position`, first validation, then test, then train.

    The validation side is that of `document.side`, whatever the share of the test side.
    """
    place = position(group)
    if place < validation_percent:
        return "validation"
    return "test" if place < validation_percent + test_percent else "train"
