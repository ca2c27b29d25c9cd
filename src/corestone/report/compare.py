"""Several runs side by side: results, where their recipes differ, and their curves over each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from corestone.core.format import si
from corestone.report import figures
from corestone.report.figures import Figure, column
from corestone.report.folder import Run, flatten
from corestone.report.plots import COLOURS, Series, smooth
from corestone.report.sections import Chart, chart

SILENT = ("name", "description")
"""Keys of a recipe that change nothing in what is computed."""


def compare(runs: Sequence[Run]) -> dict[str, Any]:
    """Values for the comparison page."""
    names = labels(runs)
    notes = [f"{name}: {note}" for name, run in zip(names, runs, strict=True) for note in run.notes]
    keys, same = differences(runs)
    flat = [flatten(run.recipe) if run.recipe else {} for run in runs]
    best = min((metric.value for run in runs if (metric := figures.held_out(run))), default=None)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "colour": COLOURS[place % len(COLOURS)],
            "state": figures.state(run),
            "results": results(run),
            "best": best is not None and (metric := figures.held_out(run)) is not None and metric.value == best,
            "recipe": [_shown(flat[place], key, run) for key in keys],
        }
        for place, (name, run) in enumerate(zip(names, runs, strict=True))
    ]
    return {
        "title": f"{len(runs)} runs compared",
        "rows": rows,
        "columns": [figure.label for figure in results(runs[0])],
        "keys": keys,
        "same": same,
        "notes": notes + warnings(runs),
        "curves": curves(names, runs),
    }


def labels(runs: Sequence[Run]) -> list[str]:
    """Folder names, with as much of the path before them as tells them apart."""
    parts = [run.folder.resolve().parts for run in runs]
    for depth in range(1, max(len(part) for part in parts) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(part[-1:])} ({place})" for place, part in enumerate(parts, start=1)]


def differences(runs: Sequence[Run]) -> tuple[list[str], int]:
    """Keys in which the recipes differ, in their order, and how many are the same in all."""
    flat = [flatten(run.recipe) for run in runs if run.recipe is not None]
    keys = list(dict.fromkeys(key for tree in flat for key in tree))
    absent = object()
    differing = [key for key in keys if any(tree.get(key, absent) != flat[0].get(key, absent) for tree in flat)]
    return [key for key in differing if key not in SILENT], len(keys) - len(differing)


def _shown(flat: dict[str, Any], key: str, run: Run) -> str | None:
    if run.recipe is None:
        return None
    if key not in flat:
        return "–"
    return "none" if flat[key] is None else str(flat[key])


def results(run: Run) -> list[Figure]:
    """A run's numbers for its row of the table."""
    metric, floor = figures.held_out(run), figures.best_floor(run)
    _, validation = column(run.events.of("evaluate"), "bits_per_byte", "metrics")
    _, loss = column(run.events.of("train"), "loss")
    last = smooth(loss, len(loss) / 40)[-1] if loss else 0.0
    tokens, size = figures.tokens_seen(run), figures.parameters(run)
    speed = {figure.label: figure for figure in figures.throughput(run)}
    return [
        Figure("Held-out, bits/byte", None if metric is None else f"{metric.value:.3f}", remark=_spread(run)),
        Figure("Best floor, bits/byte", None if floor is None else f"{floor.value:.3f} ({figures.floor_name(floor)})"),
        Figure("Validation, bits/byte", f"{validation[-1]:.3f}" if validation else None, remark="last while training"),
        Figure("Training loss, nats/token", f"{last:.3f}" if loss else None, remark="last, smoothed"),
        Figure("Tokens seen", None if tokens is None else si(tokens), "tokens"),
        Figure("Parameters", None if size is None else si(size)),
        Figure("Training time", figures.time_figure(run).full),
        Figure("Speed", speed["Training speed"].full),
        Figure("Utilisation", speed["Utilisation"].full),
        Figure("Memory", speed["Memory"].full),
    ]


def _spread(run: Run) -> str:
    metric = figures.held_out(run)
    return "" if metric is None or metric.interval is None else f"95 %: {figures.interval(metric)}"


def warnings(runs: Sequence[Run]) -> list[str]:
    """What makes the numbers of these runs hard to compare."""
    found = []
    counts = {metric.n for run in runs if (metric := figures.held_out(run)) is not None}
    if len(counts) > 1:
        shown = ", ".join(f"{count:,}" for count in sorted(counts))
        text = f"The runs were evaluated on different amounts of text (n = {shown})"
        found.append(f"{text}: bits per byte do not compare directly.")
    machines = {str(run.environment.get("machine")) for run in runs if run.environment}
    if len(machines) > 1:
        found.append("The runs come from different machines: speed, time and utilisation do not compare directly.")
    return found


def curves(names: Sequence[str], runs: Sequence[Run]) -> list[Chart]:
    """Smoothed training loss, validation, speed and utilisation of all runs."""
    loss: list[Series] = []
    validation: list[Series] = []
    speed: list[Series] = []
    use: list[Series] = []
    for place, (name, run) in enumerate(zip(names, runs, strict=True)):
        colour, train = COLOURS[place % len(COLOURS)], run.events.of("train")
        for key, lines in (("loss", loss), ("tokens_per_second", speed), ("utilisation", use)):
            x, y = column(train, key)
            lines.append(Series(x, smooth(y, len(y) / 40), name, colour))
        validation.append(
            Series(*column(run.events.of("evaluate"), "bits_per_byte", "metrics"), name, colour, "points")
        )
    return [
        chart("loss", "Training loss, smoothed", "nats/token", loss),
        chart("validation", "Held-out text while training", "bits/byte", validation),
        chart("speed", "Training speed, smoothed", "tokens/s", speed, zero=True),
        chart("use", "Utilisation, smoothed", "share of the GEMM peak", use, percent=True, zero=True),
    ]
