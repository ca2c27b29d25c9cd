"""Runs of this machine teach its plans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corestone.core.environment import environment
from corestone.core.errors import CheckpointError
from corestone.plan.calibration import Measured
from corestone.plan.calibration import calibrate as write_calibration
from corestone.recipes.plan import machine_name
from corestone.report.figures import as_planned, memory, training_time
from corestone.report.folder import find, read_run


def calibrate(runs: Sequence[Path]) -> tuple[Path, list[str]]:
    """Turn what runs measured, beside what was predicted of them, into factors for later plans.

    Returns:
        The calibration file, and a line about each run.

    Raises:
        CheckpointError: a folder is no run, was not measured, has no plan, took more or fewer steps than planned, or
            is of another machine or an accelerator.
    """
    here, found = machine_name(environment()), [_measured(folder) for folder in runs]
    lines = [
        f"{one.run}: peak memory {one.measured['peak_bytes'] / one.predicted['peak_bytes'] - 1:+.1%}, training time "
        f"{one.measured['training_seconds'] / one.predicted['training_seconds'] - 1:+.1%} against the plan"
        for one in found
    ]
    return write_calibration(found, here), lines


def _measured(folder: Path) -> Measured:
    run = read_run(folder)
    peak, seconds = memory(run), training_time(run)
    if run.plan is None or not peak or not seconds:
        raise CheckpointError(f"{folder}: has no plan.json or no measured steps; calibrate by runs that have both")
    if not as_planned(run):
        raise CheckpointError(
            f"{folder}: took fewer or more steps than were planned; calibrate by runs that took these"
        )
    if "machine" not in run.environment or machine_name(run.environment) != machine_name(environment()):
        raise CheckpointError(f"{folder}: was not trained on this machine; calibrate by runs of this one")
    if (device := str(run.environment.get("device", "cpu"))) != "cpu":
        raise CheckpointError(f"{folder}: was trained on {device}; calibrate by runs on this machine's processor")
    earlier = run.plan["factors"]
    return Measured(
        run=run.name,
        kind=str(find((run.recipe or {}).get("model"), "kind")),
        predicted={
            "peak_bytes": run.plan["memory"]["peak_bytes"] / earlier.get("memory", 1.0),
            "training_seconds": run.plan["time"]["training_seconds"] * earlier.get("utilisation", 1.0),
        },
        measured={"peak_bytes": peak, "training_seconds": seconds},
    )
