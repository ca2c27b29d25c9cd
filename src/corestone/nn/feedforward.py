"""The feed-forward layer.

Shape letters: B batch, T tokens, D width, F hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from corestone.nn.spec import FeedForward

QUICK = 1.702
"""What GELU's sigmoid takes its argument times."""


def quick_gelu(x: Tensor) -> Tensor:
    """`x sigmoid(1.702 x)` (Hendrycks and Gimpel 2016, section 2)."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        out: Tensor = _QuickGelu.apply(x)
        return out
    return F.silu(QUICK * x) / QUICK


class _QuickGelu(torch.autograd.Function):
    """The same. The factor in front and that behind cancel in its slope, which is that of silu at the scaled value: one
    pass over the numbers in place of three, and one tensor kept."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:  # type: ignore[override]
        scaled = QUICK * x
        ctx.save_for_backward(scaled)
        return F.silu(scaled).div_(QUICK)

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        (scaled,) = ctx.saved_tensors  # type: ignore[attr-defined]
        dx: Tensor = torch.ops.aten.silu_backward(gradients[0], scaled)
        return dx


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "relu_squared": lambda x: F.relu(x).square(),
    "silu": F.silu,
}


class FeedForwardLayer(nn.Module):
    """(B, T, D) to (B, T, D) through F hidden values."""

    def __init__(self, spec: FeedForward, width: int) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[spec.activation]
        self.up = nn.Linear(width, spec.hidden_dim, bias=spec.bias)
        self.gate = nn.Linear(width, spec.hidden_dim, bias=spec.bias) if spec.gated else None
        self.dropout = nn.Dropout(spec.dropout)
        self.down = nn.Linear(spec.hidden_dim, width, bias=spec.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        hidden_BTF = self.up(x_BTD)
        hidden_BTF = (
            self.activation(hidden_BTF) if self.gate is None else self.activation(self.gate(x_BTD)) * hidden_BTF
        )
        out: Tensor = self.down(self.dropout(hidden_BTF))
        return out
