"""A group's parameters a part at a time, so that what a step holds beside its state stays small."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

MOST = 1 << 24
"""Values in a part, unless one parameter alone has more."""


def parts(parameters: Sequence[Tensor], most: int = MOST) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Neighbouring parameters with their gradients; those without one are passed over."""
    part: list[Tensor] = []
    gradients: list[Tensor] = []
    size = 0
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if part and size + parameter.numel() > most:
            yield part, gradients
            part, gradients, size = [], [], 0
        part.append(parameter)
        gradients.append(parameter.grad)
        size += parameter.numel()
    if part:
        yield part, gradients


def kept(state: MutableMapping[Tensor, Any], parameters: Sequence[Tensor], key: str) -> list[Tensor]:
    """What an optimiser keeps of each parameter under a key; zeros at first."""
    for parameter in parameters:
        if key not in state[parameter]:
            state[parameter][key] = torch.zeros_like(parameter)
    return [state[parameter][key] for parameter in parameters]
