"""Fit a saturating law to rows: a floor, and one power law per variable.

As Hoffmann et al. 2022 (section 3.3) do it: the Huber loss of the difference of log losses, with the law's logarithm as
a log-sum-exp of the logarithms of its parts, minimised by L-BFGS from a grid of starts. Here variables are centred
first, so that a scale and its exponent do not move together, and the loss is divided by its delta, so that L-BFGS does
not take it for converged too early (as the published fit was: Besiroglu et al. 2024). The grid is screened by its loss,
and the best starts are descended from with exact gradients.

The outlier rule: a row whose log residual is farther from the median than 5 robust standard deviations (1.4826 times
the median absolute deviation) and than 1 % is dropped, and the rest is fitted anew, until no row is. None is dropped
where fewer than twice as many rows as the law has constants would be left: so few are met closely by some law in any
case, and the row that is off may be the one that tells most. Nor is any where more than a tenth of all would be: then
it is the rows that scatter, or the law that does not hold, and the longest runs would go first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from corestone.core.errors import DataError
from corestone.plan.law import Range, SaturatingLaw, Term
from corestone.plan.rows import DISTINCT, NO_BETTER, Dropped, Row

Array = NDArray[np.float64]

DELTA = 1e-3
"""Log residual up to which the Huber loss is a square; beyond it is linear."""

DEVIATIONS, LEAST_OUTLIER = 5.0, 0.01
"""The outlier rule, in robust standard deviations and as a log residual."""

FEWEST_PER_CONSTANT = 2
"""Rows per constant of the law under which no outlier is told."""

MOST_OUTLIERS = 0.1
"""Share of all rows above which none is an outlier."""

DESCENTS = 24
"""Starts that are descended from: those of the grid with the smallest loss."""

EXPONENTS = (0.01, 3.0)
"""Smallest and largest exponent; a fit that ends there says so."""

BENT, LEAST_BEND = 3.0, 1e-3
"""From where losses bend downwards, which no floor and power law does: in standard errors, and as a log residual."""


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
        variables: what its terms are over, in their order: `parameters`, `tokens` or `flops`.
        law: the ranges of its terms are those of the rows.
        rows, dropped: what it was fitted to, and outliers with their residual.
        descents, agreeing: descents that were made, and those that ended within a thousandth of the best one's loss.
        error, worst: median and largest absolute difference of loss between law and rows, as a fraction of the law's.
        notes: what is not determined by the rows, in words.
    """

    variables: tuple[str, ...]
    law: SaturatingLaw
    rows: tuple[Row, ...]
    dropped: tuple[Dropped, ...]
    descents: int
    agreeing: int
    error: float
    worst: float
    notes: tuple[str, ...] = ()


def fit(rows: Sequence[Row], variables: Sequence[str]) -> Fit:
    """Fit `floor + sum of scale / x^exponent` to the losses of rows.

    Args:
        rows: usable ones (`corestone.plan.rows.usable`).
        variables: `parameters`, `tokens` or `flops`, one term each.

    Raises:
        DataError: too few rows, too few different values of a variable, variables that move together, or numbers that
            are not finite and positive.
    """
    left, dropped = list(rows), list[Dropped]()
    fewest = max(FEWEST_PER_CONSTANT * (1 + 2 * len(variables)), (1 - MOST_OUTLIERS) * len(rows))
    while True:
        check(left, variables)
        problem = Problem.of(left, variables)
        found, descents, agreeing = _best(problem)
        residuals = problem.log_losses - problem.predict(found)
        middle = np.median(residuals)
        spread = 1.4826 * np.median(np.abs(residuals - middle))
        bad = np.abs(residuals - middle) > max(DEVIATIONS * spread, LEAST_OUTLIER)
        if not bad.any() or len(left) - bad.sum() < fewest:
            break
        gone = [(row, residual) for row, residual, out in zip(left, residuals, bad, strict=True) if out]
        dropped += [Dropped(row, "outlier", f"loss {np.expm1(residual):+.1%} off the fit") for row, residual in gone]
        left = [row for row, out in zip(left, bad, strict=True) if not out]
    off = np.abs(np.expm1(residuals))
    return Fit(
        variables=tuple(variables),
        law=problem.law(found),
        rows=tuple(left),
        dropped=tuple(dropped),
        descents=descents,
        agreeing=agreeing,
        error=float(np.median(off)),
        worst=float(off.max()),
        notes=(*problem.undetermined(found), *unlearnt(left)),
    )


def unlearnt(rows: Sequence[Row]) -> list[str]:
    """How many rows of a law had learnt nothing but frequencies, in words."""
    count = sum(row.guesses for row in rows)
    if not count:
        return []
    return [f"{count} of {len(rows)} rows are {NO_BETTER}: larger runs may follow another law; give runs more steps"]


def check(rows: Sequence[Row], variables: Sequence[str]) -> None:
    """Refuse rows that cannot determine a law of these variables, with a DataError."""
    what = f"a fit of loss over {' and '.join(variables)}"
    needed = 2 * len(variables) + 2
    if len(rows) < needed:
        raise DataError(f"{what} needs at least {needed} rows (got {len(rows)}); add runs")
    columns = {name: np.array([row.value(name) for row in rows]) for name in variables}
    for name, column in {**columns, "loss": np.array([row.loss for row in rows])}.items():
        place = next((i for i, value in enumerate(column) if not (np.isfinite(value) and value > 0)), None)
        if place is not None:
            raise DataError(f"{what}: {rows[place].label}: {name} is {column[place]:g}, not a positive number; drop it")
        distinct = len(np.unique(column))
        if name != "loss" and distinct < DISTINCT:
            raise DataError(f"{what} needs at least {DISTINCT} different {name} (got {distinct}); add runs")
    if len(variables) == 2:
        one, other = (np.log(column) for column in columns.values())
        if np.std(one - other * np.polyfit(other, one, 1)[0]) < 0.02:
            raise DataError(
                f"{what}: {variables[0]} and {variables[1]} grow together in all rows, so that their parts cannot be "
                f"told apart; add runs with other {variables[1]} at the same {variables[0]}"
            )


@dataclass(frozen=True)
class Problem:
    """What is minimised. A point is (log floor, log of each term at the middle of its variable, exponents).

    Attributes:
        logs_NK: logarithms of the K variables of N rows, less their middle.
        middle_K: those middles.
        log_losses: of the rows.
        ranges: of the variables.
    """

    logs_NK: Array
    middle_K: Array
    log_losses: Array
    ranges: tuple[Range, ...]

    @staticmethod
    def of(rows: Sequence[Row], variables: Sequence[str]) -> Problem:
        """The problem of fitting rows."""
        values_NK = np.array([[row.value(name) for name in variables] for row in rows])
        middle_K = np.log(values_NK).mean(axis=0)
        ranges = zip(variables, values_NK.min(axis=0), values_NK.max(axis=0), strict=True)
        log_losses = np.log([row.loss for row in rows])
        return Problem(
            np.log(values_NK) - middle_K,
            middle_K,
            log_losses,
            tuple(Range(name, float(low), float(high)) for name, low, high in ranges),
        )

    def parts(self, point: Array) -> Array:
        """Logarithms of floor and terms of each row, as N x (1 + K)."""
        k = self.logs_NK.shape[1]
        parts = np.full((len(self.logs_NK), 1 + k), point[0])
        parts[:, 1:] = point[1 : 1 + k] - point[1 + k :] * self.logs_NK
        return parts

    def predict(self, point: Array) -> Array:
        """Logarithms of the law's losses."""
        return np.asarray(np.logaddexp.reduce(self.parts(point), axis=1))

    def loss(self, point: Array) -> tuple[float, Array]:
        """Mean Huber loss over DELTA, and its gradient."""
        parts = self.parts(point)
        total = np.logaddexp.reduce(parts, axis=1)
        residuals = total - self.log_losses
        size = np.abs(residuals)
        value = np.where(size <= DELTA, residuals**2 / (2 * DELTA), size - DELTA / 2).mean()
        slope = np.clip(residuals / DELTA, -1, 1) / len(residuals)
        shares = np.exp(parts - total[:, None]) * slope[:, None]
        return float(value), np.concatenate([shares.sum(axis=0), -(shares[:, 1:] * self.logs_NK).sum(axis=0)])

    def bounds(self) -> list[tuple[float, float]]:
        """Of each number of a point."""
        low, high = self.log_losses.min(), self.log_losses.max()
        k = self.logs_NK.shape[1]
        return [(low - 7.0, high), *[(low - 12.0, high + 3.0)] * k, *[EXPONENTS] * k]

    def starts(self) -> list[Array]:
        """The grid: floors of 30 to 95 % of the smallest loss, terms of 5 to 100 % of it in the middle."""
        k, low = self.logs_NK.shape[1], self.log_losses.min()
        floors = low + np.log([0.3, 0.6, 0.85, 0.95])
        terms = itertools.product(low + np.log([0.05, 0.3, 1.0]), repeat=k)
        exponents = itertools.product((0.1, 0.3, 0.5, 1.0), repeat=k)
        return [np.array([one, *two, *three]) for one, two, three in itertools.product(floors, [*terms], [*exponents])]

    def descend(self, start: Array) -> tuple[float, Array]:
        """The loss and the point where L-BFGS ends."""
        found = minimize(
            self.loss,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=self.bounds(),
            options={"maxiter": 2000, "maxfun": 4000, "maxcor": 30, "ftol": 1e-12, "gtol": 1e-9},
        )
        return float(found.fun), found.x

    def point(self, law: SaturatingLaw) -> Array:
        """Where a law stands, within the bounds."""
        exponents = np.array([term.exponent for term in law.terms])
        terms = np.log([term.scale for term in law.terms]) - exponents * self.middle_K
        low, high = np.array(self.bounds()).T
        return np.asarray(np.clip(np.concatenate([[np.log(law.floor)], terms, exponents]), low, high))

    def law(self, point: Array) -> SaturatingLaw:
        """The law at a point."""
        k = self.logs_NK.shape[1]
        exponents = point[1 + k :]
        scales = np.exp(point[1 : 1 + k] + exponents * self.middle_K)
        terms = zip(self.ranges, scales, exponents, strict=True)
        return SaturatingLaw(
            float(np.exp(point[0])),
            tuple(Term(over, float(scale), float(exponent)) for over, scale, exponent in terms),
            f"fit to {len(self.log_losses)} rows",
        )

    def steepens(self) -> bool:
        """Whether log losses bend downwards over the first variable: a parabola's curvature by least squares, by more
        than `BENT` standard errors and `LEAST_BEND` at its ends; never of fewer than five rows."""
        if len(self.log_losses) < 5:
            return False
        powers = self.logs_NK[:, :1] ** np.arange(3)
        found, *_ = np.linalg.lstsq(powers, self.log_losses, rcond=None)
        off = self.log_losses - powers @ found
        error = np.sqrt(off @ off / (len(off) - 3) * np.linalg.inv(powers.T @ powers)[2, 2])
        ends = found[2] * (np.ptp(self.logs_NK[:, 0]) / 2) ** 2
        return bool(found[2] < -BENT * error and ends < -LEAST_BEND)

    def undetermined(self, point: Array) -> list[str]:
        """Which parts ended at a bound, and losses that bend as no law does, in words."""
        k, notes = self.logs_NK.shape[1], []
        if k == 1 and self.steepens():
            notes.append(
                "losses fall faster and faster, which no law of this form does: what it predicts is likely too high"
            )
        if point[0] < self.log_losses.min() - 5:
            notes.append("the rows show no floor: losses keep falling as a power law; an extrapolation has none either")
        for over, part, exponent in zip(self.ranges, point[1 : 1 + k], point[1 + k :], strict=True):
            if part < self.log_losses.min() - 7 or not EXPONENTS[0] * 1.01 < exponent < EXPONENTS[1] * 0.99:
                notes.append(f"the rows do not show how the loss depends on {over.name}")
        return notes


def _best(problem: Problem) -> tuple[Array, int, int]:
    """The best descent, how many were made, and how many ended at about the same loss."""
    starts = sorted(problem.starts(), key=lambda start: problem.loss(start)[0])[:DESCENTS]
    ends = [problem.descend(start) for start in starts]
    least, found = min(ends, key=lambda end: end[0])
    while True:  # the Huber loss bends sharply at DELTA, where a descent may stop early and a fresh one goes on
        value, point = problem.descend(found)
        if value >= least * (1 - 1e-9):
            return found, len(ends), sum(value <= least * 1.001 + 1e-9 for value, _ in ends)
        least, found = value, point
