"""The rehearsal of a recipe: what came of each stage of its life at toy width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from corestone.report.folder import Run


@dataclass(frozen=True)
class StageLine:
    """A stage: its name, what ran, was shown or went wrong, the verdict and the seconds."""

    name: str
    about: str
    verdict: str
    seconds: str


@dataclass(frozen=True)
class Rehearsal:
    """All stages, of which recipe, in how many processes, what was changed for it, and when that was."""

    lines: Sequence[StageLine]
    recipe: str
    processes: str
    scaled: Sequence[str]
    when: str


def rehearsal(run: Run) -> Rehearsal | None:
    """The section; None where the folder is no rehearsal's, or one without stages."""
    tree = run.rehearsal or {}
    listed = tree.get("stages")
    lines = [_line(item) for item in listed if isinstance(item, Mapping)] if isinstance(listed, list) else []
    if not lines:
        return None
    scaled, moment = tree.get("scaled"), tree.get("time")
    when = ""
    if isinstance(moment, int | float):
        when = f"Begun {datetime.fromtimestamp(moment, timezone.utc):%Y-%m-%d %H:%M} UTC."
    told = [str(item) for item in scaled] if isinstance(scaled, list) else []
    return Rehearsal(lines, str(tree.get("recipe", "?")), str(tree.get("processes", "?")), told, when)


def _line(item: Mapping[str, Any]) -> StageLine:
    about = "; ".join(str(item[key]) for key in ("ran", "shown", "reason") if item.get(key))
    seconds = item.get("seconds")
    took = f"{seconds:.1f}" if isinstance(seconds, int | float) else ""
    return StageLine(str(item.get("name", "?")), about, str(item.get("verdict", "?")), took)
