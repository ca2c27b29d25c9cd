"""Normalisation, and the precision of the residual stream.

Shape letters: R rows, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from corestone.nn.spec import Norm


def at_least_float32(x: Tensor) -> Tensor:
    """The residual stream, and statistics over it, keep float32 in low-precision models: each layer's rounding of a
    bfloat16 sum would add up to a quarter of the whole error of the gradient (measured, docs/LOG.md)."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _own_gradients(x: Tensor) -> bool:
    return x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis (Ba et al. 2016), float32 out whatever format the parameters have."""

    def forward(self, x: Tensor) -> Tensor:
        weight = at_least_float32(self.weight)
        bias = None if self.bias is None else at_least_float32(self.bias)
        x, kept_as = at_least_float32(x), self.weight.dtype
        if kept_as != weight.dtype and _own_gradients(x):
            out: Tensor = _KeptLow.apply(x, weight, bias, self.eps, kept_as)
            return out
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class _KeptLow(torch.autograd.Function):
    """What `F.layer_norm` computes, to the bit. For backward it keeps the input less its mean in the low precision of
    the layers around it, half the memory of the residual stream; gradients move by that rounding (docs/LOG.md)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        weight_D: Tensor,
        bias_D: Tensor | None,
        eps: float,
        kept_as: torch.dtype,
    ) -> Tensor:
        out, mean, inverse = torch.native_layer_norm(x, weight_D.shape, weight_D, bias_D, eps)
        centred = torch.sub(x, mean, out=torch.empty_like(x, dtype=kept_as))  # no float32 block of that size between
        ctx.save_for_backward(centred, weight_D, bias_D, inverse)  # type: ignore[arg-type]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        centred, weight_D, bias_D, inverse = ctx.saved_tensors  # type: ignore[attr-defined]
        wanted = [True, True, bias_D is not None]
        x, mean = centred.to(weight_D.dtype), torch.zeros_like(inverse)
        found = torch.ops.aten.native_layer_norm_backward(
            gradients[0], x, weight_D.shape, mean, inverse, weight_D, bias_D, wanted
        )
        return *found, None, None


class RMSNorm(nn.RMSNorm):
    """Division by the root of the mean square over the last axis (Zhang and Sennrich 2019), float32 out."""

    def forward(self, x: Tensor) -> Tensor:
        x, weight = at_least_float32(x), at_least_float32(self.weight)
        if _own_gradients(x):
            assert self.eps is not None
            out: Tensor = _RootMeanSquare.apply(x, weight, self.eps)
            return out
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class _RootMeanSquare(torch.autograd.Function):
    """What `F.rms_norm` computes. Trained on CPU that is a chain of element-wise steps with a chain of gradients; here
    both sums of the backward are products of a matrix and a vector (2.5 times as fast, docs/LOG.md)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight_D: Tensor, eps: float
    ) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight_D, inverse)
        return torch.mul(x, inverse).mul_(weight_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight_D, inverse = ctx.saved_tensors  # type: ignore[attr-defined]
        D = x.shape[-1]
        products_RD = (gradients[0] * x).reshape(-1, D)
        dweight_D = products_RD.T @ inverse.reshape(-1)
        shared = (products_RD @ weight_D).view_as(inverse) * inverse**3 / D
        dx = torch.mul(gradients[0], weight_D).mul_(inverse).addcmul_(x, shared, value=-1)
        return dx, dweight_D, None


def build_norm(spec: Norm, width: int) -> LayerNorm | RMSNorm:
    """The layer that a Norm record describes, over the last axis."""
    return RMSNorm(width, eps=spec.eps) if spec.kind == "rms" else LayerNorm(width, eps=spec.eps, bias=spec.bias)
