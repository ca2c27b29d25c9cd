"""Scaling laws without a form for the loss: valleys of runs with one compute, and the envelope of all runs.

Hoffmann et al. 2022: approach 2 (section 3.2) fits a parabola in log parameters to the losses of each compute, and a
power law to the bottoms; approach 1 (section 3.1) takes for each compute the run with the smallest loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from corestone.core.errors import DataError
from corestone.plan.bootstrap import RESAMPLES, interval
from corestone.plan.fit import Fit, fit
from corestone.plan.rows import DISTINCT, SAME_COMPUTE, Row

POOL = 8
"""Residuals under which no interval is given."""

FARTHEST = 3
"""Times beyond the smallest or largest size that a bottom may lie: a parabola knows nothing of what is farther."""


@dataclass(frozen=True)
class Valley:
    """The runs of one compute, and the parabola through their losses.

    Attributes:
        flops: geometric mean of their compute.
        rows: the runs.
        parabola: of loss over ln(parameters / middle): quadratic, linear and constant coefficient.
        middle: geometric mean of their parameters.
        parameters, tokens, loss: at the bottom. Tokens are compute over parameters and the runs' own median FLOPs per
            parameter and token.
        edge: whether the bottom lies outside of the sizes that were run, so that it is extrapolated.
    """

    flops: float
    rows: tuple[Row, ...]
    parabola: tuple[float, float, float]
    middle: float
    parameters: float
    tokens: float
    loss: float
    edge: bool


@dataclass(frozen=True)
class Skipped:
    """A compute without a valley, and why."""

    flops: float
    count: int
    reason: str


@dataclass(frozen=True)
class Line:
    """`scale C^exponent`.

    Attributes:
        interval: of the exponent, 95 %; None where too few runs can be resampled.
    """

    scale: float
    exponent: float
    interval: tuple[float, float] | None

    def at(self, flops: float) -> float:
        """Value at a compute."""
        return float(self.scale * flops**self.exponent)


@dataclass(frozen=True)
class IsoFlop:
    """Valleys, computes that have none, and how the best size and tokens grow with compute (None: fewer than two
    valleys)."""

    valleys: tuple[Valley, ...]
    skipped: tuple[Skipped, ...]
    parameters: Line | None
    tokens: Line | None


def isoflop(rows: Sequence[Row], seed: int, resamples: int = RESAMPLES) -> IsoFlop:
    """Find the valley of each compute.

    Args:
        rows: usable ones.
        seed, resamples: of the exponents' intervals. For these each parabola is fitted anew with noise drawn from the
            residuals of all of them, in proportion to the loss: a compute has too few runs to resample these.

    Raises:
        DataError: no compute has a valley.
    """
    groups = by_compute(rows)
    valleys, skipped = [], []
    for group in groups:
        found = valley(group)
        if isinstance(found, Valley):
            valleys.append(found)
        else:
            skipped.append(Skipped(_mean([row.compute for row in group]), len(group), found))
    if not valleys:
        reasons = [one.reason for one in skipped]
        told = "; ".join(f"{reasons.count(reason)} of them: {reason}" for reason in dict.fromkeys(reasons))
        raise DataError(
            f"IsoFLOP: none of {len(groups)} computes has a valley ({told}); run several sizes at one compute"
        )
    if len({round(np.log(one.flops), 9) for one in valleys}) < 2:
        return IsoFlop(tuple(valleys), tuple(skipped), None, None)
    drawn = _resampled(valleys, seed, resamples)
    lines = [
        Line(*_line(valleys, name), interval([_line(one, name)[1] for one in drawn]))
        for name in ("parameters", "tokens")
    ]
    return IsoFlop(tuple(valleys), tuple(skipped), *lines)


def by_compute(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows in groups of one compute, ascending."""
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row.compute):
        if groups and row.compute < SAME_COMPUTE * groups[-1][0].compute:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def valley(rows: Sequence[Row]) -> Valley | str:
    """The valley of runs of one compute, or why they have none."""
    logs = np.log([row.parameters for row in rows])
    if len(np.unique(logs)) < DISTINCT:
        return f"fewer than {DISTINCT} sizes"
    middle = logs.mean()
    parabola = np.polyfit(logs - middle, [row.loss for row in rows], 2)
    if parabola[0] <= 0:
        return "the losses have no bottom over the sizes"
    bottom = -parabola[1] / (2 * parabola[0])
    if not logs.min() - np.log(FARTHEST) <= middle + bottom <= logs.max() + np.log(FARTHEST):
        return f"the bottom lies more than {FARTHEST} times beyond the sizes"
    parameters, flops = float(np.exp(middle + bottom)), _mean([row.compute for row in rows])
    per = float(np.median([row.compute / (row.parameters * row.tokens) for row in rows]))
    return Valley(
        flops=flops,
        rows=tuple(rows),
        parabola=(float(parabola[0]), float(parabola[1]), float(parabola[2])),
        middle=float(np.exp(middle)),
        parameters=parameters,
        tokens=flops / (per * parameters),
        loss=float(np.polyval(parabola, bottom)),
        edge=not logs.min() <= middle + bottom <= logs.max(),
    )


def _resampled(valleys: Sequence[Valley], seed: int, resamples: int) -> list[list[Valley]]:
    """The valleys with other noise. None where there are too few residuals, or a tenth of the draws lose a valley."""
    fitted = [np.polyval(one.parabola, np.log([row.parameters / one.middle for row in one.rows])) for one in valleys]
    pool = []
    for one, losses in zip(valleys, fitted, strict=True):
        if (n := len(one.rows)) > DISTINCT:  # three unknowns leave n - 3 residuals free
            pool += [(row.loss / loss - 1) * (n / (n - 3)) ** 0.5 for row, loss in zip(one.rows, losses, strict=True)]
    if len(pool) < POOL:
        return []
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        draws = []
        for one, losses in zip(valleys, fitted, strict=True):
            noisy = losses * (1 + generator.choice(pool, size=len(losses)))
            draws.append(valley([replace(r, loss=float(loss)) for r, loss in zip(one.rows, noisy, strict=True)]))
        whole = [one for one in draws if isinstance(one, Valley)]
        if len(whole) == len(valleys):
            drawn.append(whole)
    return drawn if len(drawn) >= 0.9 * resamples else []


def _line(valleys: Sequence[Valley], name: str) -> tuple[float, float]:
    """Scale and exponent of the bottoms' parameters or tokens over compute."""
    values = [one.parameters if name == "parameters" else one.tokens for one in valleys]
    return power_line([one.flops for one in valleys], values)


def power_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Scale and exponent of the straight line through logarithms."""
    exponent, constant = np.polyfit(np.log(x), np.log(y), 1)
    return float(np.exp(constant)), float(exponent)


def _mean(values: Sequence[float]) -> float:
    return float(np.exp(np.log(np.array(values, dtype=np.float64)).mean()))


@dataclass(frozen=True)
class Envelope:
    """The runs than which none that cost less or the same is better, and what goes through them.

    Attributes:
        rows: ascending in compute, falling in loss.
        fit: loss over compute.
        parameters: how their size grows with compute. The noise of single runs goes into it in full: an IsoFLOP valley
            is the better estimate where there is one.
    """

    rows: tuple[Row, ...]
    fit: Fit
    parameters: Line


def frontier(rows: Iterable[Row]) -> list[Row]:
    """The runs than which none that cost less or the same is better."""
    best = float("inf")
    found = []
    for row in sorted(rows, key=lambda row: (row.compute, row.loss)):
        if row.loss < best:
            best = row.loss
            found.append(row)
    return found


def envelope(rows: Sequence[Row]) -> Envelope:
    """Fit the loss over compute along the frontier.

    Raises:
        DataError: it has too few runs.
    """
    best = frontier(rows)
    try:
        found = fit(best, ["flops"])
    except DataError as error:
        raise DataError(f"envelope: {len(best)} of {len(rows)} runs are on the frontier; {error}") from None
    scale, exponent = power_line([row.compute for row in best], [row.parameters for row in best])
    return Envelope(tuple(best), found, Line(scale, exponent, None))
