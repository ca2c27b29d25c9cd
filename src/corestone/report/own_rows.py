"""What own runs were scored on, as rows of the leaderboard, each with its evidence: run, checkpoint, protocol.

Nothing is taken on trust: a split is known by its size, and text to be the set's own training side by its files or
size. Where neither tells, the protocol says so, and the row compares with nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from corestone.core.metric import Metric
from corestone.core.runlog import number
from corestone.evaluate.leaderboard import Benchmark, Measured, Row, merged
from corestone.report import figures, units
from corestone.report.folder import Run, Tree, find, metrics, read_run
from corestone.train.archive import identity

NEARLY = 1e-3
"""By how much a size may miss a published one: some are printed in thousands."""
DYNAMIC = "_dynamic"
"""How the names of figures end for which a model learnt from the text while reading it."""


@dataclass(frozen=True)
class Trained:
    """What a run was trained on.

    Attributes:
        names: catalogue names, hub sets, and files without their folders; None where there is no recipe.
        described: each source as an evaluation names it.
        known: all are of the catalogue, so that what they hold is known.
        characters: size of the text, where data.json tells it.
    """

    names: tuple[str, ...] | None
    described: tuple[str, ...]
    known: bool
    characters: int | None


def with_runs(known: Sequence[Benchmark], folders: Sequence[Path]) -> tuple[tuple[Benchmark, ...], list[str]]:
    """Add the results of runs: those on known data sets to their benchmarks, the others as benchmarks of their own.

    Returns:
        The benchmarks, and notes on what is damaged or belongs to none.

    Raises:
        CheckpointError: a folder is no run.
    """
    rows: dict[str, list[Row]] = {}
    fresh: dict[str, Benchmark] = {}
    notes: list[str] = []
    for run in map(read_run, folders):
        notes += [f"{run.folder}: {note}" for note in run.notes]
        before = sum(map(len, rows.values()))
        for benchmark, row in [*_task_rows(run, known), *_text_rows(run)]:
            fresh.setdefault(benchmark.name, benchmark)
            rows.setdefault(benchmark.name, []).append(row)
        if sum(map(len, rows.values())) == before:
            notes.append(f"{run.folder}: was not scored on anything that stands here; see corestone evaluate --help")
    shipped = {benchmark.name for benchmark in known}
    return merged([*known, *(one for name, one in fresh.items() if name not in shipped)], rows), notes


def _task_rows(run: Run, known: Sequence[Benchmark]) -> Iterator[tuple[Benchmark, Row]]:
    for entry in run.kept:
        for benchmark in known:
            if entry.get("task") in benchmark.tasks:
                for metric in _whole(entry):
                    if metric.name.removesuffix(DYNAMIC) in benchmark.measures:
                        yield benchmark, _task_row(run, entry, benchmark, metric)


def _whole(entry: Tree) -> list[Metric]:
    return [metric for metric in metrics(entry, "model") if math.isfinite(metric.value)]


def _task_row(run: Run, entry: Tree, benchmark: Benchmark, metric: Metric) -> Row:
    measure, trained = metric.name.removesuffix(DYNAMIC), _trained(run)
    sizes = {one.n for one in _whole(entry)} | {entry.get("documents")}
    shots = entry.get("shots") if isinstance(entry.get("shots"), int) else 0
    counted = str(entry.get("variant") or "")
    if measure == "token_perplexity":
        size = find(find(run.recipe, "embedding"), "vocab_size")
        counted = f"tokens of its own vocabulary of up to {size or 'unknown size'}; {counted}"
    own = _on_training_side(trained, benchmark)
    learning = {True: "trained", False: "few-shot" if shots else "zero-shot", None: None}[own]
    if learning and metric.name.endswith(DYNAMIC):
        learning += ", dynamic evaluation"
    whole = _nearly(trained.characters, benchmark.training_characters)  # all of it is the training side
    others = [name for name in trained.names or () if not whole and name not in benchmark.training]
    return Row(
        measure=measure,
        counted=counted,
        split=next((name for name, size in benchmark.splits.items() if any(_nearly(n, size) for n in sizes)), None),
        learning=learning,
        shots=shots,
        extra_data=None if trained.names is None else ", ".join(others) or "none",
        **_about(run, entry, metric, metric.convention),
    )


def _text_rows(run: Run) -> Iterator[tuple[Benchmark, Row]]:
    """The main figure on the run's own held-out text, and on other texts: they compare where the text is the same."""
    own = [{**tree, "variant": f"{tree.get('split')} split", "data": tree.get("source")} for tree in run.evaluations]
    trained = _trained(run)
    for entry in [*own, *(tree for tree in run.kept if tree.get("task") == "text")]:
        found = _whole(entry)
        by = units.quality_of(metric.name for metric in found)
        data = str(entry.get("data"))
        name = f"{data}, {entry.get('variant')}, {by.name.lower()}"
        for metric in found:
            if metric.name.removesuffix(DYNAMIC) == by.key:
                trains = entry in own or data in trained.described
                adapts = ", dynamic evaluation" if metric.name.endswith(DYNAMIC) else ""
                yield (
                    Benchmark(name=name, metric=by.name.lower(), unit=by.unit, lower_is_better=not by.share, rows=()),
                    Row(
                        measure=by.key,
                        counted=metric.convention or None,
                        split=f"{entry.get('variant')}, n = {metric.n:,}",
                        learning=("trained" if trains else "zero-shot") + adapts,
                        extra_data=", ".join(name for name in trained.described if name != data) or "none",
                        **_about(run, entry, metric, ""),
                    ),
                )


def _about(run: Run, entry: Tree, metric: Metric, convention: str) -> dict[str, Any]:
    checkpoint, moment = str(entry.get("checkpoint", "?")), number(entry, "time") or _last_moment(run)
    weights = entry.get("weights")
    if not isinstance(weights, str):  # evaluation.json names the checkpoint alone
        try:
            weights = identity(run.folder / checkpoint)[1]
        except (OSError, ValueError, KeyError, TypeError):
            weights = None
    name = str((run.recipe or {}).get("name") or run.name)
    interval = f"95 %: {units.interval(metric)}" if metric.interval else ""
    return {
        "system": name if name == run.name else f"{name} ({run.name})",
        "value": metric.value,
        "transformer": _transformer(run.recipe),
        "parameters": figures.parameters(run) or None,
        "date": datetime.fromtimestamp(moment, timezone.utc).date().isoformat()
        if moment and math.isfinite(moment)
        else None,
        "source": f"{run.folder}, {checkpoint}, weights {weights or 'gone'}",
        "evidence": "measured",
        "note": "; ".join(part for part in (interval, convention) if part),
        "measured": Measured(run=str(run.folder), checkpoint=checkpoint, weights=weights),
    }


def _last_moment(run: Run) -> float | None:
    return max((moment for event in run.events.rows if (moment := number(event, "time")) is not None), default=None)


def _trained(run: Run) -> Trained:
    components = find(run.recipe, "components")
    if not isinstance(components, list):
        return Trained(None, (), False, None)
    sources = [source for component in components if isinstance(source := find(component, "source"), dict)]
    names: list[str] = []
    described = []
    for source in sources:
        paths = [str(path) for path in source.get("paths") or ()]
        name = str(source.get("name") or f"hf://{source.get('path')}")  # as data/sources.py describes them
        names += [Path(path).name for path in paths] or [name.removeprefix("hf://")]
        described.append(", ".join(paths) or name)
    sides = [side for item in run.data for side in (find(item, "splits") or {}).values()]
    characters = sum(int(number(side, "characters") or 0) for side in sides)
    known = all(source.get("kind") == "embedded" for source in sources)
    return Trained(tuple(dict.fromkeys(names)), tuple(described), known, characters or None)


def _on_training_side(trained: Trained, benchmark: Benchmark) -> bool | None:
    """Whether a run was trained on a set's own training side; None where nothing tells."""
    named = set(trained.names or ()) & set(benchmark.training)
    if named or _nearly(trained.characters, benchmark.training_characters):
        return True
    return False if trained.known else None


def _nearly(size: Any, published: int | None) -> bool:
    return isinstance(size, int) and published is not None and abs(size - published) <= NEARLY * published


def _transformer(recipe: Tree | None) -> str | None:
    """Whether tokens mix by attention, by the recipe's blocks."""
    kinds = set(_mixers(recipe))
    if not kinds:
        return "no" if find(recipe, "model") and find(find(recipe, "model"), "kind") == "recurrent" else None
    return "yes" if kinds == {"attention"} else "partly" if "attention" in kinds else "no"


def _mixers(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        mixer = tree.get("mixer")
        if isinstance(mixer, dict):
            yield str(mixer.get("kind", "attention"))
    for below in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _mixers(below)
