"""Drawings of a colour font, each with the characters that it stands for.

A text engine that joins characters into one drawing is not at hand everywhere (Pillow's needs a library of the
system). The font's own table of joined characters is read in its place, and every drawing gets a character of its own.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from fontTools.ttLib import TTFont, TTLibError, newTable
from fontTools.ttLib.tables._c_m_a_p import CmapSubtable
from PIL import Image, ImageDraw, ImageFont

from corestone.core.errors import DataError

_LIGATURE = 4
"""The kind of substitution that joins glyphs into one (OpenType, GSUB)."""
_PRIVATE = 0xF0000
"""The first character of Unicode's supplementary private use area: 65,534 that stand for nothing."""
_LARGER = 3
"""Drawings are made so many times larger and then reduced, so that thin lines keep their weight."""


def colour_drawings(font: bytes, size: int, what: str) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """All drawings of a colour font (COLR, version 0), in the order of their code points.

    Each is as large as its square holds, in the middle, on nothing.

    Args:
        size: pixels of a side.
        what: names the font in errors.

    Yields:
        Code points as the font spells them, and a PNG file with transparency.

    Raises:
        DataError: this is no colour font, or a drawing is empty.
    """
    glyphs, own = _one_character_each(font, what)
    drawer = ImageFont.truetype(io.BytesIO(own), size * _LARGER, layout_engine=ImageFont.Layout.BASIC)
    for place, points in enumerate(glyphs):
        yield points, _png(_drawn(drawer, chr(_PRIVATE + place), f"{what}: {_hex(points)}"), size)


def _one_character_each(font: bytes, what: str) -> tuple[list[tuple[int, ...]], bytes]:
    """The code points of every coloured glyph, and the font in which the glyph at place n of that list is private
    character n."""
    try:
        table = TTFont(io.BytesIO(font))
        coloured, characters = table["COLR"].ColorLayers, table.getBestCmap()
        joined = _joined(table, {glyph: point for point, glyph in characters.items()})
    except (TTLibError, KeyError, AttributeError) as error:
        raise DataError(f"{what}: not a colour font with joined characters ({error}); fetch it again") from None
    spelt = {**{(point,): glyph for point, glyph in characters.items()}, **joined}
    points = sorted(sequence for sequence, glyph in spelt.items() if glyph in coloured)
    only = CmapSubtable.newSubtable(12)
    only.platformID, only.platEncID, only.language = 3, 10, 0
    only.cmap = {_PRIVATE + place: spelt[sequence] for place, sequence in enumerate(points)}
    table["cmap"] = newTable("cmap")
    table["cmap"].tableVersion, table["cmap"].tables = 0, [only]
    del table["GSUB"]
    out = io.BytesIO()
    table.save(out)
    return points, out.getvalue()


def _joined(table: TTFont, point_of: dict[str, int]) -> dict[tuple[int, ...], str]:
    """The glyph of every sequence of characters that the font joins."""
    found = {}
    for lookup in table["GSUB"].table.LookupList.Lookup:
        if lookup.LookupType == _LIGATURE:
            for part in lookup.SubTable:
                for first, ligatures in part.ligatures.items():
                    for one in ligatures:
                        found[tuple(point_of[glyph] for glyph in (first, *one.Component))] = one.LigGlyph
    return found


def _drawn(drawer: ImageFont.FreeTypeFont, character: str, where: str) -> Image.Image:
    """A character in its colours, on a square that its longer side fills."""
    left, top, right, bottom = drawer.getbbox(character)
    edge = drawer.size // 4  # a drawing may reach beyond its box, which is that of the glyph without colours
    sheet = Image.new("RGBA", (round(right - left) + 2 * edge, round(bottom - top) + 2 * edge))
    ImageDraw.Draw(sheet).text((edge - left, edge - top), character, font=drawer, embedded_color=True)
    box = sheet.getbbox()
    if box is None:
        raise DataError(f"{where}: an empty drawing; fetch the font again")
    part = sheet.crop(box)
    side = max(part.size)
    square = Image.new("RGBA", (side, side))
    square.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
    return square


def _png(square: Image.Image, size: int) -> bytes:
    out = io.BytesIO()
    square.resize((size, size), Image.Resampling.LANCZOS).save(out, "PNG")
    return out.getvalue()


def _hex(points: tuple[int, ...]) -> str:
    return "-".join(f"{point:X}" for point in points)
