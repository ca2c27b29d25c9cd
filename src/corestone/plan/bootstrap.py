"""How far a fit can be trusted: intervals by resampling rows, and the error of its extrapolation to the largest runs.

An interval says how the law would move with other runs of the same kind. It does not know whether the law holds beyond
them; the extrapolation error is the figure that does: the largest runs are left out, the law is fitted to the rest, and
its predictions are compared with what these runs reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from corestone.core.errors import DataError
from corestone.plan.fit import Fit, Problem, check, fit
from corestone.plan.law import SaturatingLaw
from corestone.plan.rows import FEWEST, SAME_COMPUTE, Row

RESAMPLES = 400
LEVEL = 0.95
LARGEST = 0.1
"""Share of rows that are the largest runs; rows as large as the smallest of these are left out with them."""


@dataclass(frozen=True)
class Resampled:
    """The laws of resampled rows.

    Attributes:
        laws: one per resample that could be fitted.
        failed: resamples that could not, such as those that drew too few different sizes.
    """

    laws: tuple[SaturatingLaw, ...]
    failed: int

    def interval(self, value: Callable[[SaturatingLaw], float]) -> tuple[float, float] | None:
        """95 % percentile interval of something of a law; None where there are no laws."""
        return interval([value(law) for law in self.laws])


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The middle 95 % of resampled values; None of none."""
    if not values:
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def resample(found: Fit, seed: int, resamples: int = RESAMPLES) -> Resampled:
    """Fit the law anew to rows drawn with replacement from those of a fit, outliers having been dropped before.

    Each descends from the fit. Gives no laws where the fit has fewer than 8 rows.

    Args:
        seed: equal seeds give equal intervals.
    """
    if len(found.rows) < FEWEST:
        return Resampled((), 0)
    generator = np.random.default_rng(seed)
    laws, failed = [], 0
    for _ in range(resamples):
        rows = [found.rows[place] for place in generator.integers(len(found.rows), size=len(found.rows))]
        try:
            check(rows, found.variables)
        except DataError:
            failed += 1
            continue
        problem = Problem.of(rows, found.variables)
        laws.append(problem.law(problem.descend(problem.point(found.law))[1]))
    return Resampled(tuple(laws), failed)


@dataclass(frozen=True)
class Predicted:
    """A run that was left out, and its loss by the law of the others."""

    row: Row
    loss: float

    @property
    def error(self) -> float:
        """Predicted over measured loss, less 1."""
        return self.loss / self.row.loss - 1


@dataclass(frozen=True)
class Extrapolation:
    """How well the smaller runs told the largest ones.

    Attributes:
        by: what the runs were ordered by.
        factor: the largest run over the largest that was fitted.
        runs: those left out, none of them dropped as an outlier.
        law: of the others.
    """

    by: str
    factor: float
    runs: tuple[Predicted, ...]
    law: SaturatingLaw

    @property
    def error(self) -> float:
        """Mean absolute error of the runs, as a fraction of their loss."""
        return float(np.mean([abs(run.error) for run in self.runs]))

    @property
    def worst(self) -> float:
        """Largest absolute error."""
        return max(abs(run.error) for run in self.runs)

    @property
    def bias(self) -> float:
        """Mean error: above 0 where the law is too pessimistic."""
        return float(np.mean([run.error for run in self.runs]))


def leave_largest_out(rows: Sequence[Row], variables: Sequence[str]) -> Extrapolation:
    """Fit the rest of some rows, and predict the largest tenth: at least one, and all runs of one size (within 10 %).

    Rows are ordered by the variable of a law of one, by compute for a law of two.

    Args:
        rows: usable ones, outliers among them: which of the rest are left out is told by the rest alone.

    Raises:
        DataError: the rest cannot be fitted.
    """
    by, held, rest = largest_apart(rows, variables)
    try:
        law = fit(rest, variables).law
    except DataError as error:
        raise DataError(f"without the largest runs ({len(held)} of {len(rows)}): {error}") from None
    factor = float(max(row.value(by) for row in held) / max(row.value(by) for row in rest))
    return Extrapolation(by, factor, tuple(Predicted(row, predict(law, row, variables)) for row in held), law)


def largest_apart(rows: Sequence[Row], variables: Sequence[str]) -> tuple[str, list[Row], list[Row]]:
    """What rows are ordered by, the largest of them, and the rest."""
    by = variables[0] if len(variables) == 1 else "flops"
    sizes = sorted((row.value(by) for row in rows), reverse=True)
    least = sizes[math.ceil(LARGEST * len(sizes)) - 1] / SAME_COMPUTE if sizes else 0.0
    return by, [row for row in rows if row.value(by) > least], [row for row in rows if row.value(by) <= least]


def predict(law: SaturatingLaw, row: Row, variables: Sequence[str]) -> float:
    """The law's loss of a row. It warns of no range: to leave it is what it is asked for."""
    terms = zip(law.terms, variables, strict=True)
    return float(law.floor + sum(term.scale / row.value(name) ** term.exponent for term, name in terms))
