"""Weights in 8 bits for decoding: half the bytes per token of bfloat16.

Only weights are rounded; activations and sums keep their precision. Each output channel has its own scale, so a
channel of large weights costs the others nothing.

Shape letters: I inputs, O outputs.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corestone.generate.weights import with_matrices

M = TypeVar("M", bound=nn.Module)

MOST_ROWS = 16
"""With more rows (reading a prompt) arithmetic, not the weights' arrival, takes the time: weights are restored once."""

KERNEL_INPUTS = 16
"""torch's int8 product reads beyond the end of rows whose length is no multiple of this (measured; it may crash)."""


def quantize(weight_OI: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Round a matrix to int8, symmetric per output channel.

    Returns:
        int8 (O, I) and scales (O,) in `dtype`; `int8 * scale` differs from the weight by at most half a scale.
    """
    weight_OI = weight_OI.detach().float()
    scale_O = weight_OI.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    # Rounded up, so that the largest weight still fits into 127 once the scale is stored in fewer bits.
    scale_O = (scale_O * (1 + 2**-8)).to(dtype) if dtype != torch.float32 else scale_O
    rounded_OI = torch.round(weight_OI / scale_O.float()[:, None]).clamp_(-127, 127)
    return rounded_OI.to(torch.int8), scale_O


class Int8Linear(nn.Module):
    """A linear map with int8 weights; activations in the precision of the scales."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        rounded_OI, scale_O = quantize(weight_OI, dtype)
        self.register_buffer("rounded_OI", rounded_OI.contiguous())
        self.register_buffer("scale_O", scale_O)
        self.register_buffer("bias_O", None if bias_O is None else bias_O.detach().to(dtype))

    rounded_OI: Tensor
    scale_O: Tensor
    bias_O: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        rows = x.reshape(-1, x.shape[-1])
        fits = x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.shape[-1] % KERNEL_INPUTS == 0
        if not fits or rows.shape[0] > MOST_ROWS:
            return F.linear(x, self.restored(), self.bias_O)
        out: Tensor = torch.ops.aten._weight_int8pack_mm(rows.contiguous(), self.rounded_OI, self.scale_O)
        if self.bias_O is not None:
            out += self.bias_O
        return out.view(*x.shape[:-1], -1)

    def restored(self) -> Tensor:
        """The weights these integers stand for, (O, I)."""
        return self.rounded_OI.to(self.scale_O.dtype) * self.scale_O[:, None]


def weight_only_int8(model: M, dtype: torch.dtype = torch.bfloat16) -> M:
    """A copy of a model for decoding, with int8 weights in every linear map and in the head.

    Args:
        model: in any precision; float32 rounds only once.
        dtype: of the activations and of everything that stays unrounded (tables, norms, biases).
    """
    return with_matrices(model, lambda matrix: Int8Linear(matrix.weight, matrix.bias, dtype), dtype)
