"""Records that hold tensors, seen as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


def each_tensor(record: R, change: Callable[[Tensor], Tensor]) -> R:
    """A copy of a dataclass with every tensor in it changed, those of inner dataclasses included."""
    changed: dict[str, Any] = {}
    for field in fields(record):  # type: ignore[arg-type]
        value = getattr(record, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = change(value)
        elif is_dataclass(value):
            changed[field.name] = each_tensor(value, change)
    return replace(record, **changed)  # type: ignore[type-var]


def moved(record: R, device: torch.device) -> R:
    """The record on a device; host memory is pinned first where that lets the copy run in the background."""
    if device.type == "cpu":
        return record
    return each_tensor(record, lambda tensor: tensor.pin_memory().to(device, non_blocking=True))
