"""Lion (Chen et al. 2023, algorithm 2), which torch lacks: every value moves by the same length each step."""

from __future__ import annotations

from typing import Any

import torch

from corestone.optim.base import LightOptimizer
from corestone.optim.parts import kept, parts


class LionOptimiser(LightOptimizer):
    """Steps along the sign of a mean of gradients; the one thing kept of each parameter is that mean, `exp_avg`.

    Args:
        groups: parameter groups, each with its `weight_decay`.
        lr: length of a step of every single value.
        beta1: weight of the kept mean against the new gradient in the step's direction.
        beta2: weight of the kept mean against the new gradient in what is kept.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, beta1: float, beta2: float) -> None:
        super().__init__(groups, {"lr": lr, "beta1": beta1, "beta2": beta2})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameters, gradients in parts(group["params"]):
                means = kept(self.state, parameters, "exp_avg")
                signs = torch._foreach_lerp(means, gradients, 1 - group["beta1"])
                torch._foreach_sign_(signs)
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, signs, alpha=-group["lr"])
                torch._foreach_lerp_(means, gradients, 1 - group["beta2"])
