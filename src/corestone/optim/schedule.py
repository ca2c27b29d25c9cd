"""Learning-rate schedules: pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable

from corestone.core.errors import SpecError
from corestone.core.units import Duration
from corestone.optim.spec import (
    Constant,
    Cosine,
    ExponentialRise,
    InverseSquareRoot,
    Linear,
    Schedule,
    WarmupStableDecay,
)

Warmed = Constant | Cosine | Linear | InverseSquareRoot | WarmupStableDecay


def build_schedule(spec: Schedule, total_steps: int, to_steps: Callable[[Duration], int]) -> Callable[[int], float]:
    """The factor on the learning rate at a step (0-based), between 0 and 1.

    Args:
        to_steps: converts durations to steps of this run.
    """
    if isinstance(spec, ExponentialRise):
        low, last = spec.initial, max(1, total_steps - 1)
        return lambda step: float(low ** max(0.0, 1 - step / last))
    warmup = to_steps(spec.warmup)
    if warmup > total_steps:
        raise SpecError(f"schedule.warmup: {spec.warmup} is {warmup} steps, longer than the run of {total_steps} steps")
    decay = _decay(spec, warmup, total_steps, to_steps)

    def factor(step: int) -> float:
        return (step + 1) / warmup if step < warmup else decay(step)

    return factor


def _decay(spec: Warmed, warmup: int, total: int, to_steps: Callable[[Duration], int]) -> Callable[[int], float]:
    """The factor behind the warm-up. The last step (total - 1) stands at `final`."""
    span = max(1, total - 1 - warmup)
    if isinstance(spec, Constant):
        return lambda step: 1.0
    if isinstance(spec, Cosine):
        final = spec.final
        if spec.until is not None:
            span = max(1, to_steps(spec.until) - 1 - warmup)
        return lambda step: final + (1 - final) * (1 + math.cos(math.pi * min(1.0, (step - warmup) / span))) / 2
    if isinstance(spec, Linear):
        end = spec.final
        return lambda step: 1 - (1 - end) * min(1.0, (step - warmup) / span)
    if isinstance(spec, InverseSquareRoot):
        flat = max(1, to_steps(spec.flat))
        return lambda step: math.sqrt(flat / max(flat, step + 1))
    length = to_steps(spec.decay)
    if warmup + length > total:
        raise SpecError(
            f"schedule.decay: warm-up ({warmup}) and decay ({length} steps) are longer than the run of {total} steps"
        )
    low = spec.final
    return lambda step: 1 - (1 - low) * min(1.0, max(0, step + 1 - (total - length)) / max(1, length))
