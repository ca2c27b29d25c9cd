"""Adafactor (Shazeer and Stern 2018, algorithms 4 and 5), also as PaLM and CoCa have it.

torch.optim.Adafactor has neither momentum, nor second moments of every weight, nor a constant beta2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from corestone.optim.base import LightOptimizer

EPS_SQUARE, EPS_SCALE = 1e-30, 1e-3
"""Added to squared gradients; least root mean square that a parameter counts as having (section 6)."""

LARGEST_UPDATE = 1.0
"""An update's root mean square is cut to this before it is scaled (section 5)."""


def root_mean_square(tensor: Tensor) -> Tensor:
    """A scalar tensor."""
    return tensor.square().mean().sqrt()


class AdafactorOptimiser(LightOptimizer):
    """Steps of the size `lr` relative to the root mean square of the parameter.

    Args:
        groups: parameter groups, each with its decoupled `weight_decay`.
        lr: relative step size.
        beta1: decay of the mean of updates; None: the update itself.
        beta2: decay of the means of squared gradients; None: 1 - t^-0.8 at step t.
        factored: second moments of parameters with two axes or more are kept as means over rows and over columns.
        squared_decay: a step shrinks the parameter by lr squared too (Chowdhery et al. 2022, section 5).
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        beta1: float | None,
        beta2: float | None,
        factored: bool,
        squared_decay: bool,
    ) -> None:
        settings = {"beta1": beta1, "beta2": beta2, "factored": factored, "squared_decay": squared_decay}
        super().__init__(groups, {"lr": lr, **settings})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        state["step"] = state.get("step", torch.zeros(())) + 1
        fresh = weight_of_the_newest(float(state["step"]), group["beta2"])
        update = gradient * second_moment(state, gradient, fresh, group["factored"]).rsqrt()
        update /= (root_mean_square(update) / LARGEST_UPDATE).clamp(min=1.0)
        if group["beta1"] is not None:
            update = running_mean(state, "exp_avg", update, 1 - group["beta1"])
        size = group["lr"] * root_mean_square(parameter).clamp(min=EPS_SCALE)
        if group["squared_decay"]:
            parameter.mul_(1 - group["lr"] ** 2)
        if group["weight_decay"] > 0:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(size * update)


def weight_of_the_newest(step: float, beta2: float | None) -> float:
    """How much of the running means is this step's squares: t^-0.8 (section 7.2), or a constant with the correction
    for a mean that starts at zero (section 7.1), after which it is Adam's."""
    return float(step**-0.8) if beta2 is None else (1 - beta2) / float(1 - beta2**step)


def second_moment(state: dict[str, Tensor], gradient: Tensor, fresh: float, factored: bool) -> Tensor:
    """The running mean of squared gradients, updated; as the product of its row and column means where factored."""
    squares = gradient.square() + EPS_SQUARE
    if not factored or gradient.ndim < 2:
        return running_mean(state, "exp_avg_sq", squares, fresh)
    rows = running_mean(state, "row_avg_sq", squares.mean(dim=-1, keepdim=True), fresh)
    columns = running_mean(state, "column_avg_sq", squares.mean(dim=-2, keepdim=True), fresh)
    # Divided first: the product of two means of squares of small gradients (1e-12) is zero in float32.
    return rows / rows.mean(dim=-2, keepdim=True) * columns


def running_mean(state: dict[str, Tensor], name: str, value: Tensor, weight: float) -> Tensor:
    """Move the mean that is kept under a name, zero at first, towards a value."""
    if name not in state:
        state[name] = torch.zeros_like(value)
    return state[name].lerp_(value, weight)
