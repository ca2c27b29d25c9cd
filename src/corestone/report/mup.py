"""Figures of muP: how far a few steps move a model's values by width, and the loss over learning rates by width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from corestone.report.plots import bare, light_colours

TITLES = {"standard": "Standard parametrisation", "muP": "muP"}

Colours = Mapping[str, str]


def draw_coordinates(found: Mapping[str, Any], path: Path) -> Path:
    """Draw a coordinate check as a PNG: the change of each part over the width, beside a line in proportion to it.

    Args:
        found: `widths`, `steps`, and `changes` by parametrisation and part.
    """
    colours = light_colours()
    with matplotlib.rc_context({"font.size": 11}):
        figure = Figure(figsize=(9.6, 4.8), dpi=160, layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (kind, parts) in zip(panels, found["changes"].items(), strict=True):
            _coordinates(axes, found["widths"], parts, colours)
            if kind == "standard":
                _guide(axes, found["widths"], parts, colours)
            _dress(axes, colours, TITLES[kind], "width")
            axes.xaxis.set_major_locator(FixedLocator(found["widths"]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
            if any(math.isfinite(size) for sizes in parts.values() for size in sizes):  # else nothing is drawn
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(numticks=8))
                axes.yaxis.set_minor_locator(NullLocator())
        steps = f"{found['steps']} steps" if found["steps"] > 1 else "one step"
        panels[0].set_ylabel(f"change of values after {steps}", color=colours["muted"])
        handles = [Line2D([], [], linewidth=2.2, label=name, **style) for name, style in _legend(parts, colours)]
        _below(figure, handles, colours)
        _save(figure, path)
    return path


def _coordinates(axes: Axes, widths: Sequence[int], parts: Mapping[str, Sequence[float]], colours: Colours) -> None:
    for part, sizes in parts.items():
        axes.plot(widths, sizes, marker="o", markersize=4.5, linewidth=1.8, zorder=3, **_style(part, parts, colours))


def _guide(axes: Axes, widths: Sequence[int], parts: Mapping[str, Sequence[float]], colours: Colours) -> None:
    """A line in proportion to the width, from the middle of what stands at the least one."""
    middle = math.exp(sum(math.log(sizes[0]) for sizes in parts.values()) / len(parts))
    guide = [middle * width / widths[0] for width in widths]
    axes.plot(widths, guide, color=colours["muted"], linewidth=1.2, linestyle=(0, (2, 3)), zorder=2)


def _style(part: str, parts: Mapping[str, Sequence[float]], colours: Colours) -> dict[str, Any]:
    """Colours by what a part is; deeper layers are darker."""
    layer, _, branch = part.partition(", ")
    if not branch:
        return {"color": colours["c3" if part == "logits" else "c5"]}
    depth = max(int(name.split()[1].rstrip(",")) for name in parts if ", " in name)
    deep = int(layer.split()[1]) / depth if depth else 1.0
    return {"color": _shades(colours, "c1" if branch == "mixer" else "c2")(0.35 + 0.65 * deep)}


def _legend(parts: Mapping[str, Any], colours: Colours) -> list[tuple[str, dict[str, Any]]]:
    layers = [part for part in parts if ", " in part]
    deepest = layers[-1].partition(", ")[0]
    named = {"embedding": "embedding", "mixer": f"{deepest}, mixer", "feed-forward": f"{deepest}, feed-forward"}
    several = len(layers) > 2
    shown = [
        (f"{name}s (deeper: darker)" if several and name != "embedding" else name, _style(part, parts, colours))
        for name, part in named.items()
    ]
    guide = {"color": colours["muted"], "linestyle": (0, (2, 3))}
    return [*shown, ("logits", _style("logits", parts, colours)), ("in proportion to the width", guide)]


def draw_transfer(found: Mapping[str, Any], path: Path) -> Path:
    """Draw losses over learning rates as a PNG: a line per width with its least loss marked, and all seeds' span.

    Args:
        found: `widths`, `rates`, `steps`, and by parametrisation and width `losses`, `each` and `best`.
    """
    colours = light_colours()
    shades, widths = (
        LinearSegmentedColormap.from_list("widths", [colours[c] for c in ("c5", "c4", "c1")]),
        found["widths"],
    )
    finite = [loss for rows in found["losses"].values() for row in rows.values() for loss in row if math.isfinite(loss)]
    with matplotlib.rc_context({"font.size": 11}):
        figure = Figure(figsize=(9.6, 4.8), dpi=160, layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (kind, rows) in zip(panels, found["losses"].items(), strict=True):
            for place, width in enumerate(widths):
                colour = shades(place / max(1, len(widths) - 1))
                _rates(axes, found["rates"], rows[width], found["each"][kind][width], colour)
                best = found["best"][kind][width]
                axes.axvline(best, color=colour, linewidth=1.0, linestyle=(0, (2, 3)), zorder=1)
            _dress(axes, colours, TITLES[kind], "learning rate")
            axes.xaxis.set_major_locator(FixedLocator(found["rates"]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
            axes.tick_params(axis="x", labelrotation=30)
            axes.yaxis.set_major_locator(MaxNLocator(7))
        low, high = min(finite), max(finite)
        panels[0].set_ylim(low - 0.06 * (high - low), high + 0.04 * (high - low))
        panels[0].set_ylabel(f"loss at the end of {found['steps']} steps (nats)", color=colours["muted"])
        handles = [
            Line2D([], [], color=shades(n / max(1, len(widths) - 1)), linewidth=2.2, marker="o", label=f"width {width}")
            for n, width in enumerate(widths)
        ]
        handles.append(Line2D([], [], color=colours["ink"], linewidth=0, marker="D", markersize=7, label="best rate"))
        _below(figure, handles, colours)
        _save(figure, path)
    return path


def _rates(
    axes: Axes, rates: Sequence[float], losses: Sequence[float], each: Sequence[Sequence[float]], colour: Any
) -> None:
    """A width's losses; those of runs that diverged leave a gap."""
    shown = [(rate, loss, seeds) for rate, loss, seeds in zip(rates, losses, each, strict=True) if math.isfinite(loss)]
    if not shown:
        return
    x = [rate for rate, _, _ in shown]
    lows, highs = ([pick(seeds) for _, _, seeds in shown] for pick in (min, max))
    axes.fill_between(x, lows, highs, color=colour, alpha=0.16, linewidth=0)
    axes.plot(x, [loss for _, loss, _ in shown], color=colour, linewidth=1.8, marker="o", markersize=4.5, zorder=3)
    rate, loss, _ = min(shown, key=lambda point: point[1])
    axes.plot([rate], [loss], color=colour, marker="D", markersize=9, zorder=4)


def _below(figure: Figure, handles: Sequence[Line2D], colours: Colours) -> None:
    """The legend, in one row."""
    place = {"loc": "outside lower center", "ncols": len(handles), "frameon": False}
    figure.legend(handles=handles, labelcolor=colours["ink"], fontsize=10, columnspacing=1.4, handlelength=1.8, **place)


def _shades(colours: Colours, name: str) -> LinearSegmentedColormap:
    """From white to a colour."""
    return LinearSegmentedColormap.from_list(name, [colours["card"], colours[name]])


def _dress(axes: Axes, colours: Colours, title: str, x: str) -> None:
    bare(axes, colours)
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(title, loc="left", color=colours["ink"])
    axes.set_xlabel(x, color=colours["muted"])


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})
