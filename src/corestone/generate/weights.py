"""Weights laid out for decoding: a copy of a model whose matrices stream faster when there are few rows.

A product of one to eight rows reads each weight once and is bound by how fast weights arrive; oneDNN's own blocked
layout arrives up to twice as fast as the plain one (docs/LOG.md). The values are the same.

Shape letters: B batch, T tokens, I inputs, O outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from corestone.nn.head import TiedHead
from corestone.nn.patches import PatchEmbeddingLayer
from corestone.parallel.precision import cpu_has_bfloat16

M = TypeVar("M", bound=nn.Module)
Matrix = nn.Linear | TiedHead


class PackedLinear(nn.Module):
    """A bfloat16 linear map on CPU with its weight in oneDNN's blocked layout."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.bias = bias_O
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach(), 1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return out


def decoding_weights(model: M) -> M:
    """The model as it decodes fastest: a copy with packed matrices where that pays, else the model itself.

    The copy shares the other parameters. Packing reads every matrix once; who generates often packs once and passes
    the result, which is returned as it is. Later changes of the model's weights do not reach the copy.
    """
    matrices = [module for module in model.modules() if isinstance(module, nn.Linear | TiedHead)]
    if not matrices or not all(_packs(matrix.weight) for matrix in matrices):
        return model
    return with_matrices(model, lambda matrix: PackedLinear(matrix.weight, matrix.bias))


def with_matrices(model: M, replace: Callable[[Matrix], nn.Module], dtype: torch.dtype | None = None) -> M:
    """A copy of the model with every linear map and tied head replaced; other parameters are shared, or in `dtype`.

    The map of a picture's patches stays: it reads them all at once, never one row.
    """
    patches = {module.patch for module in model.modules() if isinstance(module, PatchEmbeddingLayer)}
    other = {id(p): p if dtype is None else nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    made = copy.deepcopy(model, dict[int, object](other))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | TiedHead) and module not in patches:
            made.set_submodule(name, replace(module))
    return made if dtype is None else made.to(dtype)


def _packs(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and cpu_has_bfloat16()
