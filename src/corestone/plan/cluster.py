"""Time of a run on many devices: arithmetic, communication by a simple link model, checkpoints and failures.

Units: seconds, bytes, bytes/s, FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from corestone.plan.memory import Sharding
from corestone.plan.spec import Hardware

HIDDEN = 2 / 3
"""Share of the arithmetic behind which communication hides at best: backward, while it hands over gradients."""

LATENCY = 10e-6
"""Seconds of one hop of a collective operation; assumed."""

HOURS_BETWEEN_FAILURES = 50_000.0
"""Of one device: 419 unexpected interruptions in 54 days on 16,384 H100 are one in 50,700 device-hours (Grattafiori et
al. 2024, section 3.3.4; not verified at its source)."""

RESTART_SECONDS = 600.0
"""From a failure until the run computes again; assumed."""

DISK_BYTES_PER_SECOND = 1e9
"""To which a checkpoint is written, per node; assumed."""

PAYS = 1.5
"""How much faster twice as many devices must be to pay."""

CURVE = tuple(2**power for power in range(15))
"""Numbers of devices of the throughput curve, 1 to 16,384."""


@dataclass(frozen=True)
class Work:
    """What one optimiser step does.

    Attributes:
        flops: operations that are done, over all devices, recomputed ones among them.
        parameters: trained ones.
        rows: of the batch; a device needs one at least.
        micro_rows: of one forward pass of a device, at most.
        weight_bytes: of a weight in the compute format.
    """

    flops: float
    parameters: int
    rows: int
    micro_rows: int
    weight_bytes: float

    def passes(self, devices: int) -> int:
        """Micro-batches of one of so many devices."""
        return max(1, math.ceil(self.rows / devices / self.micro_rows))


@dataclass(frozen=True)
class Step:
    """Seconds of a step, and what of them communication adds."""

    devices: int
    seconds: float
    compute_seconds: float
    communication_seconds: float

    @property
    def efficiency(self) -> float:
        """Share of the time in which devices compute."""
        return self.compute_seconds / self.seconds


def sent_bytes(work: Work, sharding: Sharding, devices: int) -> float:
    """Bytes that each device sends in a step, by rings.

    Data parallel: gradients in float32 are reduced and gathered, 2 (n-1)/n each (Patarasuk and Yuan 2009). With sharded
    state they are reduced once and the weights gathered. With full sharding weights are gathered for forward and for
    backward and gradients reduced, in every micro-batch (Rajbhandari et al. 2020, section 7).
    """
    share, P = (devices - 1) / devices, work.parameters
    if sharding == "none":
        return 2 * share * 4.0 * P
    if sharding == "zero3":
        return work.passes(devices) * share * P * (2 * work.weight_bytes + 4.0)
    return share * P * (4.0 + work.weight_bytes)


def step_on(work: Work, hardware: Hardware, peak: float, utilisation: float, sharding: Sharding, devices: int) -> Step:
    """A step on so many devices, data parallel.

    Rings across nodes are as fast as a device's link out of its node; communication hides behind `HIDDEN` of the
    arithmetic. A device that has too little to do is not slower here, so large numbers of devices flatter.
    """
    compute = work.flops / (devices * peak * utilisation)
    if devices == 1:
        return Step(1, compute, compute, 0.0)
    link = hardware.within_bytes if devices <= hardware.devices_per_node else hardware.between_bytes
    hops = 2 * math.ceil(math.log2(devices)) * LATENCY
    communication = sent_bytes(work, sharding, devices) / link + hops
    added = max(0.0, communication - HIDDEN * compute)
    return Step(devices, compute + added, compute, communication)


def curve(work: Work, hardware: Hardware, peak: float, utilisation: float, sharding: Sharding) -> list[Step]:
    """Steps on 1, 2, 4, ... devices, as far as each has a row of the batch."""
    return [step_on(work, hardware, peak, utilisation, sharding, n) for n in CURVE if n <= max(1, work.rows)]


def stops_paying(steps: Sequence[Step]) -> int:
    """The most devices of a curve up to which each doubling made steps at least `PAYS` times as fast."""
    last = steps[0]
    for step in steps[1:]:
        if last.seconds < PAYS * step.seconds:
            break
        last = step
    return last.devices


@dataclass(frozen=True)
class Failures:
    """What failures cost.

    Attributes:
        expected: failures in the run.
        interval_seconds: between checkpoints that loses least.
        lost: share of the time that goes into repeating work and restarting, with the run's own checkpoints.
    """

    expected: float
    interval_seconds: float
    lost: float


def failures(devices: int, seconds: float, checkpoint_seconds: float, checkpoints: int) -> Failures:
    """Expected failures, what they cost, and the checkpoint interval that loses least work.

    Args:
        seconds: of the run, in which it writes so many checkpoints, each in `checkpoint_seconds`.

    The interval is Daly's (2006, equation 37) refinement of Young's (1974) sqrt(2 C M), with C to write a checkpoint
    and M between failures: sqrt(2 C M) (1 + sqrt(C / 2M) / 3 + C / 18 M) - C for C < 2M, else M.
    """
    between = HOURS_BETWEEN_FAILURES * 3600 / devices
    C = max(checkpoint_seconds, 1e-3)
    ratio = C / (2 * between)
    interval = math.sqrt(2 * C * between) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - C if ratio < 1 else between
    lost = (seconds / checkpoints / 2 + RESTART_SECONDS) / between
    return Failures(seconds / between, interval, lost)
