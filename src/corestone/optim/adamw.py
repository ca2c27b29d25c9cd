"""AdamW and SGD by torch's fused kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from corestone.optim.base import LightOptimizer
from corestone.optim.parts import kept


class AdamWOptimiser(LightOptimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).

    Args:
        groups: parameter groups, each with its `weight_decay`.
        lr: step size.
        betas: decay of the means of gradients and of their squares.
        eps: added to the root of the latter.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                self.state[parameter].setdefault("step", torch.zeros((), device=parameter.device))
            adamw(
                parameters,
                [parameter.grad for parameter in parameters],
                kept(self.state, parameters, "exp_avg"),
                kept(self.state, parameters, "exp_avg_sq"),
                [],
                [self.state[parameter]["step"] for parameter in parameters],
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )


class SGDOptimiser(LightOptimizer):
    """Stochastic gradient descent with heavy-ball momentum; decay is part of the gradient, as in torch.optim.SGD.

    Args:
        groups: parameter groups, each with its `weight_decay`.
        lr: step size.
        momentum: weight of the sum of past gradients; 0 keeps none.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            momentum = group["momentum"]
            sums: list[Tensor | None] = [None] * len(parameters)
            if momentum:
                sums = [*kept(self.state, parameters, "momentum_buffer")]
            sgd(
                parameters,
                [parameter.grad for parameter in parameters],
                sums,
                fused=True,
                weight_decay=group["weight_decay"],
                momentum=momentum,
                lr=group["lr"],
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
