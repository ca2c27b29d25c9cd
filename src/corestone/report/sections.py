"""The sections of a run's page: plain values for the templates, each number already with its unit."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corestone.core.format import si
from corestone.core.metric import Metric
from corestone.core.runlog import Event, number
from corestone.report import figures
from corestone.report.figures import column
from corestone.report.folder import Run, Tree, find, metrics
from corestone.report.plots import TOKENS, Look, Series, plot, smooth

OPEN_SAMPLES = 4
"""Moments of sampling shown at once (the first and the newest); the others can be opened."""

Pairs = list[tuple[str, str | None]]


@dataclass(frozen=True)
class Chart:
    """A drawn plot (None: nothing was logged): title, unit of its values, axis and legend (label, colour, style)."""

    title: str
    unit: str
    svg: str | None
    axis: str = ""
    legend: Sequence[tuple[str, str, str]] = ()


def chart(name: str, title: str, unit: str, series: Sequence[Series], look: Look = TOKENS) -> Chart:
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
    by = figures.quality(run)
    x, y = column(evaluated, by.key, "metrics")
    validation = [Series(x, y, "its beginning alone, while training", "c2", "points")]
    floor = figures.best_floor(run)
    if floor is not None:
        validation.append(
            Series((), (floor.value,), f"best floor, on all of it: {figures.floor_name(floor)}", "c3", "level")
        )
    rate = [Series(*column(train, "learning_rate"), "learning rate", "c4")]
    return [
        chart(
            "loss",
            "Training loss",
            "nats/token" if by is figures.QUALITIES[0] else "nats",
            raw_and_smooth(train, "loss", "c1"),
        ),
        chart("validation", "Held-out text", by.unit, validation),
        chart("rate", "Learning rate", "", rate),
        chart("norm", "Gradient norm", "before clipping", raw_and_smooth(train, "grad_norm", "c5")),
    ]


def speed_charts(run: Run) -> list[Chart]:
    """Tokens per second, and shares of the peak and of the time."""
    train = run.events.of("train")
    shares = [
        Series(*column(train, "utilisation"), "utilisation of the GEMM peak", "c2"),
        Series(*column(train, "data_wait_share"), "waiting for data", "c5"),
    ]
    speed = [Series(*column(train, "tokens_per_second"), "tokens/s", "c1")]
    return [
        chart("speed", "Training speed", "tokens/s", speed, Look(zero=True)),
        chart("shares", "Utilisation and waiting", "share", shares, Look(percent=True, zero=True)),
    ]


def setup(run: Run) -> Pairs:
    """What was run, in a few lines; the whole recipe stands below it."""
    recipe = run.recipe or {}
    stack = find(recipe.get("model"), "stack")
    shape = None
    if isinstance(stack, Mapping) and isinstance(stack.get("blocks"), list):
        heads = find(stack, "num_heads")
        shape = _joined(
            f"{len(stack['blocks'])} layers", _named("width", stack.get("width")), heads and f"{heads} heads"
        )
    training, optimiser, tokenizer = recipe.get("training"), recipe.get("optimiser"), find(recipe, "tokenizer")
    rows: Pairs = [
        ("Model", _joined(_kind(recipe.get("model")), shape)),
        ("Objective", _kind(recipe.get("objective"))),
        ("Tokenizer", _joined(_kind(tokenizer), _counted(find(tokenizer, "vocab_size"), "tokens"))),
        ("Context", _counted(find(recipe.get("data"), "context_length"), "tokens")),
        ("Batch", _counted(find(training, "batch_tokens"), "tokens per step")),
        ("Length", _text(find(training, "length"))),
        ("Optimiser", _joined(_kind(optimiser), _named("learning rate", find(optimiser, "learning_rate")))),
        ("Schedule", _joined(_kind(recipe.get("schedule")), _named("warm-up", find(recipe.get("schedule"), "warmup")))),
        ("Precision", _text(find(training, "precision"))),
        ("Seed", _text(recipe.get("seed"))),
    ]
    return [(label, value) for label, value in rows if value is not None]


def _kind(record: Any) -> str | None:
    kind = record.get("kind") if isinstance(record, Mapping) else None
    return None if kind is None else str(kind).replace("_", " ")


def _text(value: Any) -> str | None:
    return None if value is None or isinstance(value, (Mapping, list)) else str(value)


def _counted(value: Any, unit: str) -> str | None:
    return f"{value:,} {unit}" if isinstance(value, int) else None


def _named(label: str, value: Any) -> str | None:
    return None if value is None else f"{label} {value}"


def _joined(*parts: str | None) -> str | None:
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
        ("Processor", _joined(_text(box.get("cpu")), _counted(box.get("cores"), "usable cores"))),
        ("Memory", _bytes(box.get("memory_bytes"))),
        ("GPU", _gpus(box.get("gpu"))),
        ("Computed on", _joined(_text(told.get("device")), _text(told.get("precision")), _ranks(told))),
        ("System", _text(told.get("platform"))),
        ("Python", _text(told.get("python"))),
        ("Corestone", _text(told.get("corestone"))),
        ("Packages", ", ".join(versions) or None),
        ("Git", git(told["git"]) if "git" in told else None),
    ]


def _ranks(told: Tree) -> str | None:
    return _joined(_counted(told.get("ranks"), "rank(s)"), _counted(told.get("threads"), "thread(s) in each"))


def _bytes(value: Any) -> str | None:
    return si(value, "B") if isinstance(value, (int, float)) else None


def _gpus(found: Any) -> str | None:
    if not isinstance(found, list):
        return None
    shown = [
        _joined(_text(item.get("name")), _bytes(item.get("memory_bytes")))
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
class DataSet:
    """A data set on the page: card, sizes and what became of its documents."""

    title: str
    card: Pairs
    not_controlled: str | None
    sizes: Sequence[tuple[str, str, str, str]]
    kept: str | None
    dropped: Sequence[tuple[str, int]]


def data_sets(run: Run) -> list[DataSet]:
    """One per entry of data.json: `{manifest, card, weight}`, or a bare manifest."""
    return [_data_set(item) for item in run.data]


def _data_set(item: Tree) -> DataSet:
    manifest = item["manifest"] if isinstance(item.get("manifest"), Mapping) else item
    card = item["card"] if isinstance(item.get("card"), Mapping) else {}
    tokenizer = manifest.get("tokenizer")
    tokenizer = tokenizer if isinstance(tokenizer, Mapping) else {}
    counts = manifest.get("counts")
    counts = counts if isinstance(counts, Mapping) else {}
    dropped = counts.get("dropped")
    ratio = tokenizer.get("bytes_per_token")
    rule = card.get("split") or (f"by {card['group']}" if card.get("group") else None)
    percent = card.get("validation_percent")
    facts: Pairs = [
        ("Licence", _text(card.get("licence"))),
        ("Source", _source(card.get("wheel") or manifest.get("source"))),
        ("Split", _joined(_text(rule), None if percent is None or card.get("split") else f"{percent:g} % validation")),
        ("Weight", _text(item.get("weight"))),
        ("Tokenizer", _joined(_kind(tokenizer), _counted(tokenizer.get("vocab_size"), "tokens"))),
        ("Bytes per token", f"{ratio:.3f}" if isinstance(ratio, float) else None),
        ("Encoder", _joined(_text(manifest.get("encoder")), _text(manifest.get("encoder_reason")))),
        ("Fingerprint", _text(manifest.get("fingerprint"))),
        ("Corpus sha256", _text(card.get("corpus_sha256"))),
    ]
    return DataSet(
        title=str(card.get("title") or card.get("name") or _source(manifest.get("source")) or "data set"),
        card=[(label, value) for label, value in facts if value is not None],
        not_controlled=_text(card.get("not_controlled")),
        sizes=[_size(side, manifest) for side in ("train", "validation")],
        kept=f"{counts.get('kept', '?'):,} of {counts.get('read', '?'):,} documents kept" if _whole(counts) else None,
        dropped=[(str(k), n) for k, n in dropped.items() if isinstance(n, int)] if isinstance(dropped, Mapping) else [],
    )


def _whole(counts: Tree) -> bool:
    return isinstance(counts.get("kept"), int) and isinstance(counts.get("read"), int)


def _source(told: Any) -> str | None:
    if isinstance(told, Mapping):
        paths = told.get("paths")
        if isinstance(paths, list):
            return ", ".join(str(path) for path in paths)
        if told.get("project"):
            return f"the wheel {told['project']} {told.get('version', '')}".strip()
        return _text(told.get("name") or told.get("path"))
    return _text(told)


def _size(side: str, manifest: Tree) -> tuple[str, str, str, str]:
    splits = manifest.get("splits")
    told = (splits if isinstance(splits, Mapping) else manifest).get(side)
    told = told if isinstance(told, Mapping) else {}
    values = [told.get(key) for key in ("tokens", "documents", "bytes")]
    shown = [f"{value:,}" if isinstance(value, int) else "not counted" for value in values]
    return side, shown[0], shown[1], shown[2]


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
    unit: str
    compared: Sequence[Row]
    others: Sequence[Row]


def evaluations(run: Run) -> list[Evaluated]:
    """All held-out sets that were scored; those without a whole metric are left out."""
    found = []
    for tree in run.evaluations:
        by = figures.quality_of(metric.name for metric in metrics(tree, "model"))
        found.append(Evaluated(_about(tree), by.unit, _compared(tree, by), _others(tree, by)))
    return [item for item in found if item.compared or item.others]


def _about(tree: Tree) -> str:
    labels = (("source", ""), ("split", "split "), ("checkpoint", "checkpoint "), ("precision", "computed in "))
    return ", ".join(f"{label}{tree[key]}" for key, label in labels if isinstance(tree.get(key), str) and tree[key])


def _compared(tree: Tree, by: figures.Quality) -> list[Row]:
    """Model and floors by the figure that judges them, best first."""
    model = [(metric, True) for metric in metrics(tree, "model") if figures.judges(metric, by)]
    floors = [(metric, False) for metric in metrics(tree, "floors") if figures.judges(metric, by)]
    both = sorted(model + floors, key=lambda pair: pair[0].value)
    longest = max((metric.value for metric, _ in both), default=1.0) or 1.0
    return [
        _row(metric, is_model, is_best=place == 0 and len(both) > 1, share=100 * metric.value / longest)
        for place, (metric, is_model) in enumerate(both)
    ]


def _others(tree: Tree, by: figures.Quality) -> list[Row]:
    """What was evaluated besides, in the order of the file."""
    sides = ((metric, side == "model") for side in ("model", "floors") for metric in metrics(tree, side))
    return [_row(metric, is_model) for metric, is_model in sides if not figures.judges(metric, by)]


def _row(metric: Metric, is_model: bool, is_best: bool = False, share: float = 0.0) -> Row:
    plain = metric.name.replace("_", " ")
    name = ("this model" if is_model else figures.floor_name(metric)) if share else plain
    span, n = figures.interval(metric), f"{metric.n:,}" if metric.n else ""
    return Row(name, figures.precise(metric.value), metric.unit, span, n, is_model, is_best, share)


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
    tokens = number(event, "tokens")
    return f"step {event['step']:,}" + ("" if tokens is None else f", after {si(tokens)} tokens")


def anomalies(run: Run) -> list[tuple[str, str]]:
    """Each anomaly: when, and everything the log says of it."""
    plumbing = ("event", "step", "tokens", "time")
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
