"""What a scaling law is: a loss as a sum of power laws and a floor, each with the range in which it was measured.

Outside of that range a law still answers, and warns with `OutsideRange`: an extrapolation is what laws are for, but it
must be seen.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from corestone.core.errors import SpecError

FLOPS_PER_PARAMETER_AND_TOKEN = 6.0
"""Forward and backward of a dense model, attention excluded (Kaplan et al. 2020, section 2.1: C = 6 N B S)."""


class OutsideRange(UserWarning):
    """A law was asked about what was not measured when it was fitted."""


@dataclass(frozen=True)
class Range:
    """What a law takes, and where it was measured.

    Attributes:
        name: of the quantity (`parameters`, `tokens`, `PF-days`, ...), which is its unit too.
        low, high: smallest and largest value that was measured; 0 and inf where the source tells none.
    """

    name: str
    low: float = 0.0
    high: float = math.inf

    def check(self, value: float, source: str) -> float:
        """Give a value back as a number.

        Warns OutsideRange where it was not measured. Raises SpecError where it is not positive and finite.
        """
        if not (math.isfinite(value) and value > 0):
            raise SpecError(f"{source}: {self.name} must be a positive number (got {value}); give one above 0")
        if not self.low <= value <= self.high:
            warnings.warn(
                f"{source}: {value:.4g} {self.name} is outside of what was measured, {self.low:.4g} to {self.high:.4g}",
                OutsideRange,
                stacklevel=3,
            )
        return float(value)


@dataclass(frozen=True)
class PowerLaw:
    """`(scale / x)^exponent`, without a floor.

    Attributes:
        over: what x is, and where it was measured.
        scale: in the unit of x.
        source: paper and section.
    """

    over: Range
    scale: float
    exponent: float
    source: str

    def loss(self, x: float) -> float:
        """Loss in nats per token. Warns OutsideRange; raises SpecError where x is not positive."""
        return float((self.scale / self.over.check(x, self.source)) ** self.exponent)

    def needed(self, loss: float) -> float:
        """The x at which a loss (nats per token) is reached. Warns and raises as `loss`."""
        return self.over.check(self.scale / LOSS.check(loss, self.source) ** (1 / self.exponent), self.source)


LOSS = Range("nats per token")


@dataclass(frozen=True)
class Term:
    """`scale / x^exponent`: what a finite x adds to the loss."""

    over: Range
    scale: float
    exponent: float


@dataclass(frozen=True)
class SaturatingLaw:
    """`floor + sum of scale / x^exponent`, in the unit of the losses that it was fitted to.

    Attributes:
        floor: loss at infinite x.
        source: paper and table, or what it was fitted to.
    """

    floor: float
    terms: tuple[Term, ...]
    source: str

    def loss(self, *x: float) -> float:
        """Loss at one x per term, in their order. Warns OutsideRange; raises SpecError where one is not positive."""
        parts = zip(self.terms, x, strict=True)
        return float(self.floor + sum(t.scale / t.over.check(v, self.source) ** t.exponent for t, v in parts))


@dataclass(frozen=True)
class Optimum:
    """The best use of an amount of compute: parameters, tokens, and the loss that they reach."""

    parameters: float
    tokens: float
    loss: float


def compute_exponents(law: SaturatingLaw) -> tuple[float, float]:
    """a and b of `N_opt ~ C^a`, `D_opt ~ C^b` for a law of parameters and tokens (Hoffmann et al. 2022, eq. 4)."""
    size, data = law.terms
    total = size.exponent + data.exponent
    return data.exponent / total, size.exponent / total


def optimum(law: SaturatingLaw, flops: float, per: float = FLOPS_PER_PARAMETER_AND_TOKEN) -> Optimum:
    """Best parameters and tokens at a compute, in closed form (Hoffmann et al. 2022, eq. 4).

    Args:
        law: of parameters and tokens, in this order.
        flops: training compute.
        per: FLOPs per parameter and token.

    Warns OutsideRange; raises SpecError where the compute is not positive.
    """
    work = Range("FLOPs").check(flops, law.source) / per
    parameters = balance(law) * work ** compute_exponents(law)[0]
    return Optimum(parameters, work / parameters, law.loss(parameters, work / parameters))


def optimal_flops(law: SaturatingLaw, parameters: float, per: float = FLOPS_PER_PARAMETER_AND_TOKEN) -> float:
    """Compute in FLOPs at which a size is the best one: the inverse of `optimum`."""
    size = law.terms[0].over.check(parameters, law.source)
    return per * float((size / balance(law)) ** (1 / compute_exponents(law)[0]))


def balance(law: SaturatingLaw) -> float:
    """G of the closed form: `N_opt = G (C / 6)^a` (Hoffmann et al. 2022, eq. 4)."""
    size, data = law.terms
    ratio = size.exponent * size.scale / (data.exponent * data.scale)
    return float(ratio ** (1 / (size.exponent + data.exponent)))
