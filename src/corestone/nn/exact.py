"""Modules that a low-precision model keeps in full precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Exact(nn.Module):
    """A module whose parameters and buffers stay float32 when the model around it is converted to a lower precision."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Exact:
        def convert(tensor: Tensor) -> Tensor:
            made = fn(tensor)
            return tensor.to(made.device) if torch.finfo(made.dtype).bits < 32 else made

        super()._apply(convert, recurse)
        return self
