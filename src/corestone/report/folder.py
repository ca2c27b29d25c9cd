"""Reading a run folder: whatever is there, complete or not, and a note for each thing that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from corestone.core.errors import CheckpointError
from corestone.core.metric import Metric
from corestone.core.runlog import Events, read_events

Tree = Mapping[str, Any]
EVALUATIONS = "evaluations.jsonl"
"""What a run was scored on besides its own held-out text, one evaluation per line."""
CERTIFICATE = "check.json"
"""Which promises were tried on a run's recipe, and what came of it."""
RANGE_TEST = "range-test.json"
"""What a learning-rate range test measured."""
REHEARSAL = "rehearsal.json"
"""Of a run that is a rehearsal: what came of each stage of its life."""
PICTURE_BYTES = 400_000
"""How much a report takes in of pictures; a recipe writes three quarters of it at most."""
PNG_BEGIN, PNG_END = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", b"\x00\x00\x00\x00IEND\xaeB`\x82"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder: its name, its step (None where the name tells none) and its size on disk in bytes."""

    name: str
    step: int | None
    size: int


@dataclass(frozen=True)
class Run:
    """A run folder in memory. What is missing is None or empty; what is damaged is named in `notes`.

    Attributes:
        kept: evaluations that were asked for.
        pictures: PNG files for the report, by name without ending.
        certificate: of the checks of its recipe; None where there were none.
        range_test: what it found, where the run is a learning-rate range test.
        rehearsal: what came of it, where the run is one.
    """

    folder: Path
    recipe_text: str | None
    recipe: Tree | None
    environment: Tree
    data: tuple[Tree, ...]
    events: Events
    evaluation: Tree | None
    checkpoints: tuple[Checkpoint, ...]
    kept: tuple[Tree, ...] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    certificate: Tree | None = None
    rehearsal: Tree | None = None
    plan: Tree | None = None
    range_test: Tree | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self.folder.resolve().name

    @property
    def evaluations(self) -> list[Tree]:
        """The evaluation of each held-out set; the first is the run's main one."""
        if not self.evaluation:
            return []
        others = self.evaluation.get("others")
        return [
            self.evaluation,
            *(item for item in (others if isinstance(others, list) else []) if isinstance(item, dict)),
        ]

    def metrics(self, side: str) -> list[Metric]:
        """The metrics of the main evaluation on one side (`model` or `floors`) that are whole."""
        return metrics(self.evaluation or {}, side)


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises CheckpointError where the folder is missing or holds neither a recipe nor a log.
    """
    if not folder.is_dir():
        what = "is a file, not a run folder" if folder.exists() else "there is no such folder"
        raise CheckpointError(f"{folder}: {what}; give the folder of a run (corestone pretrain RECIPE --run FOLDER)")
    if not (folder / "recipe.yaml").is_file() and not (folder / "metrics.jsonl").is_file():
        raise CheckpointError(
            f"{folder}: not a run folder, it has neither recipe.yaml nor metrics.jsonl; "
            "give the folder of a run (corestone pretrain RECIPE --run FOLDER)"
        )
    notes: list[str] = []
    text, recipe = _recipe(folder / "recipe.yaml", notes)
    events = read_events(folder)
    _note_lines("metrics.jsonl", events.unreadable, notes)
    data = _json(folder / "data.json", list, notes)
    return Run(
        folder=folder,
        recipe_text=text,
        recipe=recipe,
        environment=_json(folder / "environment.json", dict, notes) or {},
        data=tuple(item for item in data or [] if isinstance(item, dict)),
        events=events,
        evaluation=_json(folder / "evaluation.json", dict, notes),
        checkpoints=tuple(_checkpoints(folder / "checkpoints")),
        kept=tuple(_kept(folder / EVALUATIONS, notes)),
        pictures=dict(_pictures(folder / "pictures", notes)),
        certificate=_json(folder / CERTIFICATE, dict, notes) if (folder / CERTIFICATE).exists() else None,
        rehearsal=_json(folder / REHEARSAL, dict, notes) if (folder / REHEARSAL).exists() else None,
        plan=_json(folder / "plan.json", dict, notes) if (folder / "plan.json").exists() else None,
        range_test=_json(folder / RANGE_TEST, dict, notes) if (folder / RANGE_TEST).exists() else None,
        notes=tuple(notes),
    )


def _note_lines(name: str, unreadable: Sequence[int], notes: list[str]) -> None:
    if unreadable:
        lines = ", ".join(str(line) for line in unreadable[:5]) + (", ..." if len(unreadable) > 5 else "")
        count = "1 unreadable line" if len(unreadable) == 1 else f"{len(unreadable)} unreadable lines"
        notes.append(f"{name}: {count} left out (line {lines})")


def _kept(path: Path, notes: list[str]) -> Iterator[Tree]:
    """The evaluations that were asked for; most runs have no such file."""
    unreadable = []
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        notes.append(f"{path.name}: cannot be read ({error})")
        return
    for place, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except ValueError:  # UnicodeDecodeError too
            entry = None
        if isinstance(entry, dict):
            yield entry
        else:
            unreadable.append(place)
    _note_lines(path.name, unreadable, notes)


def _pictures(folder: Path, notes: list[str]) -> Iterator[tuple[str, bytes]]:
    """The whole PNG files of a folder, as long as they are small together; runs on text have no such folder."""
    room = PICTURE_BYTES
    for path in sorted(folder.glob("*.png")) if folder.is_dir() else []:
        try:
            content = path.read_bytes() if path.stat().st_size <= room else b""
        except OSError as error:
            notes.append(f"{folder.name}/{path.name}: cannot be read ({error.strerror})")
            continue
        if content.startswith(PNG_BEGIN) and content.endswith(PNG_END):
            room -= len(content)
            yield path.stem, content
        else:
            why = "is no whole PNG file" if content else "is too large for a report"
            notes.append(f"{folder.name}/{path.name}: {why}")


def _text(path: Path, notes: list[str]) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        notes.append(f"{path.name}: missing")
    except (OSError, UnicodeDecodeError) as error:
        notes.append(f"{path.name}: cannot be read ({error})")
    return None


def _recipe(path: Path, notes: list[str]) -> tuple[str | None, Tree | None]:
    text = _text(path, notes)
    if text is None:
        return None, None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        notes.append(f"{path.name}: not valid YAML ({str(error).splitlines()[0]})")
        return text, None
    if not isinstance(tree, dict):
        notes.append(f"{path.name}: expected a mapping of keys, found {type(tree).__name__}")
        return text, None
    return text, tree


def _json(path: Path, kind: type, notes: list[str]) -> Any:
    text = _text(path, notes)
    if text is None:
        return None
    try:
        tree = json.loads(text)
    except ValueError as error:
        notes.append(f"{path.name}: not valid JSON ({error})")
        return None
    if not isinstance(tree, kind):
        notes.append(f"{path.name}: expected a {kind.__name__}, found a {type(tree).__name__}")
        return None
    return tree


def _checkpoints(folder: Path) -> Iterator[Checkpoint]:
    """Complete checkpoints only: a folder under another name is one that was being written."""
    for path in sorted(folder.glob("step-*")) if folder.is_dir() else []:
        digits = path.name.removeprefix("step-")
        if path.is_dir() and digits.isdigit():
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            yield Checkpoint(name=path.name, step=int(digits), size=size)


def metrics(evaluation: Tree, side: str) -> list[Metric]:
    """The metrics of an evaluation on one side (`model` or `floors`) that are whole."""
    found = evaluation.get(side)
    return [one for item in (found if isinstance(found, list) else []) if (one := metric(item))]


def metric(item: Any) -> Metric | None:
    """A metric as JSON holds it; None where it has no number."""
    if not isinstance(item, dict) or not isinstance(item.get("value"), (int, float)):
        return None
    interval = item.get("interval")
    whole = isinstance(interval, list) and len(interval) == 2 and all(isinstance(end, (int, float)) for end in interval)
    count = item.get("n")
    return Metric(
        name=str(item.get("name", "?")),
        value=float(item["value"]),
        unit=str(item.get("unit", "")),
        n=int(count) if isinstance(count, (int, float)) else 0,
        interval=(float(interval[0]), float(interval[1])) if whole and interval else None,
        convention=str(item.get("convention", "")),
    )


def find(tree: Any, key: str) -> Any:
    """The first value under `key`, searching a plain tree from the top down; None where there is none."""
    level = [tree]
    while level:
        below = []
        for node in level:
            if isinstance(node, Mapping):
                if key in node:
                    return node[key]
                below += list(node.values())
            elif isinstance(node, (list, tuple)):
                below += list(node)
        level = below
    return None


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """A plain tree as `path: scalar`. A list of equal items is told once (`blocks.*`) with its length."""
    if isinstance(tree, Mapping) and tree:
        parts = [flatten(value, f"{path}.{key}" if path else str(key)) for key, value in tree.items()]
    elif isinstance(tree, (list, tuple)) and any(isinstance(item, (Mapping, list)) for item in tree):
        if len(tree) > 1 and all(item == tree[0] for item in tree):
            parts = [{f"{path}.length": len(tree)}, flatten(tree[0], f"{path}.*")]
        else:
            parts = [{f"{path}.length": len(tree)}]
            parts += [flatten(item, f"{path}.{place}") for place, item in enumerate(tree)]
    else:
        return {path: tree}
    return {key: value for part in parts for key, value in part.items()}
