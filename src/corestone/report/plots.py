"""Line plots: inline SVG that takes colours and font from the page, so it follows light, dark and print; or PNG."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from corestone.core.format import clock, si

MAX_POINTS = 600
"""Points drawn per line; longer lines keep the lowest and highest value of each stretch, so that spikes stay."""

NUMBERED = 20
"""Classes up to which the cells of a matrix hold numbers."""

COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8")
"""CSS variables of the series, in order."""

# Matplotlib wants real colours; these stand for CSS variables and are replaced in its output.
_SENTINELS = {name: f"#0{index}0{index}f{index}" for index, name in enumerate(("ink", "muted", "line", *COLOURS[:5]))}
_SENTINELS |= {name: f"#0{index}0{index}e{index}" for index, name in enumerate(COLOURS[5:])}

MARKS: dict[str, dict[str, Any]] = {
    "dots": {"linewidth": 0, "marker": "o", "markersize": 4, "alpha": 0.35, "markeredgewidth": 0},
    "marks": {"linewidth": 0, "marker": "o", "markersize": 5},
    "own": {"linewidth": 0, "marker": "D", "markersize": 8},
}
"""How the styles without a line are drawn."""


@dataclass(frozen=True)
class Series:
    """One line of a plot.

    Attributes:
        x: where each value stands.
        y: values; those that are not finite leave a gap.
        label: for the legend below the plot.
        colour: a CSS variable of the page.
        band: lowest and highest values at the same x, shaded behind the line.
        style: `line`, `faint` (raw values behind a smoothed line), `points` (a line with a mark at each value), `steps`
            (each value holds until the next, with a mark at each change), `dots` (marks alone,
            faint), `marks` (marks alone), `own` (marks alone, large) or `level` (a dashed horizontal
            line at the one value of y).
    """

    x: Sequence[float]
    y: Sequence[float]
    label: str
    colour: str = "c1"
    style: str = "line"
    band: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True)
class Look:
    """How the axes of a plot read.

    Attributes:
        percent: y is a fraction, shown as percent.
        zero: y begins at zero, so that lengths compare.
        seconds: x is a time in seconds, shown as a clock.
        years: x is a date in years, which does not begin at zero.
        shares: x is a fraction too.
        over: what x is, where it is none of these.
        free: x need not begin at zero.
        log: x is drawn in its logarithm; it is positive.
        names: x is a place among these, from 0.
    """

    percent: bool = False
    zero: bool = False
    seconds: bool = False
    years: bool = False
    shares: bool = False
    over: str = "training tokens"
    free: bool = False
    log: bool = False
    names: tuple[str, ...] = ()

    @property
    def axis(self) -> str:
        """What x is."""
        return "date of the source" if self.years else "training time" if self.seconds else self.over


PLAIN = Look()
"""Plain values over training tokens."""


def smooth(values: Sequence[float], span: float) -> list[float]:
    """Weighted mean around each value (a bell of about `span` values), which unlike a running mean does not lag.

    Values that are not finite carry no weight.
    """
    if not values:
        return []
    sigma = max(span, 1e-3) / 2
    reach = min(math.ceil(2 * sigma), max(0, (len(values) - 1) // 2))
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    raw = np.asarray(values, dtype=np.float64)
    known = np.isfinite(raw).astype(np.float64)
    weight = np.convolve(known, bell, "same")
    total = np.convolve(np.where(known > 0, raw, 0.0), bell, "same")
    return [float(t / w) if w > 1e-9 else math.nan for t, w in zip(total, weight, strict=True)]


def thin(x: Sequence[float], y: Sequence[float], limit: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """At most about `limit` points: the lowest and the highest of each stretch, in their order, and both ends."""
    if len(x) <= limit:
        return list(x), list(y)
    width = math.ceil(len(x) / (limit / 2))
    places = {0, len(x) - 1}
    for start in range(0, len(x), width):
        stretch = range(start, min(start + width, len(x)))
        finite = [place for place in stretch if math.isfinite(y[place])] or list(stretch)
        places |= {min(finite, key=lambda place: y[place]), max(finite, key=lambda place: y[place])}
    return [x[place] for place in sorted(places)], [y[place] for place in sorted(places)]


def plot(name: str, series: Sequence[Series], describe: str, look: Look = PLAIN) -> str:
    """Draw lines over training tokens, pictures or time.

    Args:
        name: unique on the page; it keeps the ids inside the drawing apart from those of other plots.
        series: drawn in order.
        describe: what the plot shows, for screen readers.

    Returns:
        An `<svg>` element, safe to put into a page.
    """
    return _plot(name, tuple(map(_fixed, series)), describe, look)


def _fixed(one: Series) -> Series:
    """The same line, of tuples."""
    return replace(one, x=tuple(one.x), y=tuple(one.y), band=one.band and (tuple(one.band[0]), tuple(one.band[1])))


@lru_cache(maxsize=32)  # a page that is written again, with the time that the first took, has the same drawings
def _plot(name: str, series: tuple[Series, ...], describe: str, look: Look) -> str:
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 12, "path.simplify": False}):
        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        _fill(figure.add_subplot(), series, look, _SENTINELS)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), name, describe)


def matrix(name: str, counts: Sequence[Sequence[int]], classes: Sequence[str], describe: str) -> str:
    """Draw what was taken for what: a row per class, with its accuracy at its end, a column per guess.

    A cell's strength is the root of its share of the row; what is right has another colour than what is wrong. Numbers
    stand in the cells as far as there is room for them.

    Args:
        name, describe: as for `plot`.

    Returns:
        An `<svg>` element, safe to put into a page.
    """
    size = len(classes)
    side = max(5.4, 0.3 * size + 1.8)
    cells = [_counted(row, numbers) for row, numbers in enumerate(counts)]
    right = [_accuracy(row, numbers) for row, numbers in enumerate(counts)]
    return coloured(name, cells, (classes, classes, right), describe, (side, 0.94 * side), 12 if size <= 12 else 9)


@dataclass(frozen=True)
class Cell:
    """One of a drawn table: colour (`c1` to `c8`), how strong it is (0 to 1), and what stands in it."""

    colour: str
    strength: float
    text: str = ""


def coloured(
    name: str,
    cells: Sequence[Sequence[Cell | None]],
    words: tuple[Sequence[str], Sequence[str], Sequence[str]],
    describe: str,
    size: tuple[float, float],
    font: float,
) -> str:
    """Draw a table of coloured cells, as many rows as columns; None is an empty cell.

    Args:
        name, describe: as for `plot`.
        words: those left of the rows, below the columns, right of the rows.
        size, font: width and height of the drawing in inches, and its letters in points.

    Returns:
        An `<svg>` element, safe to put into a page.
    """
    left, below, behind = words
    return _coloured(name, tuple(map(tuple, cells)), (tuple(left), tuple(below), tuple(behind)), describe, size, font)


@lru_cache(maxsize=4)
def _coloured(
    name: str,
    cells: tuple[tuple[Cell | None, ...], ...],
    words: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]],
    describe: str,
    size: tuple[float, float],
    font: float,
) -> str:
    left, below, behind = words
    number = len(cells)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": font}):
        # A browser's letters may be wider than those that were measured.
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12))
        axes = figure.add_subplot()
        for row, line in enumerate(cells):
            _row_of_cells(axes, row, line)
        axes.set(xlim=(-0.5, number - 0.5), ylim=(number - 0.5, -0.5), aspect="equal")
        axes.spines[:].set_visible(False)
        axes.tick_params(colors=_SENTINELS["ink"], length=0, pad=4)
        longest = max(map(len, below), default=0)
        upright = longest <= 2 or longest * number <= 36
        # Words of others: a dollar in them begins no formula.
        axes.set_xticks(range(number), below, rotation=0 if upright else 90, parse_math=False)
        axes.set_yticks(range(number), left, parse_math=False)
        right = axes.secondary_yaxis("right")
        right.set_yticks(range(number), behind)
        right.spines[:].set_visible(False)
        right.tick_params(colors=_SENTINELS["muted"], length=0, pad=4)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), name, describe)


def _counted(row: int, numbers: Sequence[int]) -> list[Cell | None]:
    """The cells of a class: those without a picture are empty."""
    total, numbered = sum(numbers), len(numbers) <= NUMBERED
    return [
        # A number on it stays readable, and few are seen.
        Cell("c2" if row == column else "c3", 0.1 + 0.42 * math.sqrt(number / total), str(number) if numbered else "")
        if number
        else None
        for column, number in enumerate(numbers)
    ]


def _row_of_cells(axes: matplotlib.axes.Axes, row: int, cells: Sequence[Cell | None]) -> None:
    """The cells that hold something, on a faint line that guides the eye."""
    axes.axhline(row + 0.5, color=_SENTINELS["line"], linewidth=0.6)
    for column, cell in enumerate(cells):
        if cell is not None:
            colour, where = _SENTINELS[cell.colour], (column - 0.47, row - 0.47)
            axes.add_patch(Rectangle(where, 0.94, 0.94, facecolor=colour, alpha=cell.strength, linewidth=0))
            if cell.text:
                axes.text(column, row, cell.text, ha="center", va="center", color=_SENTINELS["ink"])


def _accuracy(row: int, numbers: Sequence[int]) -> str:
    total = sum(numbers)
    return f"{100 * numbers[row] / total:.0f} %" if total else "none"


def picture(series: Sequence[Series], title: str, unit: str, look: Look) -> bytes:
    """The same drawing as a PNG of its own, with title, axis names and legend, in the page's light colours."""
    with matplotlib.rc_context({"font.size": 11, "path.simplify": False}):
        shown = [item for item in series if len(item.y)]
        figure = Figure(figsize=(8, 4.5), dpi=160, layout="constrained")
        axes = figure.add_subplot()
        palette = light_colours()
        _fill(axes, shown, look, palette)
        axes.set_title(title, loc="left", color=palette["ink"])
        axes.set_xlabel(look.axis, color=palette["muted"])
        axes.set_ylabel(unit, color=palette["muted"])
        handles = [
            Line2D([], [], color=palette[item.colour], label=item.label, **MARKS.get(item.style, {"linewidth": 2.4}))
            for item in shown
        ]
        figure.legend(handles=handles, loc="outside right center", frameon=False, labelcolor=palette["ink"])
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def light_colours() -> dict[str, str]:
    """The page's colours on paper; the style sheet names each first in its light form."""
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for name, colour in re.findall(r"--(\w+): (#[0-9a-f]{6});", style):
        found.setdefault(name, colour)
    return found


def _fill(axes: matplotlib.axes.Axes, series: Sequence[Series], look: Look, palette: Mapping[str, str]) -> None:
    for item in series:
        _draw(axes, item, palette[item.colour])
    _dress(axes, look, palette)
    if look.zero:
        axes.set_ylim(bottom=0)


def _draw(axes: matplotlib.axes.Axes, item: Series, colour: str) -> None:
    if item.style == "level":
        axes.axhline(item.y[0], color=colour, linewidth=1.4, linestyle=(0, (5, 3)))
        return
    if item.band is not None:
        low, high = (thin(item.x, edge) for edge in item.band)
        outline = [*zip(*low, strict=True), *reversed([*zip(*high, strict=True)])]
        whole = [point for point in outline if math.isfinite(point[1])]
        axes.fill([x for x, _ in whole], [y for _, y in whole], color=colour, alpha=0.18, linewidth=0)
    x, y = thin(item.x, item.y)
    if item.style == "faint":
        axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.35)
    elif item.style in MARKS:
        axes.plot(x, y, color=colour, **MARKS[item.style])
    elif item.style == "steps":
        changes = [place for place in range(len(y)) if place == 0 or y[place] != y[place - 1]]
        axes.plot(
            x, y, color=colour, linewidth=1.8, drawstyle="steps-post", marker="o", markersize=5, markevery=changes
        )
    elif item.style == "points" or len(x) == 1:
        axes.plot(x, y, color=colour, linewidth=1.8, marker="o", markersize=4 if len(x) <= 40 else 0)
    else:
        axes.plot(x, y, color=colour, linewidth=1.8)


def bare(axes: matplotlib.axes.Axes, palette: Mapping[str, str]) -> None:
    """Axes without a frame or ticks, on faint horizontal lines."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(palette["line"])
    axes.grid(axis="y", color=palette["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=palette["muted"], length=0, pad=6, which="both")


def _dress(axes: matplotlib.axes.Axes, look: Look, palette: Mapping[str, str]) -> None:
    bare(axes, palette)
    axes.margins(x=0.02, y=0.08)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    shown = _percent if look.percent else _tick
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    _dress_x(axes, look)


def _dress_x(axes: matplotlib.axes.Axes, look: Look) -> None:
    if look.names:
        axes.set_xlim(-0.5, len(look.names) - 0.5)
        axes.set_xticks(range(len(look.names)), look.names, parse_math=False)
        return
    if look.log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if _decades(axes) < 3 else (1.0,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        return
    if look.years:
        low, high = axes.dataLim.intervalx
        axes.set_xlim(math.floor(low), max(math.ceil(high), math.floor(low) + 1))
    elif not look.free:
        axes.set_xlim(0, 1.02 if look.shares else None)
    # Ticks of a clock stand at 1, 1.5, 3 and 6 times ten: whole minutes and quarters of one.
    steps = [1, 1.5, 3, 6, 10] if look.seconds else None
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=steps, integer=look.years))
    along: Callable[[float], str] = _year if look.years else _percent if look.shares else si
    if look.seconds:
        along = clock if axes.get_xlim()[1] >= 60 else _seconds
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: along(value)))


def _decades(axes: matplotlib.axes.Axes) -> float:
    """Powers of ten that the values span."""
    low, high = axes.dataLim.intervalx
    return math.log10(high / low)


def _seconds(value: float) -> str:
    return f"{value:.3g} s"


def _year(value: float) -> str:
    return f"{value:.0f}"


def _percent(value: float) -> str:
    return f"{100 * value:g} %"


def _tick(value: float) -> str:
    return si(value) if abs(value) >= 1000 else f"{value:.4g}"


def _inline(svg: str, name: str, describe: str) -> str:
    """Make matplotlib's file a part of a page: no prolog, page colours and font, ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    view = re.search(r'viewBox="([^"]*)"', svg)
    head = f'<svg class="plot" viewBox="{view[1] if view else ""}" role="img" aria-label="{html.escape(describe)}">'
    svg = re.sub(r"<svg[^>]*>", head, svg, count=1)
    for variable, colour in _SENTINELS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would style the whole page
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), svg)  # a hundredth of a pixel will do
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg).strip()
