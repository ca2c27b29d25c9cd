"""The sections of a run's page: plain values for the templates, each number already with its unit."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from corestone.core.format import si
from corestone.core.metric import Metric
from corestone.core.runlog import Event, number
from corestone.report import figures
from corestone.report.figures import column
from corestone.report.folder import Run, Tree, find, metrics
from corestone.report.plots import PLAIN, Look, Series, plot, smooth
from corestone.report.units import BITS, TEXT, UNITS, Quality, interval, judges, quality, quality_of, told, unit_of
from corestone.train.noise import SCALE

OPEN_SAMPLES = 4
"""Moments of sampling shown at once (the first and the newest); the others can be opened."""

OF_CLASS = "accuracy of "
"""How the accuracy of one class is called, before its name."""

Pairs = list[tuple[str, str | None]]


@dataclass(frozen=True)
class Chart:
    """A drawn plot (None: nothing was logged): title, unit of its values, axis and legend (label, colour, style)."""

    title: str
    unit: str
    svg: str | None
    axis: str = ""
    legend: Sequence[tuple[str, str, str]] = ()


def chart(name: str, title: str, unit: str, series: Sequence[Series], look: Look = PLAIN) -> Chart:
    """Draw a chart; one without values says so in place of the drawing."""
    shown = [item for item in series if len(item.y)]
    if not any(item.style != "level" for item in shown):
        return Chart(title, unit, None)
    describe = f"{title} ({unit}) over {look.axis}: {', '.join(item.label for item in shown)}"
    legend = [(item.label, item.colour, item.style) for item in shown]
    return Chart(title, unit, plot(name, shown, describe, look), look.axis, legend)


def raw_and_smooth(events: Sequence[Event], key: str, colour: str) -> list[Series]:
    """The logged values, faint, behind their moving average (drawn where there are enough of them)."""
    x, y = column(events, key)
    span = len(y) / 40
    if span < 1:
        return [Series(x, y, "as logged", colour)]
    label = f"smoothed over about {round(span)} log {'line' if round(span) == 1 else 'lines'}"
    return [Series(x, y, "as logged", colour, "faint"), Series(x, smooth(y, span), label, colour)]


def curves(run: Run) -> list[Chart]:
    """Loss, validation, learning rate and gradient norm."""
    train, evaluated = run.events.of("train"), run.events.of("evaluate")
    by, unit = quality(run), unit_of(run)
    part, whole = _held_out_parts(run)
    x, y = column(evaluated, by.key, "metrics")
    validation = [Series(x, y, f"{part}, while training", "c2", "points")]
    floor = figures.best_floor(run)
    if floor is not None:
        validation.append(
            Series((), (floor.value,), f"best floor, on {whole}: {figures.floor_name(floor)}", "c3", "level")
        )
    look = Look(over=unit.axis)
    rate = [Series(*column(train, "learning_rate"), "learning rate", "c4")]
    loss = "nats/token" if by is BITS else "nats"
    shown = by.name.lower() if by.share else by.unit
    return [
        chart("loss", "Training loss", loss, raw_and_smooth(train, "loss", "c1"), look),
        chart("validation", unit.held_out.capitalize(), shown, validation, replace(look, percent=by.share)),
        chart("rate", "Learning rate", "", rate, look),
        chart("norm", "Gradient norm", "before clipping", raw_and_smooth(train, "grad_norm", "c5"), look),
        *_noise_scale(run),
    ]


def _noise_scale(run: Run) -> list[Chart]:
    """The gradient's noise scale beside the run's own batch; nothing where it was not measured."""
    unit = unit_of(run)
    x, y = column(run.events.of("train"), SCALE)
    batch = find(run.recipe, unit.batch.rsplit(".", 1)[-1])
    if not y:
        return []
    series = [Series(x, y, "noise scale, about the critical batch size", "c6")]
    if isinstance(batch, int):
        series.append(Series((), (float(batch),), "this run's batch", "c3", "level"))
    return [chart("noise", "Critical batch size", unit.key, series, Look(zero=True, over=unit.axis))]


def _held_out_parts(run: Run) -> tuple[str, str]:
    """What is scored while training, and what the floors were measured on: of pictures they may be two sides."""
    split = (run.evaluation or {}).get("split")
    if unit_of(run) == TEXT:
        return "its beginning alone", "all of it"
    most = find(run.recipe, "pictures_while_training")
    held = find(find(run.data, "validation"), "pictures")
    known = isinstance(most, int) and isinstance(held, int)
    side = f"the validation side's first {most:,}" if known and held > most else "the validation side"
    return side, f"the {split} side" if isinstance(split, str) else "all of it"


def speed_charts(run: Run) -> list[Chart]:
    """Tokens or pictures per second, and shares of the peak and of the time."""
    train, unit = run.events.of("train"), unit_of(run)
    shares = [
        Series(*column(train, "utilisation"), "utilisation of the GEMM peak", "c2"),
        Series(*column(train, "data_wait_share"), "waiting for data", "c5"),
    ]
    speed = [Series(*column(train, unit.speed_key), unit.speed, "c1")]
    look = Look(zero=True, over=unit.axis)
    return [
        chart("speed", "Training speed", unit.speed, speed, look),
        chart("shares", "Utilisation and waiting", "share", shares, replace(look, percent=True)),
    ]


def setup(run: Run) -> Pairs:
    """What was run, in a few lines; the whole recipe stands below it."""
    recipe = run.recipe or {}
    stack = find(recipe.get("model"), "stack")
    shape = None
    if isinstance(stack, Mapping) and isinstance(stack.get("blocks"), list):
        heads = find(stack, "num_heads")
        shape = joined(
            f"{len(stack['blocks'])} layers", _named("width", stack.get("width")), heads and f"{heads} heads"
        )
    training, optimiser, tokenizer = recipe.get("training"), recipe.get("optimiser"), find(recipe, "tokenizer")
    augmentation, schedule, unit = find(recipe.get("data"), "augmentation"), recipe.get("schedule"), unit_of(run)
    rows: Pairs = [
        ("Model", joined(kind_of(recipe.get("model")), shape)),
        ("Objective", kind_of(recipe.get("objective"))),
        ("Tokenizer", joined(kind_of(tokenizer), counted(find(tokenizer, "vocab_size"), "tokens"))),
        ("Context", counted(find(recipe.get("data"), "context_length"), "tokens")),
        ("Pictures", _pixels(augmentation)),
        ("Augmented", _steps(augmentation)),
        ("Batch", counted(find(recipe, unit.batch.split(".")[-1]), f"{unit.key} per step")),
        ("Length", plain_text(find(training, "length"))),
        ("Optimiser", joined(kind_of(optimiser), _named("learning rate", find(optimiser, "learning_rate")))),
        (
            "Schedule",
            joined(kind_of(schedule), _named("warm-up", find(schedule, "warmup"))),
        ),
        ("Precision", plain_text(find(training, "precision"))),
        ("Seed", plain_text(recipe.get("seed"))),
    ]
    return [(label, value) for label, value in rows if value is not None]


def _pixels(augmentation: Any) -> str | None:
    """Height, width and channels of what the model sees."""
    size = find(augmentation, "size")
    if not isinstance(size, list):
        return None
    return " x ".join(str(value) for value in (*size, find(augmentation, "channels")) if value is not None)


def _steps(augmentation: Any) -> str | None:
    """What is done to training pictures, in order, and what with two of them."""
    if not isinstance(augmentation, Mapping):
        return None
    groups = (augmentation.get(key) for key in ("steps", "mix"))
    kinds = [kind_of(step) for group in groups if isinstance(group, list) for step in group]
    return ", ".join(kind for kind in kinds if kind) or "none"


def kind_of(record: Any) -> str | None:
    kind = record.get("kind") if isinstance(record, Mapping) else None
    return None if kind is None else str(kind).replace("_", " ")


def plain_text(value: Any) -> str | None:
    return None if value is None or isinstance(value, (Mapping, list)) else str(value)


def counted(value: Any, unit: str) -> str | None:
    return f"{value:,} {unit}" if isinstance(value, int) else None


def _named(label: str, value: Any) -> str | None:
    return None if value is None else f"{label} {value}"


def joined(*parts: str | None) -> str | None:
    return ", ".join(part for part in parts if part) or None


def machine(run: Run) -> Pairs:
    """Machine, versions and git state, as environment.json tells them."""
    told = run.environment
    if not told:
        return []
    box = told.get("machine")
    box = box if isinstance(box, Mapping) else {}
    packages = told.get("packages")
    versions = [f"{name} {version}" for name, version in packages.items()] if isinstance(packages, Mapping) else []
    return [
        ("Processor", joined(plain_text(box.get("cpu")), counted(box.get("cores"), "usable cores"))),
        ("Memory", _bytes(box.get("memory_bytes"))),
        ("GPU", _gpus(box.get("gpu"))),
        ("Computed on", joined(plain_text(told.get("device")), plain_text(told.get("precision")), _ranks(told))),
        ("System", plain_text(told.get("platform"))),
        ("Python", plain_text(told.get("python"))),
        ("Corestone", plain_text(told.get("corestone"))),
        ("Packages", ", ".join(versions) or None),
        ("Git", git(told["git"]) if "git" in told else None),
    ]


def _ranks(told: Tree) -> str | None:
    return joined(counted(told.get("ranks"), "rank(s)"), counted(told.get("threads"), "thread(s) in each"))


def _bytes(value: Any) -> str | None:
    return si(value, "B") if isinstance(value, (int, float)) else None


def _gpus(found: Any) -> str | None:
    if not isinstance(found, list):
        return None
    shown = [
        joined(plain_text(item.get("name")), _bytes(item.get("memory_bytes")))
        for item in found
        if isinstance(item, Mapping)
    ]
    return "; ".join(item for item in shown if item) or "none"


def git(told: Any) -> str | None:
    """The state of the code in words."""
    if not isinstance(told, Mapping) or not isinstance(told.get("commit"), str):
        return "not in a git repository"
    branch = f" on {told['branch']}" if told.get("branch") else ""
    changes = {"True": ", with uncommitted changes", "False": ", without uncommitted changes"}
    return f"{told['commit'][:12]}{branch}{changes.get(str(told.get('modified')), '')}"


@dataclass(frozen=True)
class Row:
    """A row of the evaluation table. `share` is the bar's length in percent of the longest."""

    name: str
    value: str
    unit: str
    interval: str
    n: str
    is_model: bool
    is_best: bool = False
    share: float = 0.0


@dataclass(frozen=True)
class Evaluated:
    """The evaluation of one held-out set: what was scored, model and floors in one unit, and the rest."""

    about: str
    direction: str
    unit: str
    compared: Sequence[Row]
    others: Sequence[Row]


def evaluations(run: Run) -> list[Evaluated]:
    """All held-out sets that were scored; those without a whole metric are left out."""
    found = []
    for tree in run.evaluations:
        by = quality_of((metric.name for metric in metrics(tree, "model")), quality(run))
        shown = f"{by.name}, {by.shown_unit}" if by.share else by.unit
        found.append(Evaluated(_about(tree), by.direction, shown, _compared(tree, by), _others(tree, by)))
    return [item for item in found if item.compared or item.others]


def _about(tree: Tree) -> str:
    labels = (("source", ""), ("split", "split "), ("checkpoint", "checkpoint "), ("precision", "computed in "))
    return ", ".join(f"{label}{tree[key]}" for key, label in labels if isinstance(tree.get(key), str) and tree[key])


def _compared(tree: Tree, by: Quality) -> list[Row]:
    """Model and floors by the figure that judges them, best first."""
    model = [(metric, True) for metric in metrics(tree, "model") if judges(metric, by)]
    floors = [(metric, False) for metric in metrics(tree, "floors") if judges(metric, by, floor=True)]
    both = sorted(model + floors, key=lambda pair: pair[0].value, reverse=by.share)
    longest = 1.0 if by.share else max((metric.value for metric, _ in both), default=1.0) or 1.0
    return [
        _row(metric, is_model, is_best=place == 0 and len(both) > 1, share=100 * metric.value / longest)
        for place, (metric, is_model) in enumerate(both)
    ]


def _others(tree: Tree, by: Quality) -> list[Row]:
    """What was evaluated besides, in the order of the file; each class's accuracy has a table of its own."""
    sides = ((metric, side == "model") for side in ("model", "floors") for metric in metrics(tree, side))
    return [
        _row(metric, is_model)
        for metric, is_model in sides
        if not judges(metric, by, floor=not is_model) and not metric.name.startswith(OF_CLASS)
    ]


def _row(metric: Metric, is_model: bool, is_best: bool = False, share: float | None = None) -> Row:
    plain = metric.name.replace("_", " ")
    name = plain if share is None else "this model" if is_model else figures.floor_name(metric)
    n = f"{metric.n:,}" if metric.n else ""
    return Row(name, *told(metric.value, metric.unit), interval(metric), n, is_model, is_best, share or 0.0)


@dataclass(frozen=True)
class Moment:
    """The samples of one step."""

    when: str
    samples: Sequence[tuple[str, str]]


def moments(run: Run) -> tuple[list[Moment], list[Moment]]:
    """Samples over time, newest first: those shown at once (the newest and the first), and those in between."""
    found = [_moment(event) for event in reversed(run.events.of("sample"))]
    if len(found) <= OPEN_SAMPLES:
        return found, []
    return [*found[: OPEN_SAMPLES - 1], found[-1]], found[OPEN_SAMPLES - 1 : -1]


def _moment(event: Event) -> Moment:
    told = event.get("samples")
    samples = [item for item in (told if isinstance(told, list) else []) if isinstance(item, Mapping)]
    pairs = [(str(item.get("prompt", "")), str(item.get("text", ""))) for item in samples]
    # A text may or may not begin with its prompt; it is shown once.
    cut = [(prompt, text.removeprefix(prompt) if prompt else text) for prompt, text in pairs]
    return Moment(_when(event), cut)


def _when(event: Event) -> str:
    told = [(value, unit.key) for unit in UNITS if (value := number(event, unit.key)) is not None]
    return f"step {event['step']:,}" + "".join(f", after {si(value)} {key}" for value, key in told)


def anomalies(run: Run) -> list[tuple[str, str]]:
    """Each anomaly: when, and everything the log says of it."""
    plumbing = ("event", "step", "time", *(unit.key for unit in UNITS))
    found = []
    for event in run.events.of("anomaly"):
        told = [f"{key.replace('_', ' ')}: {_listed(event[key])}" for key in event if key not in plumbing]
        found.append((_when(event), "; ".join(told)))
    return found


def _listed(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def checkpoints(run: Run) -> list[tuple[str, str, str]]:
    """Complete checkpoints in the folder: name, size, time of writing (UTC)."""
    times = {event["step"]: number(event, "time") for event in run.events.of("checkpoint")}
    out = []
    for item in run.checkpoints:
        at = times.get(item.step)
        moment = "not logged" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))
        out.append((item.name, si(item.size, "B"), moment))
    return out


def commands(run: Run) -> list[tuple[str, str]]:
    """How to run it again: what was typed, the code it ran on, and the resolved recipe."""
    told = run.environment
    state = told.get("git")
    found = []
    if isinstance(told.get("command"), str):
        found.append(("As it was typed", str(told["command"])))
    if isinstance(state, Mapping) and isinstance(state.get("commit"), str):
        change = " (it had changes that were not committed)" if state.get("modified") else ""
        found.append((f"The same code{change}", f"git checkout {state['commit']}"))
    if run.recipe is not None:
        again = shlex.join(["corestone", "pretrain", str(run.folder / "recipe.yaml"), "--run", "NEW"])
        found.append(("The resolved recipe, in a new folder", again))
    return found
