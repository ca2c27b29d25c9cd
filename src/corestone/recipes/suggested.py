"""Where a recipe meets the rules of others: what they suggest for its settings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from corestone.core.errors import CheckpointError, SpecError
from corestone.core.runlog import number, read_events
from corestone.core.spec import plain
from corestone.core.units import Duration
from corestone.optim.spec import ExponentialRise, WarmupStableDecay
from corestone.plan.prediction import Subject
from corestone.plan.suggestions import Measured, Settings, off_the_rules, suggest
from corestone.recipes.made_up import in_steps, step_size
from corestone.recipes.mup import smallest_width
from corestone.recipes.spec import Run
from corestone.train.noise import SCALE


def with_suggestions(
    plan: dict[str, Any], run: Run, subject: Subject, measured: Measured | None = None
) -> dict[str, Any]:
    """The plan, with what rules say of the recipe's settings, and warnings where a rate is far off them."""
    schedule = run.schedule
    rows, units = step_size(run)

    def steps(length: Duration) -> int | None:
        unknown = length.unit == "epochs" and subject.available is None
        return None if unknown else in_steps(length, rows, units, subject.available)

    settings = Settings(
        model=str(plain(run.model)["kind"]),
        objective=str(plain(run.objective)["kind"]),
        schedule=schedule,
        warmup_steps=0 if isinstance(schedule, ExponentialRise) else steps(schedule.warmup),
        decay_steps=steps(schedule.decay) if isinstance(schedule, WarmupStableDecay) else None,
        by_chance=run.start is None,
        widens=_widens(run),
        measured=measured,
    )
    suggestions = suggest(subject, settings, plan["loss"])
    return plan | {"suggestions": suggestions, "warnings": plan["warnings"] + off_the_rules(suggestions)}


def _widens(run: Run) -> bool:
    """Whether `mup` knows the model."""
    try:
        smallest_width(run)
    except SpecError:
        return False
    return True


def noise_scale(folder: Path, unit: str) -> Measured:
    """The last noise scale that a run measured. One that is not above 0, as an estimate of few steps may be, is none.

    Raises CheckpointError where it measured none, or counts in another unit.
    """
    found = [
        (event["step"], value, unit in event)
        for event in read_events(folder).of("train")
        if (value := number(event, SCALE)) is not None and math.isfinite(value) and value > 0
    ]
    if not found:
        raise CheckpointError(
            f"--noise-from {folder}: its log has no noise scale above 0; train it with 'training.noise_scale={{}}' and "
            "a training.micro_batch below its batch"
        )
    step, value, same = found[-1]
    if not same:
        raise CheckpointError(f"--noise-from {folder}: does not count in {unit}, as this recipe does; name another run")
    return Measured(folder.resolve().name, step, unit, value)
