"""LAMB (You et al. 2020, algorithm 2), which torch lacks: Adam's step, made as long as the parameter's own norm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from corestone.optim.adamw import AdamWOptimiser
from corestone.optim.parts import kept, parts


class LambOptimiser(AdamWOptimiser):
    """Adam whose step on each decaying parameter, decay included, is `lr` times that parameter's norm long.

    Parameters of a group without decay take Adam's step as it is, as in the authors' code, which leaves gains and
    biases out of both: a bias starts at zero, and steps as long as itself would keep it there.

    Takes what AdamW takes.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameters, gradients in parts(group["params"]):
                updates = self._adam(parameters, gradients, group)
                if group["weight_decay"] > 0:
                    torch._foreach_add_(updates, parameters, alpha=group["weight_decay"])
                    lengths = zip(torch._foreach_norm(parameters), torch._foreach_norm(updates), strict=True)
                    torch._foreach_mul_(updates, [trust_ratio(own, step) for own, step in lengths])
                torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    def _adam(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Adam's updates, before the learning rate."""
        beta1, beta2 = group["betas"]
        for parameter in parameters:
            self.state[parameter]["step"] = self.state[parameter].get("step", torch.zeros(())) + 1
        counts = torch.stack([self.state[parameter]["step"] for parameter in parameters]).tolist()
        means = kept(self.state, parameters, "exp_avg")
        squares = kept(self.state, parameters, "exp_avg_sq")
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, [math.sqrt(1 - beta2**count) for count in counts])
        torch._foreach_add_(roots, group["eps"])
        updates = torch._foreach_div(means, [1 - beta1**count for count in counts])
        torch._foreach_div_(updates, roots)
        return list(updates)


def trust_ratio(own: Tensor, step: Tensor) -> Tensor:
    """A parameter's norm over its step's; 1 where either is zero."""
    return torch.where((own > 0) & (step > 0), own / step, 1.0)
