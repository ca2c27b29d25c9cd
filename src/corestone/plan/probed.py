"""What a few real steps of a run on this machine taught."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Probed:
    """Measured in a process of its own, so that its memory is the run's.

    Attributes:
        steps: that were timed, the first of the process left out.
        step_seconds: their median.
        peak_bytes: the most the process held, evaluation and a checkpoint among it.
        peak_flops: FLOP/s of this machine's matrix products in the run's format.
        startup_seconds: from the process's start to its first step.
        settle_seconds: before each evaluation, for averaged weights and their statistics.
        evaluated_row_seconds: of one row of an evaluation.
        checkpoint_seconds: to write one.
        sample_seconds: to continue the recipe's prompts once, or to caption as many pictures as a sample has.
        caption_seconds: to write one caption among as many as are scored at a time; 0 where the model writes none.
    """

    steps: int
    step_seconds: float
    peak_bytes: float
    peak_flops: float
    startup_seconds: float
    settle_seconds: float
    evaluated_row_seconds: float
    checkpoint_seconds: float
    sample_seconds: float
    caption_seconds: float
