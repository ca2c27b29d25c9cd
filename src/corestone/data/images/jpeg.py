"""A part of an image file's pixels, decoded no further than it reaches.

JPEG files are read by libjpeg-turbo directly. Pillow reads them by the same library, so pixels are the same bit for
bit, but copies them twice. Taken are baseline and progressive files of 8 bits, grey or of three colours, whole and not
turned by EXIF; everything else goes by `decode`, whose policy holds for all.

A baseline file is one stream of blocks from top to bottom. So where the part ends above the picture's lower edge, the
height in the file's head is lowered to that of the blocks needed, and the rest is never decoded.
"""

from __future__ import annotations

from dataclasses import dataclass

import simplejpeg

from corestone.data.images.decode import Rules, decode, upright
from corestone.data.images.picture import Box, Choose, Pixels, Size, cut

_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_BASELINE, _FRAMES = (0xC0, 0xC1), (0xC0, 0xC1, 0xC2)
_OTHER_FRAMES = frozenset({*range(0xC3, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SCAN, _EXIF, _ADOBE = 0xDA, 0xE1, 0xEE
_YCC = 1  # Adobe's number of the usual three colours
_BLOCK = 8
_BELOW = 2  # rows under the last one that smoothing between halved colour rows looks at
_SCALES = (8, 4, 2)


@dataclass(frozen=True)
class Head:
    """What is needed of a JPEG file's head.

    Attributes:
        size: height and width.
        channels: 1 or 3.
        height_at: place of the height's two bytes.
        unit: rows of the blocks that are coded together.
        one_scan: baseline, all channels in one stream.
        exif: whether there is a segment that may turn the picture.
    """

    size: Size
    channels: int
    height_at: int
    unit: int
    one_scan: bool
    exif: bool


def part_of(data: bytes, rules: Rules, choose: Choose, least: Size | None = None) -> Pixels | str:
    """The part of an image file that `choose` names once it is told the height and width.

    Args:
        least: a JPEG file may be decoded at 1/2, 1/4 or 1/8 of its scale as long as the part stays at least as high and
            wide as this; None: always at full scale.

    Returns:
        pixels (h, w, C), an array of its own; or the reason why the file is refused, as `decode` does.
    """
    head = jpeg_head(data)
    if head is None or not _taken(head, data, rules):
        done = decode(data, rules)
        return done if isinstance(done, str) else cut(done.pixels, choose(done.pixels.shape[:2]))
    box = choose(head.size)
    found = _decoded(data, head, box, _scale(box, least), rules.channels)
    if found is None:
        done = decode(data, rules)
        return done if isinstance(done, str) else cut(done.pixels, box)
    return found


def jpeg_head(data: bytes) -> Head | None:
    """Read a JPEG file's segments up to its first scan; None for what is not taken (ITU-T T.81, annex B)."""
    if not data.startswith(_START) or not data.endswith(_END):
        return None
    place, frame, exif = 2, 0, False
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != _SCAN:
        kind, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if kind in _OTHER_FRAMES or (kind in _FRAMES and frame):
            return None
        if kind == _ADOBE and data[place + 4 : place + 9] == b"Adobe" and data[place + 15] != _YCC:
            return None
        frame = place if kind in _FRAMES else frame
        exif |= kind == _EXIF
        place += 2 + length
    if not frame or place + 5 > len(data) or data[place] != 0xFF:
        return None
    height, width = (int.from_bytes(data[frame + at : frame + at + 2], "big") for at in (5, 7))
    channels = data[frame + 9]
    if data[frame + 4] != 8 or channels not in (1, 3) or not height or not width:
        return None
    rows = max(data[frame + 11 + 3 * channel] & 15 for channel in range(channels))
    one_scan = data[frame + 1] in _BASELINE and data[place + 4] == channels
    return Head((height, width), channels, frame + 5, _BLOCK * rows, one_scan, exif)


def _taken(head: Head, data: bytes, rules: Rules) -> bool:
    height, width = head.size
    fits = height * width <= rules.max_pixels and head.channels in (1, rules.channels)
    return fits and (not head.exif or upright(data))


def _scale(box: Box, least: Size | None) -> int:
    """What the scale is divided by."""
    _, _, height, width = box
    if least is None:
        return 1
    return next((by for by in _SCALES if height // by >= least[0] and width // by >= least[1]), 1)


def _decoded(data: bytes, head: Head, box: Box, by: int, channels: int) -> Pixels | None:
    """The box of a picture decoded at 1/`by` of its scale; None where the library refuses the file."""
    top, left, height, width = box
    rows, columns = head.size
    if head.one_scan:
        rows = min(rows, -(-(top + height + _BELOW) // head.unit) * head.unit)
    short = rows < head.size[0]
    if short:
        data = data[: head.height_at] + rows.to_bytes(2, "big") + data[head.height_at + 2 :]
    size = -(-rows // by), -(-columns // by)
    least = {"min_height": size[0], "min_width": size[1], "min_factor": by} if by > 1 else {}
    try:
        # What is left of a stream that was to go on is a recoverable error. Pillow forgives these, too.
        pixels = simplejpeg.decode_jpeg(data, "RGB" if channels == 3 else "GRAY", strict=not short, **least)
    except ValueError:
        return None
    if pixels.shape[:2] != size:
        return None
    high, wide = height // by, width // by
    part = round(top / by), round(left / by), high, wide
    return cut(pixels, (min(part[0], size[0] - high), min(part[1], size[1] - wide), high, wide))
