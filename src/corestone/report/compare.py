"""Several systems side by side: results, where their recipes differ, and their curves over each other."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from corestone.core.format import clock, si
from corestone.report import figures
from corestone.report.figures import Figure, column
from corestone.report.folder import Run, find, flatten
from corestone.report.plots import COLOURS, Look, Series, smooth
from corestone.report.sections import chart
from corestone.report.units import TEXT, Quality, Unit, common_unit, interval, quality

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
    return next(reversed(column(run.events.of("evaluate"), quality(run).key, "metrics")[1]), None)


def _last_loss(run: Run) -> float | None:
    _, loss = column(run.events.of("train"), "loss")
    return smooth(loss, len(loss) / 40)[-1] if loss else None


def _time(seconds: float) -> str:
    return f"{clock(seconds)} {figures.clock_unit(seconds)}"


def unit_of_all(systems: Sequence[System]) -> Unit:
    """What all runs count in. Raises CheckpointError where they differ in that."""
    return common_unit([run for system in systems for run in system.runs])


def judged_by(systems: Sequence[System]) -> Quality:
    """The figure that ranks the runs: that of the first one (where others are judged by another, a note says so)."""
    return quality(systems[0].first)


def measures(systems: Sequence[System]) -> list[Measure]:
    """The columns of the results; the first ranks the runs."""
    unit, share = unit_of_all(systems), judged_by(systems).share
    show = _percent if share else "{:.3f}".format
    return [
        Measure("held_out", "Held-out", _held_out, show, spread=True),
        Measure("parameters", "Parameters", figures.parameters, si),
        Measure("training_seconds", "Training time", figures.training_time, _time),
        Measure(unit.speed_key, "Speed", figures.speed, lambda value: f"{value:,.0f} {unit.speed}"),
        Measure("flops_per_second", "Model arithmetic", figures.arithmetic, lambda value: si(value, "FLOP/s")),
        Measure("utilisation", "Utilisation", figures.utilisation, lambda value: f"{100 * value:.1f} %"),
        Measure("memory_bytes", "Peak memory", figures.memory, lambda value: si(value, "B")),
        Measure("floor", "Best floor", _floor, show),
        Measure("last_held_out", "Validation", _last_validation, show, spread=True),
        Measure("last_loss", "Training loss, nats", _last_loss, "{:.3f}".format, spread=True),
        Measure(unit.key, f"{unit.key.capitalize()} seen", figures.units_seen, si),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def compare(systems: Sequence[System]) -> dict[str, Any]:
    """Values for the comparison page."""
    (keys, same), columns, unit = differences(systems), measures(systems), unit_of_all(systems)
    flat = [flatten(system.first.recipe) if system.first.recipe else {} for system in systems]
    ranks = columns[0]
    best = judged_by(systems).best(mean for system in systems if (mean := _mean(ranks, system)) is not None)
    rows: list[dict[str, Any]] = [
        {
            "name": system.name,
            "colour": COLOURS[place % len(COLOURS)],
            "state": state(system),
            "results": [result(measure, system) for measure in columns],
            "best": best is not None and _mean(ranks, system) == best,
            "recipe": [_shown(flat[place], key, system.first) for key in keys],
        }
        for place, system in enumerate(systems)
    ]
    return {
        "title": f"{len(systems)} {'recipes' if seeded(systems) else 'runs'} compared",
        "watched": unit.watched,
        "counted": unit.key,
        "budget": budget(flat, keys, unit),
        "seeded": seeded(systems),
        "rows": rows,
        "columns": [_labelled(measure, systems) for measure in columns],
        "keys": keys,
        "beside": len(keys) <= BESIDE,
        "same": same,
        "notes": notes(systems),
        "curves": [chart(*line) for line in [*held_out_curves(systems), *other_curves(systems)]],
    }


def summary(systems: Sequence[System]) -> dict[str, Any]:
    """The comparison for programs: each run's figures, their mean and spread, and the curves on held-out text."""
    lines = [series for _, _, _, series, _ in held_out_curves(systems)]
    columns, unit = measures(systems), unit_of_all(systems)
    return {
        "systems": [
            {
                "name": system.name,
                "runs": [_run_summary(run, columns) for run in system.runs],
                "mean": {measure.key: _mean(measure, system) for measure in columns},
                "standard_deviation": {measure.key: _deviation(measure, system) for measure in columns},
                "curve": _curve_summary(unit, over_units, over_time),
            }
            for system, over_units, over_time in zip(systems, *lines, strict=True)
        ],
        "notes": notes(systems),
    }


def _run_summary(run: Run, columns: Sequence[Measure]) -> dict[str, Any]:
    values = {measure.key: measure.of(run) for measure in columns}
    return {"folder": str(run.folder), "seed": find(run.recipe, "seed"), "state": figures.state(run)[1], **values}


def _curve_summary(unit: Unit, over_units: Series, over_time: Series) -> dict[str, Any]:
    low, high = over_units.band or (over_units.y, over_units.y)
    lines = {"held_out": over_units.y, "lowest": low, "highest": high}
    return {unit.key: list(over_units.x), "seconds": list(over_time.x), **{key: list(y) for key, y in lines.items()}}


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


def budget(flat: Sequence[Mapping[str, Any]], differing: Sequence[str], unit: Unit) -> str:
    """What all recipes may spend; empty where it is not the same."""
    context = ("data.context_length",) if unit == TEXT else ()
    wanted = ("training.length", unit.batch, *context)
    if not all(key in tree and key not in differing for key in wanted for tree in flat) or not flat:
        return ""
    length, batch, *rows = (flat[0][key] for key in wanted)
    row = "".join(f", {tokens:,} tokens of context" for tokens in rows)
    return f"The budget of each run: {length}, {batch:,} {unit.key} per step{row}."


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
    units = _units(systems)
    return f"{measure.label}, {units}" if measure.key in ("held_out", "floor", "last_held_out") else measure.label


def _units(systems: Sequence[System]) -> str:
    return ", ".join(sorted({quality(run).shown_unit for system in systems for run in system.runs}))


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
        return f"95 %: {interval(metric)}"
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
        text = f"The runs were evaluated on different {unit_of_all(systems).amounts} (n = {shown})"
        found.append(f"{text}: their figures do not compare directly.")
    units = sorted({quality(run).unit for run in runs})
    if len(units) > 1:
        found.append(f"The runs are judged by different figures ({', '.join(units)}), which do not compare.")
    machines = {str(run.environment.get("machine")) for run in runs if run.environment}
    if len(machines) > 1:
        found.append("The runs come from different machines: speed, time and utilisation do not compare directly.")
    return found


def _finished(run: Run) -> bool:
    return figures.state(run)[0] == "good"


Points = Mapping[float, tuple[float, float]]
"""A run's values by training tokens or pictures, each with the x at which it is drawn."""

Curve = tuple[str, str, str, list[Series], Look]
"""What `chart` takes: name, title, unit, series, look."""


def held_out_curves(systems: Sequence[System]) -> list[Curve]:
    """The held-out figure against tokens or pictures, and against training time."""

    def over_units(run: Run) -> Points:
        x, y = column(run.events.of("evaluate"), quality(run).key, "metrics")
        return {at: (at, value) for at, value in zip(x, y, strict=True)}

    def over_time(run: Run) -> Points:
        ends, seconds = figures.training_clock(run)
        return {at: (float(np.interp(at, ends, seconds)), value) for at, (_, value) in over_units(run).items()}

    unit, by = unit_of_all(systems), judged_by(systems)
    title, shown = f"{unit.held_out.capitalize()} while training", by.name.lower() if by.share else _units(systems)
    look = Look(percent=by.share, over=unit.axis)
    return [
        (f"by-{unit.key}", f"{title}, by {unit.key}", shown, lines(systems, over_units, "points"), look),
        ("by-time", f"{title}, by time", shown, lines(systems, over_time, "points"), replace(look, seconds=True)),
    ]


def other_curves(systems: Sequence[System]) -> list[Curve]:
    """Smoothed training loss, speed and utilisation."""

    def smoothed(key: str) -> list[Series]:
        def points(run: Run) -> Points:
            x, y = column(run.events.of("train"), key)
            return {at: (at, value) for at, value in zip(x, smooth(y, len(y) / 40), strict=True)}

        return lines(systems, points)

    unit = unit_of_all(systems)
    look, zero = Look(over=unit.axis), Look(zero=True, over=unit.axis)
    use = "share of the GEMM peak"
    return [
        ("loss", "Training loss, smoothed", "nats", smoothed("loss"), look),
        ("speed", "Training speed, smoothed", unit.speed, smoothed(unit.speed_key), zero),
        ("use", "Utilisation, smoothed", use, smoothed("utilisation"), replace(zero, percent=True)),
    ]


def lines(systems: Sequence[System], points: Callable[[Run], Points], style: str = "line") -> list[Series]:
    """One line per system: the mean over its runs where they stand at equal tokens or pictures, with a band from the
    lowest to the highest."""
    found = []
    for number, system in enumerate(systems):
        curves = [curve for run in system.runs if (curve := points(run))]
        places = sorted({at for curve in curves for at in curve})
        together = [[curve[at] for curve in curves if at in curve] for at in places]
        x = [statistics.fmean(place for place, _ in group) for group in together]
        y = [statistics.fmean(value for _, value in group) for group in together]
        low = [min(value for _, value in group) for group in together]
        high = [max(value for _, value in group) for group in together]
        band = (low, high) if len(curves) > 1 else None
        found.append(Series(x, y, system.name, COLOURS[number % len(COLOURS)], style, band))
    return found
