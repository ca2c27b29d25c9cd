"""Memory of a training step, per device. All values in bytes.

What is held follows `parallel.precision.MasterWeights`: float32 masters, gradients summed in float32, and a copy in the
compute format where that is another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Literal

from corestone.core.spec import Spec
from corestone.nn.cross_entropy import GROUP_ROWS
from corestone.optim.spec import LAMB, SGD, Adafactor, AdamW, Lion

Sharding = Literal["none", "zero1", "zero2", "zero3"]
"""What is split over devices: nothing; masters, averages and optimiser state; gradients too; the weights that compute
too (Rajbhandari et al. 2020, section 5: P_os, P_os+g, P_os+g+p; the last is called full sharding elsewhere)."""

SPLIT: dict[Sharding, frozenset[str]] = {
    "none": frozenset(),
    "zero1": frozenset({"masters", "averages", "optimiser"}),
    "zero2": frozenset({"masters", "averages", "optimiser", "gradients"}),
    "zero3": frozenset({"masters", "averages", "optimiser", "gradients", "weights"}),
}


def optimiser_state(optimiser: Spec, shapes: Sequence[tuple[int, ...]]) -> float:
    """Bytes of an optimiser's state for trained parameters of these shapes, all in float32.

    AdamW and LAMB keep two values per weight, Lion one, SGD one with momentum, Adafactor one with beta1 and the second
    moments: per weight, or of two axes and more the means over the last and over the last but one.
    """
    return 4.0 * sum(_values(optimiser, shape) for shape in shapes)


def _values(optimiser: Spec, shape: tuple[int, ...]) -> int:
    size = prod(shape)
    match optimiser:
        case AdamW() | LAMB():
            return 2 * size
        case Lion():
            return size
        case SGD():
            return size if optimiser.momentum else 0
        case Adafactor():
            factored = optimiser.factored and len(shape) >= 2
            second = size // shape[-1] + size // shape[-2] if factored else size
            return second + (size if optimiser.beta1 is not None else 0)
    raise TypeError(f"no account of the state of {type(optimiser).__name__}")


def updated(trained: int, state: float, low_precision: bool) -> float:
    """Bytes that an update reads and writes: gradients are read, masters and the optimiser's state read and written,
    and the copy in the compute format, where that is another one, written."""
    return trained * (4.0 + 8.0 + (2.0 if low_precision else 0.0)) + 2 * state


def held(
    trained: int, frozen: int, low_precision: bool, state: float, averages: bool, sharding: Sharding, devices: int
) -> dict[str, float]:
    """What lasts from step to step, by name, per device.

    Args:
        trained, frozen: parameters.
        low_precision: whether the compute format is another than float32 (bfloat16: 2 bytes).
        state: bytes of the optimiser's.
        averages: whether averages of the weights are kept.
    """
    total = trained + frozen
    whole = {
        "weights": 2.0 * total if low_precision else 4.0 * total,
        "masters": 4.0 * total if low_precision else 0.0,
        "gradients": 4.0 * trained,
        "optimiser": state,
        "averages": 4.0 * total if averages else 0.0,
    }
    split = SPLIT[sharding]
    return {name: size / devices if name in split else size for name, size in whole.items()}


def passing(
    activations: float, largest: float, logits_width: int, positions: int, low_precision: bool
) -> dict[str, float]:
    """What comes and goes within a step.

    Args:
        activations: kept for backward, of one micro-batch.
        largest: their largest piece; backward holds its gradient and one more.
        logits_width: of the head; 0 where there is none.
        positions: rows of the head's product in a micro-batch; at most a group of them exists at a time.
    """
    width = 2.0 if low_precision else 4.0
    return {
        "activations": activations,
        "backward": 2 * largest,
        "logits": min(positions, GROUP_ROWS[True]) * logits_width * width,
    }


def buffers(largest_parameter: int, largest_block: int, low_precision: bool, sharding: Sharding, devices: int) -> float:
    """Communication buffers: a gradient on its way; with full sharding two gathered blocks, the one that computes and
    the next, and one block's gradients."""
    if devices == 1:
        return 0.0
    if sharding == "zero3":
        return largest_block * (2 * (2.0 if low_precision else 4.0) + 4.0)
    return 4.0 * largest_parameter


def totalled(parts: Mapping[str, float]) -> float:
    """Their sum."""
    return float(sum(parts.values()))
