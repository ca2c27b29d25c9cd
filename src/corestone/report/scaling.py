"""The figures of a scaling study, as PNG and SVG: loss over compute, IsoFLOP valleys, predicted against measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from corestone.core.format import si
from corestone.plan.bootstrap import Extrapolation, interval, predict
from corestone.plan.isoflop import IsoFlop, Line, Valley
from corestone.plan.law import SaturatingLaw, balance, compute_exponents
from corestone.plan.rows import Row
from corestone.plan.study import Judged, Study
from corestone.report.plots import bare, light_colours

Array = NDArray[np.float64]
Colours = Mapping[str, str]

FURTHER = 10.0
"""How far beyond the largest run a law is drawn, as a factor."""


@dataclass(frozen=True)
class Goal:
    """A run that a study predicts.

    Attributes:
        interval: of `loss`; None where there is none.
        measured: what it reached; None where it was not run.
    """

    flops: float
    loss: float
    interval: tuple[float, float] | None
    measured: float | None


def write_figures(found: Study, out: Path, loss: str, material: str, goal: Goal | None = None) -> list[Path]:
    """Draw what a study found into a folder, which is made where it is missing.

    Args:
        loss: what the loss is, with its unit.
        material: what runs see: tokens or pictures.
        goal: what is drawn beside the runs, in the figure over compute.

    Returns:
        The paths: `loss-over-compute`, `isoflop` where there are valleys, and `predicted-measured` where there is a
        law, each with `.png` and `.svg`.
    """
    out.mkdir(parents=True, exist_ok=True)
    colours = light_colours()
    drawings: dict[str, Callable[[Figure], None]] = {
        "loss-over-compute": lambda figure: _compute(figure, found, loss, colours, goal)
    }
    valleys, main = found.isoflop, found.main
    if isinstance(valleys, IsoFlop):
        drawings["isoflop"] = lambda figure: _isoflop(figure, valleys, loss, material, colours)
    if main is not None:
        drawings["predicted-measured"] = lambda figure: _agreement(figure, main, loss, colours)
    return [path for name, draw in drawings.items() for path in _save(draw, out / name)]


def _save(draw: Callable[[Figure], None], path: Path) -> list[Path]:
    """Equal numbers give equal files."""
    settings = {"font.size": 11, "svg.fonttype": "none", "svg.hashsalt": path.name}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(8, 4.5), dpi=160, layout="constrained")
        draw(figure)
        paths = [path.with_suffix(".png"), path.with_suffix(".svg")]
        figure.savefig(paths[0], metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None, "Creator": None})
    return paths


def _compute(figure: Figure, found: Study, loss: str, colours: Colours, goal: Goal | None) -> None:
    """Runs over compute, coloured by size, their frontier, the law at the best use of each compute, and the goal."""
    axes = figure.add_subplot()
    rows, best = found.rows, found.envelope
    _points(figure, axes, rows, [row.compute for row in rows], colours)
    if not isinstance(best, str):
        axes.plot(
            [row.compute for row in best.rows],
            [row.loss for row in best.rows],
            color=colours["ink"],
            linewidth=0.8,
            marker="o",
            markersize=7,
            markeredgewidth=0.8,
            markerfacecolor="none",
            zorder=4,
            label="frontier: no cheaper run is better",
        )
    main = found.laws.get("flops")
    both = found.laws.get("parameters and tokens")
    far = max(FURTHER * max(row.compute for row in rows), 1.3 * goal.flops if goal else 0.0)
    compute = np.geomspace(min(row.compute for row in rows), far, 120)
    if isinstance(both, Judged):
        per = float(np.median([row.compute / (row.parameters * row.tokens) for row in rows]))
        _curve(axes, both, lambda law: _best_loss(law, compute / per), compute, colours["c2"], "fit at the best size")
    elif isinstance(main, Judged):
        _curve(axes, main, lambda law: _one_loss(law, compute), compute, colours["c2"], "fit over compute")
    if goal is not None:
        _goal(axes, goal, colours)
    _dress(axes, colours, "training compute (FLOPs)", loss, "Loss over compute")
    losses = [row.loss for row in rows]
    room = 0.06 * (max(losses) - min(losses))
    axes.set_ylim(top=max(losses) + room)  # a law rises without end to the left
    figure.legend(loc="outside lower center", ncols=3, frameon=False, labelcolor=colours["ink"])


def _goal(axes: Axes, goal: Goal, colours: Colours) -> None:
    """What is predicted, with its interval, and what was reached."""
    if goal.interval is not None:
        axes.vlines(goal.flops, *goal.interval, color=colours["c3"], linewidth=1.6, zorder=6)
    axes.plot(goal.flops, goal.loss, "D", color=colours["c3"], markersize=7, zorder=7, label="target, predicted")
    if goal.measured is not None:
        axes.plot(
            goal.flops, goal.measured, "*", color=colours["ink"], markersize=11, zorder=8, label="target, measured"
        )


def _curve(
    axes: Axes, judged: Judged, values: Callable[[SaturatingLaw], Array], x: Array, colour: str, label: str
) -> None:
    """A law where there were runs, dashed beyond, with its interval."""
    far = max(row.compute for row in judged.fit.rows)
    near = x <= far * 1.0001
    y = values(judged.fit.law)
    axes.plot(x[near], y[near], color=colour, linewidth=2, zorder=5, label=label)
    axes.plot(x[~near], y[~near], color=colour, linewidth=2, zorder=5, linestyle=(0, (5, 3)), label="extrapolated")
    drawn = np.array([values(law) for law in judged.resampled.laws])
    if len(drawn):
        edges = np.array([interval(column) for column in drawn.T.tolist()])
        axes.fill_between(x, edges[:, 0], edges[:, 1], color=colour, alpha=0.18, linewidth=0, label="95 % interval")


def _best_loss(law: SaturatingLaw, work: Array) -> Array:
    """Loss at the best parameters for `parameters x tokens`, in closed form, without warnings of range."""
    size, data = law.terms
    parameters = balance(law) * work ** compute_exponents(law)[0]
    terms = size.scale / parameters**size.exponent + data.scale / (work / parameters) ** data.exponent
    return np.asarray(law.floor + terms)


def _one_loss(law: SaturatingLaw, x: Array) -> Array:
    return np.asarray(law.floor + law.terms[0].scale / x ** law.terms[0].exponent)


def _isoflop(figure: Figure, found: IsoFlop, loss: str, material: str, colours: Colours) -> None:
    """Valleys with their bottoms, and how these move with compute."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    shades = _shades(colours)
    norm = LogNorm(found.valleys[0].flops * 0.999, found.valleys[-1].flops * 1.001)
    few = len(found.valleys) <= 8
    for one in found.valleys:
        colour = shades(norm(one.flops))
        left.scatter([row.parameters for row in one.rows], [row.loss for row in one.rows], color=colour, s=18, zorder=3)
        x = np.geomspace(*_span(one), 60)
        label = f"{one.flops:.2g}".replace("e+", "e") if few else None
        left.plot(x, np.polyval(one.parabola, np.log(x / one.middle)), color=colour, linewidth=1.4, label=label)
        left.plot(one.parameters, one.loss, marker="D", color=colours["ink"], markersize=5, zorder=4)
    _dress(left, colours, "parameters", loss, "IsoFLOP valleys")
    if few:
        left.legend(frameon=False, labelcolor=colours["ink"], fontsize=9, title="FLOPs", title_fontsize=9)
    _bottoms(right, found, material, colours)
    _dress(right, colours, "training compute (FLOPs)", "", "Best size and length")
    right.set_yscale("log")
    right.yaxis.set_major_locator(LogLocator(numticks=6))
    right.yaxis.set_minor_formatter(NullFormatter())
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: si(value)))
    right.legend(frameon=False, labelcolor=colours["ink"], fontsize=9)


def _span(one: Valley) -> tuple[float, float]:
    """Where a parabola is drawn: over its runs and its bottom, unless that lies far off."""
    sizes = [row.parameters for row in one.rows]
    return min(*sizes, max(one.parameters, min(sizes) / 2)), max(*sizes, min(one.parameters, 2 * max(sizes)))


def _bottoms(axes: Axes, found: IsoFlop, material: str, colours: Colours) -> None:
    flops = [one.flops for one in found.valleys]
    lines: tuple[tuple[str, Line | None, list[float], str, str], ...] = (
        ("parameters", found.parameters, [one.parameters for one in found.valleys], colours["c1"], "o"),
        (material, found.tokens, [one.tokens for one in found.valleys], colours["c5"], "s"),
    )
    for name, line, values, colour, marker in lines:
        label = name if line is None else f"{name} ~ $C^{{{line.exponent:.2f}}}$"
        axes.plot(flops, values, color=colour, marker=marker, markersize=5, linewidth=0, label=label)
        if line is not None:
            x = np.geomspace(flops[0], flops[-1], 2)
            axes.plot(x, [line.at(one) for one in x], color=colour, linewidth=1.4)


def _agreement(figure: Figure, main: Judged, loss: str, colours: Colours) -> None:
    """The law's loss of each run over the measured one: runs it was fitted to, outliers, and largest ones left out."""
    axes = figure.add_subplot()
    variables, law, held = main.fit.variables, main.fit.law, main.extrapolation
    groups: list[tuple[Sequence[Row], Sequence[float], str, str, str]] = [
        (main.fit.rows, [predict(law, row, variables) for row in main.fit.rows], "o", "c1", "fitted")
    ]
    outliers = [one.row for one in main.fit.dropped]
    if outliers:
        groups.append((outliers, [predict(law, row, variables) for row in outliers], "x", "c3", "outliers, left out"))
    if isinstance(held, Extrapolation):
        label = f"largest runs by the law of the rest\n({held.factor:.2g} x, mean error {100 * held.error:.2g} %)"
        groups.append(([run.row for run in held.runs], [run.loss for run in held.runs], "D", "c5", label))
    for rows, predicted, marker, colour, label in groups:
        measured = [row.loss for row in rows]
        faint = 0.55 if marker == "o" else 1.0
        axes.scatter(
            measured, predicted, marker=marker, s=26, color=colours[colour], alpha=faint, label=label, zorder=3
        )
    points = [row.loss for rows, *_ in groups for row in rows] + [value for _, some, *_ in groups for value in some]
    ends = [min(points), max(points)]
    axes.plot(ends, ends, color=colours["muted"], linewidth=1, linestyle=(0, (5, 3)), label="equal")
    _dress(axes, colours, f"measured {loss}", f"predicted {loss}", f"Predicted against measured: law of {main.name}")
    axes.set_xscale("linear")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    figure.legend(loc="outside right center", frameon=False, labelcolor=colours["ink"])


def _points(figure: Figure, axes: Axes, rows: Sequence[Row], x: Sequence[float], colours: Colours) -> None:
    """Runs, coloured by their parameters where these differ."""
    sizes = [row.parameters for row in rows]
    y = [row.loss for row in rows]
    if min(sizes) == max(sizes):
        axes.scatter(x, y, color=colours["c1"], s=22, alpha=0.8, linewidth=0, zorder=3)
        return
    dots = axes.scatter(x, y, c=sizes, cmap=_shades(colours), norm=LogNorm(), s=22, linewidth=0, zorder=3)
    bar = figure.colorbar(dots, ax=axes, pad=0.01)
    bar.set_label("parameters", color=colours["muted"])
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: si(value)))
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    if max(sizes) / min(sizes) < 20:  # no or one power of ten among them
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bar.ax.tick_params(colors=colours["muted"], length=0, pad=6, which="both")


def _shades(colours: Colours) -> LinearSegmentedColormap:
    """From the page's warm colour over its violet to its blue."""
    return LinearSegmentedColormap.from_list("sizes", [colours["c5"], colours["c4"], colours["c1"]])


def _dress(axes: Axes, colours: Colours, x: str, y: str, title: str) -> None:
    bare(axes, colours)
    axes.set_xscale("log")
    axes.set_title(title, loc="left", color=colours["ink"])
    axes.set_xlabel(x, color=colours["muted"])
    axes.set_ylabel(y, color=colours["muted"])
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_xlim()
    if high / low < 100:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    if "FLOPs" not in x:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: si(value)))
