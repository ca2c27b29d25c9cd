"""Everything that rows tell about scaling, each part fitted where the rows allow it and explained where they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from threadpoolctl import threadpool_limits

from corestone.core.errors import DataError
from corestone.plan.bootstrap import RESAMPLES, Extrapolation, Resampled, leave_largest_out, resample
from corestone.plan.fit import Fit, fit
from corestone.plan.isoflop import Envelope, IsoFlop, envelope, isoflop
from corestone.plan.rows import Dropped, Row, learnt, usable

T = TypeVar("T")

LAWS = (("parameters", "tokens"), ("parameters",), ("tokens",), ("flops",))
"""Laws that are tried, by their variables; the first is that of a compute-optimal plan."""


@dataclass(frozen=True)
class Judged:
    """A fit with its resamples and its extrapolation error, or the reason why it has none."""

    fit: Fit
    resampled: Resampled
    extrapolation: Extrapolation | str

    @property
    def name(self) -> str:
        """Its variables."""
        return " and ".join(self.fit.variables)


@dataclass(frozen=True)
class Study:
    """What rows tell about scaling. A part that they do not allow is the reason, as text.

    Attributes:
        rows, dropped: those that laws were fitted to, and those that are left out.
        laws: by variables. Where the law of parameters and tokens can be fitted, those of one of them are not: they
            hold only along the path that the runs took.
    """

    rows: tuple[Row, ...]
    dropped: tuple[Dropped, ...]
    laws: dict[str, Judged | str]
    isoflop: IsoFlop | str
    envelope: Envelope | str

    @property
    def main(self) -> Judged | None:
        """The law with which to predict: the first that could be fitted."""
        return next((law for law in self.laws.values() if isinstance(law, Judged)), None)


def study(rows: Sequence[Row], seed: int, resamples: int = RESAMPLES) -> Study:
    """Fit all that rows allow.

    Args:
        seed, resamples: of the intervals.

    Raises:
        DataError: they allow nothing; the message says why for the law of compute.
    """
    with threadpool_limits(1, "blas"):  # its matrices have some ten rows, for which threads wait 16 times longer
        return _study(rows, seed, resamples)


def _study(rows: Sequence[Row], seed: int, resamples: int) -> Study:
    kept, dropped = usable(rows)
    better, guessing = learnt(kept)
    dropped += guessing
    laws: dict[str, Judged | str] = {}
    for variables in LAWS:
        one_of_two = len(variables) == 1 and variables[0] in LAWS[0]
        if not (one_of_two and isinstance(laws[" and ".join(LAWS[0])], Judged)):
            laws[" and ".join(variables)] = _judged(better, variables, seed, resamples)
    found = Study(
        tuple(better),
        tuple(dropped),
        laws,
        _or_reason(lambda: isoflop(kept, seed, resamples)),  # a valley's one side may be of runs that only guess
        _or_reason(lambda: envelope(better)),
    )
    if found.main is None and isinstance(found.isoflop, str):
        without = f" ({len(dropped)} more are left out)" if dropped else ""
        raise DataError(f"{len(better)} rows{without} allow no fit: {laws['flops']}")
    return found


def _judged(rows: Sequence[Row], variables: Sequence[str], seed: int, resamples: int) -> Judged | str:
    try:
        found = fit(rows, variables)
    except DataError as error:
        return str(error)
    return Judged(found, resample(found, seed, resamples), _or_reason(lambda: leave_largest_out(rows, variables)))


def _or_reason(make: Callable[[], T]) -> T | str:
    try:
        return make()
    except DataError as error:
        return str(error)
