"""Image files to pixels, by one stated policy.

| what comes in                     | what comes out                                                  |
| --------------------------------- | --------------------------------------------------------------- |
| JPEG PNG WebP GIF BMP TIFF PPM    | uint8 (H, W, 3) red, green, blue, or (H, W, 1) grey             |
| nothing (no bytes)                | refused: "empty file"                                           |
| another kind of file              | refused: "not an image of a known kind"                         |
| cut short                         | refused: "truncated image"                                      |
| damaged otherwise                 | refused: "corrupt image"                                        |
| more than `max_pixels`            | refused before anything is decoded: "too many pixels"           |
| 32-bit values (no stated range)   | refused: "32-bit values"                                        |
| CMYK                              | converted by Pillow's plain formula, without a colour profile   |
| palette                           | its colours                                                     |
| transparency                      | laid over white                                                 |
| 16 bits per value                 | the upper 8 of them                                             |
| several frames or pictures        | the first one                                                   |
| EXIF orientation                  | turned as a viewer shows it                                     |
| EXIF that cannot be read          | not turned                                                      |

What is changed is counted by name; colour profiles are not applied. EXIF and other metadata are not kept in pixels.
Formats that run programs (EPS) are never opened.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from corestone.data.images.picture import Pixels

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
"""How the names of files of these formats end."""

_ORIENTATION = 0x0112
_PNG_DEPTH = 24  # place of the bit depth, behind signature, chunk head, width and height


@dataclass(frozen=True)
class Rules:
    """What `decode` makes and refuses: `channels` 3 (colour) or 1 (grey), and pictures of more than `max_pixels`."""

    channels: int
    max_pixels: int


@dataclass(frozen=True)
class Decoded:
    """Pixels (H, W, C) uint8, and the names of what was changed on the way."""

    pixels: Pixels
    changed: tuple[str, ...] = ()


def decode(data: bytes, rules: Rules) -> Decoded | str:
    """Decode an image file by the policy above; a string is the reason why it is refused. Safe to call in threads."""
    if not data:
        return "empty file"
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > rules.max_pixels:
                return "too many pixels"
            image.load()
            return _pixels(image, data, rules)
    except UnidentifiedImageError:
        # A known signature with a damaged head is not identified either.
        return "not an image of a known kind" if ending(data) == "img" else "corrupt image"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the latter where warnings are errors
        return "too many pixels"
    except Exception as error:  # Pillow's readers raise many unrelated types for damaged files
        return "truncated image" if "truncated" in str(error).lower() else "corrupt image"


def _pixels(image: Image.Image, data: bytes, rules: Rules) -> Decoded | str:
    """A loaded image's first picture, turned, over white, in the wanted channels."""
    changed: list[str] = []
    if image.mode in ("I", "F"):
        return "32-bit values"
    several = _has_more(image)
    if several:
        changed.append("first of several pictures")
    frame = _turned(image, changed)
    if image.format == "PNG" and data[_PNG_DEPTH] == 16 and not frame.mode.startswith("I;16"):
        changed.append("16 bits to 8")  # Pillow keeps the upper half of colours by itself
    if frame.mode.startswith("I;16"):
        changed.append("16 bits to 8")
        frame = Image.fromarray((np.asarray(frame) >> 8).astype(np.uint8))
    if frame.mode == "CMYK":
        changed.append("CMYK")
    if frame.mode in ("P", "PA"):
        changed.append("palette")
    if frame.has_transparency_data:
        frame = frame.convert("RGBA")
        if frame.getextrema()[3][0] < 255:
            changed.append("transparency over white")
        white = Image.new("RGBA", frame.size, (255, 255, 255, 255))
        frame = Image.alpha_composite(white, frame)
    pixels = np.array(frame.convert("RGB" if rules.channels == 3 else "L"), dtype=np.uint8)
    return Decoded(pixels.reshape(*pixels.shape[:2], rules.channels), tuple(changed))


def _has_more(image: Image.Image) -> bool:
    """Whether there is a second picture; afterwards the first one is loaded again."""
    try:
        image.seek(1)
    except Exception:  # EOFError where there is none; whatever is wrong with a second one is no matter
        more = False
    else:
        more = True
    if image.tell():
        image.seek(0)
    image.load()
    return more


def _turned(image: Image.Image, changed: list[str]) -> Image.Image:
    try:
        turn = image.getexif().get(_ORIENTATION, 1)
        frame = ImageOps.exif_transpose(image) if turn in range(2, 9) else image
    except Exception:  # see decode
        changed.append("unreadable EXIF")
        return image
    if frame is not image:
        changed.append("turned by EXIF")
    return frame


def upright(data: bytes) -> bool:
    """Whether EXIF leaves an image file as it lies; False where it cannot be read."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.getexif().get(_ORIENTATION, 1) not in range(2, 9)
    except Exception:  # see decode
        return False


def ending(data: bytes) -> str:
    """The ending of a file of these bytes, by its signature; `img` where it is none that is known."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return "img"


_SIGNATURES = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
    (b"P5", "pgm"),
    (b"P6", "ppm"),
)
