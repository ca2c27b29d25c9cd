"""A sweep on one page: trials by their score, what mattered, the score against each key, the best trials' curves."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from corestone.core.format import clock
from corestone.core.runlog import spelled
from corestone.report import figures
from corestone.report.compare import System, lines, unit_of_all
from corestone.report.figures import column
from corestone.report.folder import Run, read_run
from corestone.report.plots import COLOURS, Look, Series
from corestone.report.sections import Chart, chart
from corestone.report.units import SHARES, quality_of, told
from corestone.report.write import render, write

CURVES = len(COLOURS)
"""So many of the best trials have their curves drawn."""

STATES = ("finished", "pruned", "failed", "open")
"""How a trial may stand; those that are open were interrupted."""


@dataclass(frozen=True)
class Trial:
    """A trial: the values it tried by path, its held-out scores in their order, and why it failed."""

    number: int
    state: str
    values: Mapping[str, int | float | str]
    scores: Sequence[float]
    reason: str
    folder: Path

    @property
    def score(self) -> float:
        """The last one; nan where there is none."""
        return self.scores[-1] if self.scores else math.nan


@dataclass(frozen=True)
class Sweep:
    """What was searched and found.

    Attributes:
        recipe: as it is named on the command line; `fixed` are the overrides of every trial.
        metric, unit: of the scores; `more_is_better` of them.
        logarithmic: paths of ranges drawn evenly in the logarithm.
        choices: values of each path that is a choice.
        importance: the share of each path in what tells good trials from others; empty where too few finished.
    """

    recipe: str
    name: str
    metric: str
    unit: str
    more_is_better: bool
    fixed: Sequence[str]
    logarithmic: set[str]
    choices: Mapping[str, Sequence[str]]
    trials: Sequence[Trial]
    importance: Mapping[str, float]

    def ranked(self) -> list[Trial]:
        """Finished trials from the best, then pruned ones, which were scored earlier, from the best; no others."""
        sign = -1 if self.more_is_better else 1
        scored = [trial for trial in self.trials if trial.state in STATES[:2] and math.isfinite(trial.score)]
        return sorted(scored, key=lambda trial: (STATES.index(trial.state), sign * trial.score))

    @property
    def best(self) -> Trial | None:
        """The best finished trial."""
        return next((trial for trial in self.ranked() if trial.state == "finished"), None)

    def counts(self) -> dict[str, int]:
        """How many trials stand how; of each state that occurs."""
        found = Counter(trial.state for trial in self.trials)
        return {state: found[state] for state in STATES if found[state]}

    def shown(self, value: Any) -> str:
        """A tried value as text."""
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    def command(self) -> str:
        """The command that trains the best trial's recipe, evaluates it and reports."""
        values = [f"{path}={value}" for path, value in self.best.values.items()] if self.best else []
        return shlex.join(["corestone", "pretrain", self.recipe, *self.fixed, *values])


def write_sweep(sweep: Sweep, out: Path) -> Path:
    """Write sweep.html, which needs no other file, and sweep.json beside it; returns the page's path.

    Raises CheckpointError where a file cannot be written.
    """
    told = {**asdict(sweep), "logarithmic": sorted(sweep.logarithmic)}
    text = json.dumps(spelled(told), indent=1, ensure_ascii=False, allow_nan=False, default=str)
    write(out / "sweep.json", text.encode("utf-8", "backslashreplace"))
    return write(out / "sweep.html", render("sweep.html.j2", page(sweep)))


def page(sweep: Sweep) -> dict[str, Any]:
    """Values for the page."""
    paths = list(dict.fromkeys(path for trial in sweep.trials for path in trial.values))
    ranked = sweep.ranked()
    runs = {trial.number: run for trial in sweep.trials if (run := _read(trial)) is not None}
    drawn = [trial for trial in ranked if trial.number in runs][:CURVES]
    colours = {trial.number: COLOURS[place] for place, trial in enumerate(drawn)}
    others = [trial for trial in sweep.trials if trial not in ranked]
    best = sweep.best
    return {
        "title": f"{sweep.name}: {len(sweep.trials)} trials",
        "lead": ", ".join(f"{count} {state}" for state, count in sweep.counts().items()),
        "metric": sweep.metric,
        "unit": _unit(sweep),
        "paths": paths,
        "rows": [
            {
                "number": trial.number,
                "colour": colours.get(trial.number),
                "state": trial.state if trial.state != "pruned" else f"pruned at score {len(trial.scores)}",
                "best": trial is best,
                "score": told_score(sweep, trial),
                "values": [sweep.shown(trial.values[path]) if path in trial.values else None for path in paths],
                "time": _time(runs.get(trial.number)),
            }
            for trial in [*ranked, *others]
        ],
        "notes": [f"Trial {trial.number} failed: {trial.reason}" for trial in sweep.trials if trial.reason],
        "importance": [
            (path, f"{100 * share:.0f} %", f"{100 * share:.1f}") for path, share in sweep.importance.items()
        ],
        "scores": [against(sweep, path, place) for place, path in enumerate(paths)],
        "curves": _curves(sweep, [(trial, runs[trial.number]) for trial in drawn]),
        "command": sweep.command() if best is not None else None,
    }


def told_score(sweep: Sweep, trial: Trial) -> str | None:
    """A trial's last score as the page shows it."""
    return told(trial.score, sweep.unit)[0] if math.isfinite(trial.score) else None


def _unit(sweep: Sweep) -> str:
    return told(0.0, sweep.unit)[1]


def _read(trial: Trial) -> Run | None:
    known = (trial.folder / "recipe.yaml").is_file()
    return read_run(trial.folder) if known else None


def _time(run: Run | None) -> str | None:
    seconds = None if run is None else figures.training_time(run)
    return None if seconds is None else f"{clock(seconds)} {figures.clock_unit(seconds)}"


def against(sweep: Sweep, path: str, place: int) -> Chart:
    """The score of each trial against the value it tried: finished ones strong, pruned ones faint."""
    names = _names(sweep, path)

    def points(state: str) -> tuple[list[float], list[float]]:
        found = [trial for trial in sweep.ranked() if trial.state == state and path in trial.values]
        x = [float(names.index(str(t.values[path]))) if names else float(t.values[path]) for t in found]
        return x, [trial.score for trial in found]

    best = sweep.best
    series = [
        Series(*points("pruned"), "pruned, at their last score", "c8", "dots"),
        Series(*points("finished"), "finished", "c1", "marks"),
    ]
    if best is not None and path in best.values:
        x, y = points("finished")
        series.append(Series(x[:1], y[:1], "best", "c5", "own"))
    look = Look(percent=sweep.unit in SHARES, over=path, free=True, log=path in sweep.logarithmic, names=tuple(names))
    return chart(f"score-{place}", f"Score against {path}", _unit(sweep), series, look)


def _names(sweep: Sweep, path: str) -> list[str]:
    """The values of a choice whose places on the axis mean nothing; none where they are numbers."""
    values = list(sweep.choices.get(path, ()))
    try:
        for value in values:
            float(value)
    except ValueError:
        return values
    return []


def _curves(sweep: Sweep, drawn: Sequence[tuple[Trial, Run]]) -> list[Chart]:
    """Held-out scores while training, of the best trials."""
    if not drawn:
        return []
    systems = [System(f"trial {trial.number}", [run]) for trial, run in drawn]

    def held_out(run: Run) -> dict[float, tuple[float, float]]:
        x, y = column(run.events.of("evaluate"), sweep.metric, "metrics")
        return {at: (at, value) for at, value in zip(x, y, strict=True)}

    look = Look(percent=sweep.unit in SHARES, over=unit_of_all(systems).axis)
    name = quality_of([sweep.metric]).name if quality_of([sweep.metric]).key == sweep.metric else sweep.metric
    title = f"{name} while training, best {len(drawn)}"
    return [chart("curves", title, _unit(sweep), lines(systems, held_out, "points"), look)]
