"""Several systems side by side: results, where their recipes differ, and their curves over each other."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from corestone.core.format import clock, si
from corestone.report import figures
from corestone.report.figures import Figure, column
from corestone.report.folder import Run, find, flatten
from corestone.report.plots import COLOURS, TOKENS, Look, Series, smooth
from corestone.report.sections import chart

SILENT = ("name", "description")
"""Keys of a recipe that change nothing in what is computed."""

BESIDE = 4
"""Up to so many differing keys stand beside the results; more get a table of their own."""


@dataclass(frozen=True)
class System:
    """What is compared: a run, or the runs of one recipe with several seeds."""

    name: str
    runs: Sequence[Run]

    @property
    def first(self) -> Run:
        """The run that speaks for all where they are alike."""
        return self.runs[0]


@dataclass(frozen=True)
class Measure:
    """A column of the results.

    Attributes:
        key: its name for programs; what JSON holds is in the plain unit (bits/byte, seconds, bytes, ...).
        spread: the page shows the standard deviation over seeds.
    """

    key: str
    label: str
    of: Callable[[Run], float | None]
    show: Callable[[float], str]
    spread: bool = False


def _held_out(run: Run) -> float | None:
    metric = figures.held_out(run)
    return None if metric is None else metric.value


def _floor(run: Run) -> float | None:
    metric = figures.best_floor(run)
    return None if metric is None else metric.value


def _last_validation(run: Run) -> float | None:
    return next(reversed(column(run.events.of("evaluate"), figures.quality(run).key, "metrics")[1]), None)


def _last_loss(run: Run) -> float | None:
    _, loss = column(run.events.of("train"), "loss")
    return smooth(loss, len(loss) / 40)[-1] if loss else None


def _time(seconds: float) -> str:
    return f"{clock(seconds)} {figures.clock_unit(seconds)}"


MEASURES = (
    Measure("held_out", "Held-out", _held_out, "{:.3f}".format, spread=True),
    Measure("parameters", "Parameters", figures.parameters, si),
    Measure("training_seconds", "Training time", figures.training_time, _time),
    Measure("tokens_per_second", "Speed", figures.speed, "{:,.0f} tokens/s".format),
    Measure("flops_per_second", "Model arithmetic", figures.arithmetic, lambda value: si(value, "FLOP/s")),
    Measure("utilisation", "Utilisation", figures.utilisation, lambda value: f"{100 * value:.1f} %"),
    Measure("memory_bytes", "Peak memory", figures.memory, lambda value: si(value, "B")),
    Measure("floor", "Best floor", _floor, "{:.3f}".format),
    Measure("last_held_out", "Validation", _last_validation, "{:.3f}".format, spread=True),
    Measure("last_loss", "Training loss, nats", _last_loss, "{:.3f}".format, spread=True),
    Measure("tokens", "Tokens seen", figures.tokens_seen, si),
)
BEST = MEASURES[0]


def compare(systems: Sequence[System]) -> dict[str, Any]:
    """Values for the comparison page."""
    keys, same = differences(systems)
    flat = [flatten(system.first.recipe) if system.first.recipe else {} for system in systems]
    best = min((mean for system in systems if (mean := _mean(BEST, system)) is not None), default=None)
    rows: list[dict[str, Any]] = [
        {
            "name": system.name,
            "colour": COLOURS[place % len(COLOURS)],
            "state": state(system),
            "results": [result(measure, system) for measure in MEASURES],
            "best": best is not None and _mean(BEST, system) == best,
            "recipe": [_shown(flat[place], key, system.first) for key in keys],
        }
        for place, system in enumerate(systems)
    ]
    return {
        "title": f"{len(systems)} {'recipes' if seeded(systems) else 'runs'} compared",
        "budget": budget(flat, keys),
        "seeded": seeded(systems),
        "rows": rows,
        "columns": [_labelled(measure, systems) for measure in MEASURES],
        "keys": keys,
        "beside": len(keys) <= BESIDE,
        "same": same,
        "notes": notes(systems),
        "curves": [chart(*line) for line in [*held_out_curves(systems), *other_curves(systems)]],
    }


def summary(systems: Sequence[System]) -> dict[str, Any]:
    """The comparison for programs: each run's figures, their mean and spread, and the curves on held-out text."""
    lines = [series for _, _, _, series, _ in held_out_curves(systems)]
    return {
        "systems": [
            {
                "name": system.name,
                "runs": [_run_summary(run) for run in system.runs],
                "mean": {measure.key: _mean(measure, system) for measure in MEASURES},
                "standard_deviation": {measure.key: _deviation(measure, system) for measure in MEASURES},
                "curve": _curve_summary(over_tokens, over_time),
            }
            for system, over_tokens, over_time in zip(systems, *lines, strict=True)
        ],
        "notes": notes(systems),
    }


def _run_summary(run: Run) -> dict[str, Any]:
    values = {measure.key: measure.of(run) for measure in MEASURES}
    return {"folder": str(run.folder), "seed": find(run.recipe, "seed"), "state": figures.state(run)[1], **values}


def _curve_summary(over_tokens: Series, over_time: Series) -> dict[str, Any]:
    low, high = over_tokens.band or (over_tokens.y, over_tokens.y)
    lines = {"held_out": over_tokens.y, "lowest": low, "highest": high}
    return {"tokens": list(over_tokens.x), "seconds": list(over_time.x), **{key: list(y) for key, y in lines.items()}}


def labels(runs: Sequence[Run]) -> list[str]:
    """Folder names, with as much of the path before them as tells them apart."""
    parts = [run.folder.resolve().parts for run in runs]
    for depth in range(1, max(len(part) for part in parts) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(part[-1:])} ({place})" for place, part in enumerate(parts, start=1)]


def seeded(systems: Sequence[System]) -> bool:
    """Whether any system has several runs."""
    return any(len(system.runs) > 1 for system in systems)


def differences(systems: Sequence[System]) -> tuple[list[str], int]:
    """Keys in which the recipes differ, in their order, and how many are the same in all; not the seed of seeds."""
    flat = [flatten(system.first.recipe) for system in systems if system.first.recipe is not None]
    keys = list(dict.fromkeys(key for tree in flat for key in tree if not (key == "seed" and seeded(systems))))
    absent = object()
    differing = [key for key in keys if any(tree.get(key, absent) != flat[0].get(key, absent) for tree in flat)]
    return [key for key in differing if key not in SILENT], len(keys) - len(differing)


def budget(flat: Sequence[Mapping[str, Any]], differing: Sequence[str]) -> str:
    """What all recipes may spend; empty where it is not the same."""
    wanted = ("training.length", "training.batch_tokens", "data.context_length")
    if not all(key in tree and key not in differing for key in wanted for tree in flat) or not flat:
        return ""
    length, batch, context = (flat[0][key] for key in wanted)
    return f"The budget of each run: {length}, {batch:,} tokens per step, {context:,} tokens of context."


def _shown(flat: Mapping[str, Any], key: str, run: Run) -> str | None:
    if run.recipe is None:
        return None
    if key not in flat:
        return "–"
    value = flat[key]
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def state(system: System) -> str:
    """How a system's runs stand."""
    if len(system.runs) == 1:
        return figures.state(system.first)[1]
    return f"seeds {', '.join(str(find(run.recipe, 'seed')) for run in system.runs)}"


def _values(measure: Measure, system: System) -> list[float]:
    found = (measure.of(run) for run in system.runs)
    return [value for value in found if value is not None and math.isfinite(value)]


def _labelled(measure: Measure, systems: Sequence[System]) -> str:
    """A column's heading, with the unit where it is that of the runs' objective."""
    units = ", ".join(sorted({figures.quality(run).unit for system in systems for run in system.runs}))
    return f"{measure.label}, {units}" if measure.key in ("held_out", "floor", "last_held_out") else measure.label


def _mean(measure: Measure, system: System) -> float | None:
    values = _values(measure, system)
    return statistics.fmean(values) if values else None


def _deviation(measure: Measure, system: System) -> float | None:
    values = _values(measure, system)
    return statistics.stdev(values) if len(values) > 1 else None


def result(measure: Measure, system: System) -> Figure:
    """A cell of the table: one run's value, or the mean over seeds with its spread."""
    values, deviation = _values(measure, system), _deviation(measure, system)
    if not values:
        return Figure(measure.label, None)
    text = measure.show(statistics.fmean(values))
    if deviation is not None and measure.spread:
        remark = f"{measure.show(min(values))} to {measure.show(max(values))}"
        return Figure(measure.label, f"{text} ± {measure.show(deviation)}", remark=remark)
    return Figure(measure.label, text, remark=_remark(measure, system))


def _remark(measure: Measure, system: System) -> str:
    """What a lone value needs to be read."""
    metric, floor = figures.held_out(system.first), figures.best_floor(system.first)
    if measure.key == "held_out" and metric is not None and metric.interval is not None:
        return f"95 %: {figures.interval(metric)}"
    if measure.key == "floor" and floor is not None:
        return figures.floor_name(floor)
    return {"last_held_out": "last while training", "last_loss": "last, smoothed"}.get(measure.key, "")


def notes(systems: Sequence[System]) -> list[str]:
    """What was damaged, what is not finished, and what makes the numbers hard to compare."""
    runs = [run for system in systems for run in system.runs]
    names = dict(zip((run.folder for run in runs), labels(runs), strict=True))
    found = [f"{names[run.folder]}: {note}" for run in runs for note in run.notes]
    for system in systems:
        if len(system.runs) > 1:  # the row of a lone run says how it stands
            found += [f"{names[run.folder]}: {figures.state(run)[1]}" for run in system.runs if not _finished(run)]
    counts = {metric.n for run in runs if (metric := figures.held_out(run)) is not None}
    if len(counts) > 1:
        shown = ", ".join(f"{count:,}" for count in sorted(counts))
        text = f"The runs were evaluated on different amounts of text (n = {shown})"
        found.append(f"{text}: their figures do not compare directly.")
    units = sorted({figures.quality(run).unit for run in runs})
    if len(units) > 1:
        found.append(f"The runs are judged by different figures ({', '.join(units)}), which do not compare.")
    machines = {str(run.environment.get("machine")) for run in runs if run.environment}
    if len(machines) > 1:
        found.append("The runs come from different machines: speed, time and utilisation do not compare directly.")
    return found


def _finished(run: Run) -> bool:
    return figures.state(run)[0] == "good"


Points = Mapping[float, tuple[float, float]]
"""A run's values by training tokens, each with the x at which it is drawn."""

Curve = tuple[str, str, str, list[Series], Look]
"""What `chart` takes: name, title, unit, series, look."""


def held_out_curves(systems: Sequence[System]) -> list[Curve]:
    """The held-out figure against tokens and against training time."""

    def over_tokens(run: Run) -> Points:
        x, y = column(run.events.of("evaluate"), figures.quality(run).key, "metrics")
        return {at: (at, value) for at, value in zip(x, y, strict=True)}

    def over_time(run: Run) -> Points:
        ends, seconds = figures.training_clock(run)
        return {at: (float(np.interp(at, ends, seconds)), value) for at, (_, value) in over_tokens(run).items()}

    title = "Held-out text while training"
    unit = ", ".join(sorted({figures.quality(run).unit for system in systems for run in system.runs}))
    return [
        ("by-tokens", f"{title}, by tokens", unit, lines(systems, over_tokens, "points"), TOKENS),
        ("by-time", f"{title}, by time", unit, lines(systems, over_time, "points"), Look(seconds=True)),
    ]


def other_curves(systems: Sequence[System]) -> list[Curve]:
    """Smoothed training loss, speed and utilisation."""

    def smoothed(key: str) -> list[Series]:
        def points(run: Run) -> Points:
            x, y = column(run.events.of("train"), key)
            return {at: (at, value) for at, value in zip(x, smooth(y, len(y) / 40), strict=True)}

        return lines(systems, points)

    return [
        ("loss", "Training loss, smoothed", "nats", smoothed("loss"), TOKENS),
        ("speed", "Training speed, smoothed", "tokens/s", smoothed("tokens_per_second"), Look(zero=True)),
        (
            "use",
            "Utilisation, smoothed",
            "share of the GEMM peak",
            smoothed("utilisation"),
            Look(percent=True, zero=True),
        ),
    ]


def lines(systems: Sequence[System], points: Callable[[Run], Points], style: str = "line") -> list[Series]:
    """One line per system: the mean over its runs at equal tokens, with a band from the lowest to the highest."""
    found = []
    for number, system in enumerate(systems):
        curves = [curve for run in system.runs if (curve := points(run))]
        at = sorted({tokens for curve in curves for tokens in curve})
        together = [[curve[tokens] for curve in curves if tokens in curve] for tokens in at]
        x = [statistics.fmean(place for place, _ in group) for group in together]
        y = [statistics.fmean(value for _, value in group) for group in together]
        low = [min(value for _, value in group) for group in together]
        high = [max(value for _, value in group) for group in together]
        band = (low, high) if len(curves) > 1 else None
        found.append(Series(x, y, system.name, COLOURS[number % len(COLOURS)], style, band))
    return found
