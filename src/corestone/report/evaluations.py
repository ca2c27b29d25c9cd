"""What a run was scored on besides its own held-out text: tasks, other texts, dynamic evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from corestone.report.folder import Run, Tree, metric, metrics
from corestone.report.pictures import ClassRow, class_rows, confusion_chart, counts_of
from corestone.report.sections import OF_CLASS, Chart
from corestone.report.units import interval, told


@dataclass(frozen=True)
class Line:
    """A figure: its name, how it was counted, and the number. `beside` marks what is not the model's own."""

    name: str
    convention: str
    value: str
    unit: str = ""
    interval: str = ""
    n: str = ""
    beside: bool = False


@dataclass(frozen=True)
class Kept:
    """An evaluation: what was scored, of which checkpoint and how, and its figures; of a classification also each
    class's, the worst first, and what it is taken for."""

    title: str
    about: str
    lines: Sequence[Line]
    classes: Sequence[ClassRow]
    matrix: Chart | None


def kept(run: Run) -> list[Kept]:
    """The evaluations in the folder, those of one task and text side by side; without figures none is shown."""
    order = sorted(run.kept, key=lambda tree: (str(tree.get("task")), str(tree.get("data"))))
    found = [_kept(number, tree) for number, tree in enumerate(order)]
    return [item for item in found if item.lines]


def _kept(number: int, tree: Tree) -> Kept:
    listed = tree.get("classes")
    names = [str(name) for name in listed] if isinstance(listed, list) else []
    counts = counts_of(tree.get("confusion"), len(names))
    rows = class_rows(metrics(tree, "model"), names, counts)
    return Kept(_title(tree), _about(tree), _lines(tree), rows, confusion_chart(f"confusion-{number}", counts, names))


def _title(tree: Tree) -> str:
    task, data, source = str(tree.get("task", "?")), tree.get("data"), tree.get("source")
    name = "Text" if task == "text" else task
    own = f"own held-out pictures ({source})" if isinstance(source, str) else "own held-out text"
    return f"{name}: {data if isinstance(data, str) else own}"


def _about(tree: Tree) -> str:
    """The variant, the settings, the size, and the checkpoint with the hash of its weights."""
    counted = [
        _count(tree.get("shots"), "{} example"),
        _count(tree.get("context"), "rows of up to {} token"),
        _count(tree.get("stride"), "a stride of {} token"),
        _count(tree.get("documents"), "{} document"),
    ]
    dynamic, step = tree.get("dynamic"), tree.get("step")
    if isinstance(dynamic, Mapping):
        settings = ", ".join(f"{key} {value}" for key, value in dynamic.items() if key != "kind")
        counted.append(f"dynamic evaluation by {dynamic.get('kind')} ({settings})")
    checkpoint = f"step {step:,}" if isinstance(step, int) else str(tree.get("checkpoint", "an unnamed checkpoint"))
    parts = [
        tree.get("variant"),
        *counted,
        f"{checkpoint}, weights {tree.get('weights', 'unknown')}",
        tree.get("precision"),
    ]
    return "; ".join(str(part) for part in parts if part)


def _count(value: Any, form: str) -> str | None:
    return form.format(f"{value:,}") + ("" if value == 1 else "s") if isinstance(value, int) else None


def _lines(tree: Tree) -> list[Line]:
    """How figures were counted is said once for those that follow one another."""
    own = [_line(item) for item in _items(tree, "model") if not str(item.get("name")).startswith(OF_CLASS)]
    lines = [*own, *(_line(item, "floor: ") for item in _items(tree, "floors"))]
    same = [False, *(line.convention == before.convention for before, line in pairwise(lines))]
    told_once = [replace(line, convention="") if said else line for line, said in zip(lines, same, strict=True)]
    return [*told_once, *(_published(row) for row in _items(tree, "published"))]


def _items(tree: Tree, key: str) -> list[Tree]:
    found = tree.get(key)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def _line(item: Tree, before: str = "") -> Line:
    one = metric(item)
    name = before + str(item.get("name", "?")).replace("_", " ")
    convention = str(item.get("convention", ""))
    if one is None:  # a ruined model's perplexity has no value in JSON
        return Line(name, convention, "not finite", str(item.get("unit", "")), beside=bool(before))
    n = f"{one.n:,}" if one.n else ""
    return Line(name, convention, *told(one.value, one.unit), interval(one), n, bool(before))


def _published(row: Tree) -> Line:
    said = f"{row.get('source')}, {row.get('year')}: {row.get('caveat')}"
    value: Any = row.get("value")
    shown = f"{value:g}" if isinstance(value, (int, float)) else str(value)
    return Line(f"published: {row.get('system')}", said, shown, str(row.get("unit", "")), beside=True)
