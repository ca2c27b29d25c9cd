"""The gradient's noise scale, from gradients of two batch sizes (McCandlish et al. 2018, appendix A.1).

The expected squared norm of a mean gradient over b targets is |G|^2 + tr(Sigma) / b, with G the true gradient and Sigma
the covariance of one target's. Two sizes, here a rank's first micro-batch and the whole step, give both unknowns.
B_simple = tr(Sigma) / |G|^2 is the batch at which noise and signal are equal, near the critical batch size.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

import torch
from torch import Tensor

from corestone.core.errors import SpecError

SIGNAL, NOISE, SCALE = "gradient_signal", "gradient_noise", "noise_scale"
"""|G|^2; tr(Sigma) of one target; B_simple of the running means, in the unit that the run counts in."""

_SQUARE, _INVERSE, _PARTS = "_part_square", "_part_inverse", "_parts"


def check_measurable(reduction: str, rank_rows: int, micro_batch: int | None, ranks: int) -> None:
    """Raise SpecError where a step has one gradient alone, or an objective whose losses do not add up."""
    if reduction != "additive":
        raise SpecError(
            "training.noise_scale: this objective's loss is one of all rows together, so parts of a step have no "
            "gradient of their own; leave noise_scale out"
        )
    if ranks == 1 and (micro_batch is None or micro_batch >= rank_rows):
        raise SpecError(
            f"training.noise_scale: a step is one micro-batch of {rank_rows} rows, and two batch sizes are needed; "
            f"set training.micro_batch to less than {rank_rows}"
        )


def part_sums(gradients: Sequence[Tensor], weight: Tensor) -> dict[str, Tensor]:
    """What a rank knows after its first micro-batch, to be added up over ranks: the squared norm of its mean gradient,
    the inverse of its number of targets, and 1; zeros where it had no target."""
    targets = weight.detach().double()
    if targets == 0:
        return {name: torch.zeros_like(targets) for name in (_SQUARE, _INVERSE, _PARTS)}
    square = torch.nn.utils.get_total_norm(gradients).double() ** 2 / targets**2
    return {_SQUARE: square, _INVERSE: 1 / targets, _PARTS: torch.ones_like(targets)}


def take_estimates(sums: MutableMapping[str, Tensor], whole_norm: float, targets: float) -> dict[str, float]:
    """Take the parts' sums out and give unbiased estimates of |G|^2 and tr(Sigma) by one step; none where the parts
    are no smaller than the whole.

    Args:
        whole_norm: of the step's mean gradient over `targets` targets.
    """
    if _PARTS not in sums:
        return {}
    square, inverse, parts = (float(sums.pop(name)) for name in (_SQUARE, _INVERSE, _PARTS))
    if parts == 0 or inverse / parts <= 1 / targets:
        return {}
    noise = (square / parts - whole_norm**2) / (inverse / parts - 1 / targets)
    return {SIGNAL: whole_norm**2 - noise / targets, NOISE: noise}


def averaged(means: Sequence[float], estimates: MutableMapping[str, float], decay: float, units: float) -> list[float]:
    """The running means of |G|^2 and tr(Sigma) after a step, in which B_simple joins the estimates.

    Each is noisy and their ratio biased, so they are averaged before they are divided. Both begin at zero, and what
    that takes from them cancels.

    Args:
        means: before the step; empty at first.
        units: tokens or pictures per target, for B_simple. It is nan while the mean signal is not positive.
    """
    if NOISE not in estimates:
        return list(means)
    before = means or (0.0, 0.0)
    fresh = (estimates[SIGNAL], estimates[NOISE])
    signal, noise = (decay * old + (1 - decay) * new for old, new in zip(before, fresh, strict=True))
    estimates[SCALE] = units * noise / signal if signal > 0 else float("nan")
    return [signal, noise]
