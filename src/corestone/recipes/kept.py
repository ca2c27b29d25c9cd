"""What else a run was scored on is kept in its folder: one line of `evaluations.jsonl` per evaluation.

`evaluation.json` holds the run's own held-out text, as the end of the training scored it; this file holds what was
asked for later: tasks, other texts, dynamic evaluation.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from corestone.core.runlog import spelled
from corestone.recipes.load import is_run
from corestone.report.folder import EVALUATIONS
from corestone.train.archive import identity, locate

_log = logging.getLogger(__name__)

SAME = ("task", "variant", "data", "shots", "stride", "context", "dynamic", "precision", "weights")
"""Two evaluations that agree in these are one, and the newer one stays."""


def about_checkpoint(path: Path) -> dict[str, Any]:
    """What was scored: the checkpoint that a path means, the step it was written at and the hash of its weights."""
    checkpoint = locate(path)
    step, weights = identity(checkpoint)
    name = checkpoint.name if checkpoint == path else str(checkpoint.relative_to(path))
    return {"checkpoint": name, "step": step, "weights": weights}


def keep(path: Path, entries: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Add evaluations to a run's folder, each in place of an older one of the same; nothing where there is no run.

    Lines that cannot be read stay as they are; the report names them. Where the file cannot be written, this module's
    logger warns, and nothing else is lost.
    """
    if not is_run(path):
        return
    file = path / EVALUATIONS
    fresh = [{**spelled(entry), "time": round(time.time(), 3)} for entry in entries]
    new = {_same(entry) for entry in fresh}
    try:
        with (path / f".{EVALUATIONS}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several evaluations may end at once
            lines = file.read_bytes().splitlines() if file.exists() else []
            lines = [line for line in lines if line.strip() and _identity(line) not in new]
            lines += [json.dumps(entry, allow_nan=False).encode() for entry in fresh]
            partial = path / f".{EVALUATIONS}.partial"
            partial.write_bytes(b"".join(line + b"\n" for line in lines))
            os.replace(partial, file)
    except OSError as error:
        _log.warning(f"{file}: cannot be written ({error.strerror}), so the report will not show this evaluation")
        return
    console.print(f"kept       {file}; corestone report {path} shows it", highlight=False, markup=False, soft_wrap=True)


def _same(entry: Mapping[str, Any]) -> str:
    return json.dumps([entry.get(name) for name in SAME], sort_keys=True)


def _identity(line: bytes) -> str | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return _same(entry) if isinstance(entry, dict) else None
