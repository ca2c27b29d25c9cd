"""What runs of this machine taught about plans: a small file of factors, measured over predicted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from corestone.core.errors import CheckpointError
from corestone.data.cache import cache_dir

FILE = "plan-calibration.json"

EVERY = "any"
"""The key of factors over all kinds of models, for kinds that no run was of."""


@dataclass(frozen=True)
class Measured:
    """A run's kind of model, and what was predicted and measured, by name: peak_bytes, training_seconds."""

    run: str
    kind: str
    predicted: Mapping[str, float]
    measured: Mapping[str, float]


def calibrate(runs: Sequence[Measured], machine: str) -> Path:
    """Write the factors of these runs, by kind of model and over all; earlier ones of this machine are replaced.

    A factor is the median of its runs: of `memory`, measured peak over predicted; of `utilisation`, the share of the
    peak that was reached over what was predicted.
    """
    if not runs:
        raise CheckpointError("plan calibrate: none of the runs has both a plan.json and measurements; train one first")
    groups: dict[str, list[Measured]] = {EVERY: list(runs)}
    for one in runs:
        groups.setdefault(one.kind, []).append(one)
    found = {kind: _factors(group) for kind, group in groups.items()}
    path = cache_dir() / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in _read(path).items() if name != machine}
    path.write_text(json.dumps({**kept, machine: found}, indent=1) + "\n", encoding="utf-8")
    return path


def _factors(runs: Sequence[Measured]) -> dict[str, float]:
    memory = [one.measured["peak_bytes"] / one.predicted["peak_bytes"] for one in runs]
    speed = [one.predicted["training_seconds"] / one.measured["training_seconds"] for one in runs]
    return {"memory": median(memory), "utilisation": median(speed), "runs": len(runs)}


def factors(machine: str, kind: str) -> tuple[dict[str, float], str]:
    """The factors for a kind of model on a machine, and where they are from in words; empty where there are none."""
    known = _read(cache_dir() / FILE).get(machine, {})
    chosen = known.get(kind) or known.get(EVERY)
    if not chosen:
        return {}, ""
    of = f"of kind {kind}" if kind in known else "of other kinds"
    return {"memory": chosen["memory"], "utilisation": chosen["utilisation"]}, (
        f"{chosen['runs']:.0f} run(s) {of} on this machine ({cache_dir() / FILE})"
    )


def _read(path: Path) -> dict[str, Any]:
    """The file; {} where there is none that can be read."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}
