"""Runs as a scaling law sees them: one row each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from corestone.plan.law import FLOPS_PER_PARAMETER_AND_TOKEN

SAME_COMPUTE = 1.1
"""Runs are of one compute or size where one is less than this factor above the smallest among them."""

FEWEST = 8
"""Rows under which no interval is given: a percentile bootstrap over fewer is far too narrow."""

DISTINCT = 3
"""Different values that a variable needs: a power law with a floor has three unknowns."""

NO_BETTER = "no better than guessing by frequency"
"""Why a row is left out of the laws."""


@dataclass(frozen=True)
class Row:
    """A trained model.

    Attributes:
        parameters: of the model, counted alike in all rows.
        tokens: seen in training; pictures, where runs count those.
        loss: held-out, of any objective and unit, positive.
        flops: training compute; None stands for `6 parameters tokens`.
        step: optimiser steps made.
        name: what to call it.
        guess: what guessing by frequency reaches on the same held-out data; None where that is not known.
    """

    parameters: float
    tokens: float
    loss: float
    flops: float | None = None
    step: int | None = None
    name: str = ""
    guess: float | None = None

    @property
    def guesses(self) -> bool:
        """Whether it is known to be no better than guessing by frequency."""
        return self.guess is not None and self.loss >= self.guess

    @property
    def compute(self) -> float:
        """Training compute in FLOPs."""
        return FLOPS_PER_PARAMETER_AND_TOKEN * self.parameters * self.tokens if self.flops is None else self.flops

    @property
    def label(self) -> str:
        """Its name, else its size and tokens."""
        return self.name or f"{self.parameters:.4g} parameters, {self.tokens:.4g} tokens"

    def value(self, variable: str) -> float:
        """One of `parameters`, `tokens`, `flops`."""
        return {"parameters": self.parameters, "tokens": self.tokens, "flops": self.compute}[variable]


@dataclass(frozen=True)
class Dropped:
    """A row that was left out: the reason, which is counted, and what was found in this row."""

    row: Row
    reason: str
    found: str


def usable(rows: Iterable[Row]) -> tuple[list[Row], list[Dropped]]:
    """Part rows into those that a law can be fitted to and those that it cannot, each with its reason."""
    kept: list[Row] = []
    dropped: list[Dropped] = []
    for row in rows:
        problem = _problem(row)
        if problem is None:
            kept.append(row)
        else:
            dropped.append(Dropped(row, *problem))
    return kept, dropped


def learnt(rows: Sequence[Row]) -> tuple[list[Row], list[Dropped]]:
    """Part rows into those that are better than guessing by frequency and the others.

    A loss falls to what guessing reaches in another way than from there on, where it learns what stands beside what.
    All are kept where guessing is not known of each, and where without the others fewer than `FEWEST` different sizes
    and lengths would be left, or too few sizes for a law over parameters: runs that differ in their seed alone make an
    interval narrow and the law no surer.
    """
    better = [row for row in rows if not row.guesses]
    places = {(row.parameters, row.tokens) for row in better}
    sizes, all_sizes = ({row.parameters for row in some} for some in (better, rows))
    unknown = any(row.guess is None for row in rows)
    if unknown or len(places) < FEWEST or len(sizes) < min(DISTINCT, len(all_sizes)):
        return list(rows), []
    found = "loss {:.4g} where guessing has {:.4g}"
    return better, [Dropped(row, NO_BETTER, found.format(row.loss, row.guess)) for row in rows if row.guesses]


def _problem(row: Row) -> tuple[str, str] | None:
    for name, value in (("parameters", row.parameters), ("tokens", row.tokens), ("flops", row.compute)):
        if not (math.isfinite(value) and value > 0):
            return f"{name} are no positive number", f"{value:g}"
    if not math.isfinite(row.loss):
        return "loss is not finite (the run diverged)", f"{row.loss:g}"
    return None if row.loss > 0 else ("loss is not positive", f"{row.loss:g}")


def counted(dropped: Sequence[Dropped]) -> dict[str, int]:
    """How many rows were dropped, by reason."""
    reasons = [one.reason for one in dropped]
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
