"""A colour font made here, of rectangles whose places and colours are known, and its drawings."""

from __future__ import annotations

import io

import numpy as np
import pytest
from fontTools.feaLib.builder import addOpenTypeFeaturesFromString
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from corestone.core.errors import DataError
from corestone.data.images.colour_font import colour_drawings

RED, BLUE = (255, 0, 0), (0, 0, 255)


def rectangle(left: int, bottom: int, right: int, top: int):
    pen = TTGlyphPen(None)
    pen.moveTo((left, bottom))
    for corner in ((left, top), (right, top), (right, bottom)):
        pen.lineTo(corner)
    pen.closePath()
    return pen.glyph()


def colour_font(colours: bool = True, b: tuple[int, int, int, int] = (100, 100, 900, 500)) -> bytes:
    """`a` is a wide red bar, `b` a blue one, and `a` with `b` behind it a red square with blue at its right."""
    names = [".notdef", "a", "b", "c", "a_b", "wide", "low", "square", "right"]
    build = FontBuilder(1000, isTTF=True)
    build.setupGlyphOrder(names)
    build.setupCharacterMap({ord("a"): "a", ord("b"): "b", ord("c"): "c"})
    shapes = {"wide": (100, 0, 900, 200), "low": b, "square": (200, 0, 800, 600), "right": (600, 0, 800, 600)}
    boxes = shapes | {"a": shapes["wide"], "b": b, "a_b": shapes["square"]}
    build.setupGlyf({name: rectangle(*boxes.get(name, (0, 0, 500, 500))) for name in names})
    build.setupHorizontalMetrics({name: (1000, boxes.get(name, (0,))[0]) for name in names})
    build.setupHorizontalHeader(ascent=800, descent=-200)
    build.setupOS2(sTypoAscender=800, sTypoDescender=-200)
    build.setupNameTable({"familyName": "Rectangles", "styleName": "Regular"})
    build.setupPost()
    if colours:
        build.setupCPAL([[(*(value / 255 for value in colour), 1.0) for colour in (RED, BLUE)]])
        build.setupCOLR({"a": [("wide", 0)], "b": [("low", 1)], "a_b": [("square", 0), ("right", 1)]}, version=0)
        addOpenTypeFeaturesFromString(build.font, "feature ccmp { sub a b by a_b; } ccmp;")
    out = io.BytesIO()
    build.save(out)
    return out.getvalue()


def drawings(font: bytes) -> dict[str, np.ndarray]:
    found = {}
    for points, data in colour_drawings(font, 24, "font.ttf"):
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.size) == ("PNG", (24, 24))
            found["".join(map(chr, points))] = np.array(image.convert("RGBA"))
    return found


def test_each_coloured_glyph_is_drawn_with_what_it_stands_for():
    found = drawings(colour_font())
    assert list(found) == ["a", "ab", "b"]  # `c` has no colours
    # A bar four times as wide as high fills the width, and a quarter of the height in the middle.
    for name, colour, share in (("a", RED, 1 / 4), ("b", BLUE, 1 / 2)):
        seen = found[name][..., 3] > 127
        assert seen.mean() == pytest.approx(share, abs=1 / 24)  # one row of pixels; seen: 0.0
        rows = np.flatnonzero(seen.any(axis=1))
        assert rows.min() + rows.max() == 23
        assert seen[rows.min()].all()
        assert (found[name][12, 12, :3] == colour).all()
    both = found["ab"][..., :3]
    assert (both[12, 2] == RED).all()
    assert (both[12, 20] == BLUE).all()
    # The right third is blue.
    assert (both[..., 2] > 127).mean() == pytest.approx(1 / 3, abs=1 / 24)


@pytest.mark.parametrize(("font", "told"), [(b"nothing", "not a colour font"), (colour_font(colours=False), "'COLR'")])
def test_other_files_are_refused(font: bytes, told: str):
    with pytest.raises(DataError, match=rf"font\.ttf: .*{told}.*fetch it again"):
        list(colour_drawings(font, 24, "font.ttf"))


def test_an_empty_drawing_is_refused_by_its_code_points():
    with pytest.raises(DataError, match=r"font\.ttf: 62: an empty drawing"):
        list(colour_drawings(colour_font(b=(100, 100, 100, 100)), 24, "font.ttf"))
