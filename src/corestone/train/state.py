"""What a run must remember beside its weights: a few numbers, since batches and dropout follow from the step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from corestone.core.errors import CheckpointError


@dataclass
class State:
    """Progress of a run.

    Attributes:
        step: optimiser steps done.
        recent_losses: nats per token of the last steps, for the watch on spikes.
        skipped: batches (from 0) that must make no update; batch b belongs to step b + 1 of the log.
        anomalies: how many were met.
        best: lowest held-out loss so far and the step it was measured at.
        held_out: newest held-out loss and its step.
        noise: running means of the gradient's signal and noise, where they are measured.
    """

    step: int = 0
    recent_losses: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    anomalies: int = 0
    best: float | None = None
    best_step: int | None = None
    held_out: float | None = None
    held_out_step: int | None = None
    noise: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(tree: Mapping[str, Any], where: str) -> State:
        """Raises CheckpointError where keys are missing or unknown."""
        try:
            return State(**tree)
        except TypeError as error:
            raise CheckpointError(f"{where}: not a training state of this version ({error})") from None
