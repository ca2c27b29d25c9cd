"""Normalisation, and the precision of the residual stream."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corestone.nn.spec import Norm


def at_least_float32(x: Tensor) -> Tensor:
    """The residual stream, and statistics over it, keep float32 in low-precision models: each layer's rounding of a
    bfloat16 sum would add up to a quarter of the whole error of the gradient (measured, docs/LOG.md)."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis (Ba et al. 2016), float32 out whatever format the parameters have."""

    def forward(self, x: Tensor) -> Tensor:
        weight = at_least_float32(self.weight)
        bias = None if self.bias is None else at_least_float32(self.bias)
        return F.layer_norm(at_least_float32(x), self.normalized_shape, weight, bias, self.eps)


class RMSNorm(nn.RMSNorm):
    """Division by the root of the mean square over the last axis (Zhang and Sennrich 2019), float32 out."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(at_least_float32(x), self.normalized_shape, at_least_float32(self.weight), self.eps)


def build_norm(spec: Norm, width: int) -> LayerNorm | RMSNorm:
    """The layer that a Norm record describes, over the last axis."""
    return RMSNorm(width, eps=spec.eps) if spec.kind == "rms" else LayerNorm(width, eps=spec.eps, bias=spec.bias)
