"""What only the pages of runs on pictures have: which classes are mixed up, calibration, and pictures themselves."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corestone.core.metric import Metric
from corestone.report.folder import Run
from corestone.report.plots import Look, Series, matrix
from corestone.report.sections import OF_CLASS, Chart, chart
from corestone.report.units import interval, told

MATRIX_CLASSES = 40
"""Classes up to which a confusion matrix can be read."""
BESIDE_CLASSES = 12
"""Classes up to which it can be read in half of the page's width."""
OPEN_ROWS = 12
"""Rows of a table shown at once; the others can be opened."""


@dataclass(frozen=True)
class Shown:
    """A picture of the page: its file as a data URI, its size in pixels, what it shows, and what stands below it."""

    uri: str
    width: int
    height: int
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class ClassRow:
    """A class in the table: accuracy in percent with its interval, pictures, and what it is most often taken for."""

    name: str
    value: str
    share: float
    interval: str
    n: str
    taken_for: str


@dataclass(frozen=True)
class PicturePage:
    """The sections; each is empty where the run folder does not tell it."""

    matrix: Chart | None
    wide: bool
    classes: Sequence[ClassRow]
    other_classes: Sequence[ClassRow]
    calibration: Chart | None
    error: str
    mistakes: Sequence[Shown]
    wrong: str
    augmented: Shown | None

    @property
    def beside(self) -> list[Chart]:
        """The charts that stand side by side."""
        charts = (None if self.wide else self.matrix, self.calibration)
        return [one for one in charts if one is not None]


def picture_page(run: Run) -> PicturePage:
    """Everything that a run on pictures tells of its classes and pictures."""
    tree = run.evaluation or {}
    names = [str(name) for name in list_of(tree.get("classes"))]
    counts = counts_of(tree.get("confusion"), len(names))
    rows = class_rows(run.metrics("model"), names, counts)
    error = next((one for one in run.metrics("model") if one.name == "calibration_error"), None)
    return PicturePage(
        matrix=confusion_chart("confusion", counts, names),
        wide=len(names) > BESIDE_CLASSES,
        classes=rows[:OPEN_ROWS],
        other_classes=rows[OPEN_ROWS:],
        calibration=_calibration(tree.get("calibration")),
        error="" if error is None else _percent(error),
        mistakes=_mistakes(run, names),
        wrong=_wrong(run, counts),
        augmented=shown_picture(run, "augmented", "A grid of training pictures after augmentation"),
    )


def list_of(found: Any) -> list[Any]:
    """What was found, where it is a list."""
    return found if isinstance(found, list) else []


def counts_of(found: Any, size: int) -> list[list[int]]:
    """The confusion matrix; empty where it is not one of so many classes."""
    rows = [[n for n in list_of(row) if type(n) is int and n >= 0] for row in list_of(found)]
    return rows if rows and len(rows) == size and all(len(row) == size for row in rows) else []


def confusion_chart(name: str, counts: Sequence[Sequence[int]], names: Sequence[str]) -> Chart | None:
    """The confusion matrix, drawn; None where it has too many classes to be read, or was not kept.

    Args:
        name: by which the page knows this drawing.
    """
    if not counts or len(names) > MATRIX_CLASSES:
        return None
    room = 12 if len(names) <= BESIDE_CLASSES else 22
    short = [name if len(name) <= room else f"{name[: room - 1]}…" for name in names]
    title, unit = "Confusion matrix", "pictures"
    describe = f"{title}: {len(names)} classes; the table of classes has its numbers"
    legend = [("named rightly", "c2", "line"), ("mistaken", "c3", "line")]
    axis = "a row per class, its accuracy at the end; a column per guess"
    return Chart(title, unit, matrix(name, counts, short, describe), axis, legend)


def class_rows(metrics: Sequence[Metric], names: Sequence[str], counts: Sequence[Sequence[int]]) -> list[ClassRow]:
    """The classes, the worst first, of the metrics that tell one's accuracy."""
    found = [one for one in metrics if one.name.startswith(OF_CLASS)]
    rows = []
    for one in sorted(found, key=lambda one: one.value):
        name = one.name.removeprefix(OF_CLASS)
        place = names.index(name) if counts and name in names else None
        taken = "" if place is None else _taken_for(counts[place], place, names)
        value = told(one.value, one.unit)[0]
        rows.append(ClassRow(name, value, 100 * one.value, interval(one), f"{one.n:,}", taken))
    return rows


def _taken_for(row: Sequence[int], own: int, names: Sequence[str]) -> str:
    """The two classes that a class is most often taken for."""
    others = sorted(((n, place) for place, n in enumerate(row) if n and place != own), key=lambda pair: -pair[0])
    return ", ".join(f"{names[place]} ({n:,})" for n, place in others[:2])


def _calibration(found: Any) -> Chart | None:
    """Accuracy over confidence, with the interval of each bin."""
    points = [point for item in list_of(found) if (point := _point(item)) is not None]
    if not points:
        return None
    x, y, low, high = (list(values) for values in zip(*points, strict=True))
    series = [
        Series((0.0, 1.0), (0.0, 1.0), "as right as it is sure", "c8", "faint"),
        Series(x, y, "accuracy of the pictures of each bin, with its 95 % interval", "c1", "points", (low, high)),
    ]
    look = Look(percent=True, zero=True, shares=True, over="probability that the model gives its guess")
    return chart("calibration", "Calibration", "accuracy", series, look)


def _point(item: Any) -> tuple[float, float, float, float] | None:
    """Confidence, accuracy and the ends of its interval."""
    if not isinstance(item, Mapping):
        return None
    values = [item.get("confidence"), item.get("accuracy"), *list_of(item.get("interval"))]
    numbers = [float(value) for value in values if isinstance(value, (int, float)) and math.isfinite(value)]
    return (numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == len(values) == 4 else None


def _percent(one: Metric) -> str:
    value, unit = told(one.value, one.unit)
    span = f" (95 % interval {interval(one)})" if one.interval else ""
    return f"{value} {unit}{span}"


def _mistakes(run: Run, names: Sequence[str]) -> list[Shown]:
    """The misclassified pictures that were kept, with class and guess."""
    shown = []
    for number, item in enumerate(list_of((run.evaluation or {}).get("misclassified"))):
        if not isinstance(item, list) or len(item) != 3:
            continue
        name, label, guess = str(item[0]), _name(item[1], names), _name(item[2], names)
        alt = f"{name}: of class {label}, taken for {guess}"
        one = shown_picture(run, f"misclassified-{number:02d}", alt, f"{label} → {guess}")
        shown += [one] if one else []
    return shown


def _name(number: Any, names: Sequence[str]) -> str:
    return names[number] if isinstance(number, int) and 0 <= number < len(names) else str(number)


def _wrong(run: Run, counts: Sequence[Sequence[int]]) -> str:
    """How many are mistaken of how many."""
    if not counts:
        return ""
    total = sum(map(sum, counts))
    right = sum(row[place] for place, row in enumerate(counts))
    return f"{total - right:,} of {total:,} held-out pictures are mistaken"


def shown_picture(run: Run, name: str, alt: str, caption: str = "") -> Shown | None:
    """A picture that the run's folder holds under this name; None where there is none."""
    content = run.pictures.get(name)
    if content is None:
        return None
    width, height = struct.unpack(">II", content[16:24])
    uri = f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
    return Shown(uri, width, height, alt, caption)
