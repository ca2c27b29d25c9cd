"""The certificate of a run's recipe: which promises were tried, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from corestone.report.folder import Run


@dataclass(frozen=True)
class CheckLine:
    """A check: its name, what was compared and noted, and its figures; empty where it has none."""

    name: str
    about: str
    verdict: str
    worst: str
    tolerance: str
    seconds: str


@dataclass(frozen=True)
class Certificate:
    """All checks, how the recipe was scaled for them, and when that was."""

    lines: Sequence[CheckLine]
    scaled: str
    when: str


def checks(run: Run) -> Certificate | None:
    """The section; None where the folder holds no certificate, or one without checks."""
    tree = run.certificate or {}
    listed = tree.get("checks")
    lines = [_line(item) for item in listed if isinstance(item, Mapping)] if isinstance(listed, list) else []
    if not lines:
        return None
    scaled, moment = tree.get("scaled"), tree.get("time")
    told = "; ".join(map(str, scaled)) if isinstance(scaled, list) else ""
    when = ""
    if isinstance(moment, int | float):
        when = f"Tried {datetime.fromtimestamp(moment, timezone.utc):%Y-%m-%d %H:%M} UTC."
    return Certificate(lines, told, when)


def _line(item: Mapping[str, Any]) -> CheckLine:
    about = "; ".join(str(item[key]) for key in ("compared", "note") if item.get(key))
    figures = (_figure(item.get(key)) for key in ("worst", "tolerance", "seconds"))
    return CheckLine(str(item.get("name", "?")), about, str(item.get("verdict", "?")), *figures)


def _figure(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "" if value is None else str(value)
