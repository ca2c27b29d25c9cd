"""How far tensors are apart, and checkpoints that should be the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from corestone.train.archive import AVERAGE, WEIGHTS
from corestone.train.checkpoint import read_tensors

STATE = "state.json"
PARTS = (WEIGHTS, "optimizer.safetensors", AVERAGE)


def tensors_apart(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> tuple[float, str]:
    """The largest difference of two sets of tensors, and where it is; one that is missing is infinitely far."""
    missing = sorted(ours.keys() ^ theirs.keys())
    if missing:
        return float("inf"), missing[0]
    found = {name: 0.0 if torch.equal(ours[name], other) else _gap(ours[name], other) for name, other in theirs.items()}
    name = max(found, key=lambda one: found[one], default="")
    return (found[name], name) if found.get(name) else (0.0, "nothing differs")


def _gap(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape or bool((ours.isfinite() & theirs.isfinite()).logical_not().any()):
        return float("inf")
    return float((ours.double() - theirs.double()).abs().max())


def checkpoints_apart(ours: Path, theirs: Path) -> tuple[float, str, bool]:
    """The largest difference of weights, optimiser and averages of two checkpoints, where it is, and whether their
    states are the same."""
    worst, where = 0.0, "nothing differs"
    for name in PARTS:
        there = [folder / name for folder in (ours, theirs) if (folder / name).is_file()]
        if len(there) == 1:
            return float("inf"), f"{name} is on one side only", False
        found, place = tensors_apart(*map(read_tensors, there)) if there else (0.0, "")
        if found > worst:
            worst, where = found, f"{place} of {name}"
    states = [(folder / STATE).read_text(encoding="utf-8") for folder in (ours, theirs)]
    return worst, where, states[0] == states[1]
