"""Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models" (Chinchilla, arXiv 2203.15556), and the fit of
Besiroglu et al. 2024, "Chinchilla Scaling: A replication attempt" (arXiv 2404.10102), which corrects it.

Units: parameters (N), tokens (D), compute in FLOPs (`C = 6 N D`), losses in nats per token of MassiveText. The ranges
are those of the abstract of 2203.15556.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from corestone.plan.law import FLOPS_PER_PARAMETER_AND_TOKEN, Range, SaturatingLaw, Term

PARAMETERS = Range("parameters", 70e6, 16e9)
TOKENS = Range("tokens", 5e9, 500e9)
FLOPS = Range("FLOPs")


def _law(floor: float, size: tuple[float, float], data: tuple[float, float], source: str) -> SaturatingLaw:
    return SaturatingLaw(floor, (Term(PARAMETERS, *size), Term(TOKENS, *data)), source)


PRINTED = _law(1.69, (406.4, 0.34), (410.7, 0.28), "Hoffmann et al. 2022, eq. 10, as printed")
"""Approach 3 as printed. Its optimum at Gopher's compute (5.76e23 FLOPs) is 32e9 parameters, not the 67e9 to 70e9 of
approaches 1 and 2 and of Chinchilla itself: the constants are rounded, and the fit had not converged (Besiroglu et al.
2024). Plan with `BESIROGLU`."""

PRECISE = _law(
    math.exp(0.5267228),
    (math.exp(6.0073404), 0.33917),
    (math.exp(6.0179186), 0.28491),
    "Hoffmann et al. 2022, approach 3 with all digits",
)
"""The same fit with all the digits that are known: 40e9 parameters at Gopher's compute."""

BESIROGLU = _law(1.8172, (482.01, 0.3478), (2085.43, 0.3658), "Besiroglu et al. 2024, table 1")
"""The corrected fit, to 240 of the runs (5 outliers dropped)."""


@dataclass(frozen=True)
class Uncertain:
    """A constant of a fit: its value, standard error and, where it is printed, its interval."""

    value: float
    error: float
    interval: tuple[float, float] | None = None


BESIROGLU_ERRORS = {
    "floor": Uncertain(1.8172, 0.03, (1.769, 1.871)),
    "size_scale": Uncertain(482.01, 124.58, (285, 744)),
    "data_scale": Uncertain(2085.43, 1293.23, (1042, 5810)),
    "size_exponent": Uncertain(0.3478, 0.02, (0.317, 0.373)),
    "data_exponent": Uncertain(0.3658, 0.02, (0.331, 0.415)),
    "compute_exponent": Uncertain(0.513, 0.02),
}
"""Standard errors of `BESIROGLU` (4,000 resamples), and of a in `N_opt ~ C^a`.

They give no interval of a predicted loss: the errors of a scale and its exponent largely cancel, and the covariances
that say how far are not printed. A fit to own runs has such an interval (`corestone.plan.bootstrap`)."""


@dataclass(frozen=True)
class Approach:
    """One of the paper's ways to the best size: `N_opt = parameters (C / flops)^exponent`.

    Attributes:
        exponent, data_exponent: of N_opt and of D_opt (table 2).
        interval, data_interval: their 10th and 90th percentiles as printed. Those of approach 3, and of approach 1's
            tokens, do not contain the rounded estimate beside them.
        parameters, flops: a point on the line. The paper prints the exponents but no factor; these are the row of 67e9
            parameters of its tables 3 and A3.
    """

    name: str
    exponent: float
    interval: tuple[float, float]
    data_exponent: float
    data_interval: tuple[float, float]
    parameters: float
    flops: float

    def optimum(self, flops: float) -> tuple[float, float]:
        """Best parameters and tokens at a compute. Warns OutsideRange; raises SpecError where it is not positive."""
        source = f"Hoffmann et al. 2022, {self.name}"
        work = FLOPS.check(flops, source)
        parameters = PARAMETERS.check(self.parameters * (work / self.flops) ** self.exponent, source)
        return parameters, TOKENS.check(work / (FLOPS_PER_PARAMETER_AND_TOKEN * parameters), source)


ENVELOPE = Approach("approach 1 (envelope of curves)", 0.50, (0.488, 0.502), 0.50, (0.501, 0.512), 67e9, 5.76e23)
ISOFLOP = Approach("approach 2 (IsoFLOP)", 0.49, (0.462, 0.534), 0.51, (0.483, 0.529), 67e9, 6.88e23)
PARAMETRIC = Approach("approach 3 (parametric)", 0.46, (0.454, 0.455), 0.54, (0.542, 0.543), 67e9, 1.71e24)
