"""What only the pages of runs on pictures with captions have: pictures beside their nearest captions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corestone.report.folder import Run
from corestone.report.pictures import Shown, list_of, shown_picture
from corestone.report.plots import Cell, coloured
from corestone.report.sections import Chart

LETTERS = 120
"""Of a caption, in the list of a picture; captions of the web may be pages long."""
LABEL_LETTERS = 22
"""Of a caption beside a row of the matrix."""


@dataclass(frozen=True)
class Said:
    """A caption, its cosine with the picture, and whether it is the picture's own."""

    text: str
    cosine: str
    own: bool


@dataclass(frozen=True)
class Look:
    """A picture, its own caption, the nearest ones, and where its own stands where it is not among these."""

    picture: Shown
    own: Said
    nearest: Sequence[Said]
    place: str


@dataclass(frozen=True)
class CaptionPage:
    """The sections; each is empty where the run folder does not tell it."""

    shown: Sequence[Look]
    among: str
    matrix: Chart | None
    mistaken: Sequence[Look]
    wrong: str


def caption_page(run: Run) -> CaptionPage:
    """Everything that a run on pictures with captions tells of single pictures."""
    found = (run.evaluation or {}).get("nearest_captions")
    tree: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    captions, pictures, mistakes = (_count(tree.get(key)) for key in ("captions", "pictures", "mistakes"))
    wrong = "" if None in (pictures, mistakes) else f"{mistakes:,} of {pictures:,} held-out pictures are mistaken"
    return CaptionPage(
        shown=_looks(run, tree, "shown", captions),
        among="" if captions is None else f"{captions:,} ",
        matrix=similarity_chart(tree),
        mistaken=_looks(run, tree, "mistaken", captions),
        wrong=wrong,
    )


def _count(found: Any) -> int | None:
    return found if type(found) is int and found >= 0 else None


def _looks(run: Run, tree: Mapping[str, Any], key: str, captions: int | None) -> list[Look]:
    """The pictures of a list whose files were kept."""
    looks = []
    for number, item in enumerate(list_of(tree.get(key))):
        own = _said([*list_of(item.get("own")), True]) if isinstance(item, Mapping) else None
        if own is None:
            continue
        picture = shown_picture(run, f"{key}-{number:02d}", f"{item.get('id')}: {own.text}")
        if picture is not None:
            near = [said for one in list_of(item.get("nearest")) if (said := _said(one)) is not None]
            looks.append(Look(picture, own, near, _place(item.get("before"), near, captions)))
    return looks


def _said(item: Any) -> Said | None:
    """A caption as the evaluation keeps it: text, cosine, whether it is own."""
    if not isinstance(item, list) or len(item) != 3 or not isinstance(item[0], str):
        return None
    cosine = _cosine(item[1])
    return Said(short(item[0], LETTERS), "–" if cosine is None else _told(cosine), item[2] is True)


def _cosine(found: Any) -> float | None:
    number = isinstance(found, (int, float)) and not isinstance(found, bool) and math.isfinite(found)
    return float(found) if number else None


def _told(cosine: float) -> str:
    """With two digits; what they round to nothing has no sign."""
    return f"{round(cosine, 2) + 0.0:.2f}".replace("-", "−")


def _place(before: Any, near: Sequence[Said], captions: int | None) -> str:
    """Where the nearest own caption stands, if it is not seen."""
    place = _count(before)
    if place is None or any(said.own for said in near):
        return ""
    return f"own caption: place {place + 1:,}" + ("" if captions is None else f" of {captions:,}")


def short(text: str, most: int) -> str:
    """A text of at most so many letters, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def similarity_chart(tree: Mapping[str, Any]) -> Chart | None:
    """Cosines of the shown pictures with each other's captions, drawn; None where they were not kept."""
    own = [list_of(item.get("own")) if isinstance(item, Mapping) else [] for item in list_of(tree.get("shown"))]
    rows = [[_pair(cell) for cell in list_of(row)] for row in list_of(tree.get("cosines"))]
    if len(rows) < 2 or len(own) != len(rows) or any(len(row) != len(rows) for row in rows) or not all(own):
        return None
    values = [cell[0] for row in rows for cell in row if cell is not None]
    if not values:
        return None
    low, room = min(values), max(values) - min(values)
    cells = [[None if pair is None else _cell(pair, low, room) for pair in row] for row in rows]
    left = [f"{short(str(one[0]), LABEL_LETTERS)}  {row}" for row, one in enumerate(own, start=1)]
    below = [str(column) for column in range(1, len(rows) + 1)]
    title, unit = "Similarity of pictures and captions", "cosine"
    describe = f"{title}: cosines of {len(rows)} pictures with the captions of each"
    svg = coloured("similarity", cells, (left, below, [_first(row) for row in rows]), describe, (7.4, 5.2), 9)
    axis = "a row per picture, a column per caption, the nearest at the row's end; the lowest cosine is palest"
    return Chart(title, unit, svg, axis, [("own caption", "c2", "line"), ("another's", "c1", "line")])


def _pair(cell: Any) -> tuple[float, bool] | None:
    """A cosine, and whether the caption is the picture's own."""
    if not isinstance(cell, list) or len(cell) != 2 or (cosine := _cosine(cell[0])) is None:
        return None
    return cosine, cell[1] is True


def _cell(pair: tuple[float, bool], low: float, room: float) -> Cell:
    cosine, own = pair
    strength = 0.04 + 0.5 * ((cosine - low) / room if room else 1.0)  # a number on it stays readable
    return Cell("c2" if own else "c1", strength, _told(cosine).replace("0.", ".", 1))


def _first(row: Sequence[tuple[float, bool] | None]) -> str:
    """The number of the caption nearest to the row's picture."""
    places = [place for place, pair in enumerate(row) if pair is not None]
    return str(1 + max(places, key=lambda place: (row[place] or (-math.inf, False))[0])) if places else ""
