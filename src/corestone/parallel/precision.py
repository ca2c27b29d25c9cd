"""Which number format computes, and float32 master weights behind it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Literal

import torch
from torch import Tensor, nn

from corestone.parallel.peak import gemm_peak

Precision = Literal["auto", "bfloat16", "float32"]


WORTH = 1.2
"""How many times faster than float32 the lower precision must multiply to be chosen."""


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The format of a run. `auto` is bfloat16 where this machine multiplies it clearly faster than float32.

    On a CPU that is measured, in about half a second: some processors have bfloat16 instructions that run at half the
    speed of their float32 ones (docs/LOG.md).
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        pays = torch.cuda.get_device_capability(device)[0] >= 8
    else:
        pays = cpu_has_bfloat16() and _bfloat16_is_faster()
    return torch.bfloat16 if pays else torch.float32


def decoding_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The format for decoding. `auto` is bfloat16 wherever the hardware has it: few rows wait for weights to arrive,
    not for their products."""
    if precision == "auto" and device.type == "cpu":
        return torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    return compute_dtype(precision, device)


def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself, through oneDNN."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def _bfloat16_is_faster() -> bool:
    low, full = (gemm_peak(dtype, torch.device("cpu"), seconds=0.1) for dtype in (torch.bfloat16, torch.float32))
    return low > WORTH * full


class MasterWeights:
    """Parameters in float32 for the optimiser, and a copy in the compute format for the model.

    Gradients of micro-batches are summed in float32 as backward produces them, and the low-precision ones are freed
    at once. With float32 compute, masters and model parameters are the same tensors. Parameters that are frozen when
    this is made have masters too, and no gradient.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.model = model
        self.dtype = dtype
        self._trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if dtype == torch.float32:
            self.masters: dict[str, Tensor] = dict(model.named_parameters())
            return
        self.masters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        model.to(dtype)
        for name, parameter in model.named_parameters():
            if parameter.data_ptr() == self.masters[name].data_ptr():  # of a layer that computes in float32 only
                self.masters[name] = parameter.detach().clone()
            if name in self._trained:
                parameter.register_post_accumulate_grad_hook(self._collect(name))

    def _collect(self, name: str) -> Callable[[Tensor], None]:
        def add(name: str, parameter: Tensor) -> None:
            if parameter.grad is None:
                return
            master = self.masters[name]
            if master.grad is None:
                master.grad = parameter.grad.to(torch.float32)
            else:
                master.grad.add_(parameter.grad)
            parameter.grad = None

        return partial(add, name)

    def gradients(self) -> list[Tensor]:
        """Summed float32 gradients of what is trained; a parameter that took no part has zeros."""
        masters = [self.masters[name] for name in self._trained]
        for master in masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        return [master.grad for master in masters if master.grad is not None]

    def clear(self) -> None:
        """Forget the gradients."""
        for master in self.masters.values():
            master.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the masters into the model, rounded to the compute format."""
        if self.dtype != torch.float32:
            torch._foreach_copy_([p.data for p in self.model.parameters()], list(self.masters.values()))
