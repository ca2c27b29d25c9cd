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
"""Seconds of one hop of a collective operation, of which a tree over n devices has log2 n; assumed."""

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
        parameters: trained ones; frozen: others.
        blocks: pieces of the model that full sharding gathers one after the other.
        rows: of the batch; a device needs one at least.
        micro_rows: of one forward pass of a device, at most.
        weight_bytes: of a weight in the compute format.
        updated_bytes: that the optimiser reads and writes, of all parameters.
    """

    flops: float
    parameters: int
    frozen: int
    blocks: int
    rows: int
    micro_rows: int
    weight_bytes: float
    updated_bytes: float

    def passes(self, devices: int) -> int:
        """Micro-batches of one of so many devices."""
        return max(1, math.ceil(self.rows / devices / self.micro_rows))


@dataclass(frozen=True)
class Step:
    """Seconds of a step: of arithmetic, of the optimiser's update, and of communication, some of which is hidden."""

    devices: int
    seconds: float
    compute_seconds: float
    update_seconds: float
    communication_seconds: float

    @property
    def efficiency(self) -> float:
        """Share of the time in which devices do not wait for each other."""
        return (self.compute_seconds + self.update_seconds) / self.seconds


def sent_bytes(work: Work, sharding: Sharding, devices: int) -> float:
    """Bytes that each device sends in a step, by rings.

    Data parallel: gradients in float32 are reduced and gathered, 2 (n-1)/n each (Patarasuk and Yuan 2009). With sharded
    state they are reduced once and the weights gathered. With full sharding all weights, frozen ones too, are gathered
    for forward and for backward and gradients reduced, in every micro-batch (Rajbhandari et al. 2020, section 7).
    """
    share, P = (devices - 1) / devices, work.parameters
    if sharding == "none":
        return 2 * share * 4.0 * P
    if sharding == "zero3":
        return work.passes(devices) * share * (2 * work.weight_bytes * (P + work.frozen) + 4.0 * P)
    return share * P * (4.0 + work.weight_bytes)


def collectives(work: Work, sharding: Sharding, devices: int) -> int:
    """Operations of a step that go once over all devices: gradients reduced, and they or the weights gathered; with
    full sharding two gatherings and a reduction of each block, in every micro-batch."""
    return 3 * work.blocks * work.passes(devices) if sharding == "zero3" else 2


def step_on(work: Work, hardware: Hardware, peak: float, utilisation: float, sharding: Sharding, devices: int) -> Step:
    """A step on so many devices, data parallel.

    The update is as fast as a device's memory; where its bandwidth is not known it is part of the utilisation. Rings
    across nodes are as fast as a device's link out of its node; communication hides behind `HIDDEN` of the arithmetic.
    A device that has too little to do is not slower here, so large numbers of devices flatter.
    """
    compute = work.flops / (devices * peak * utilisation)
    own = work.updated_bytes / (1 if sharding == "none" else devices)
    update = own / hardware.memory_bandwidth if hardware.memory_bandwidth else 0.0
    if devices == 1:
        return Step(1, compute + update, compute, update, 0.0)
    link = hardware.within_bytes if devices <= hardware.devices_per_node else hardware.between_bytes
    hops = collectives(work, sharding, devices) * math.ceil(math.log2(devices)) * LATENCY
    communication = sent_bytes(work, sharding, devices) / link + hops
    added = max(0.0, communication - HIDDEN * compute)
    return Step(devices, compute + update + added, compute, update, communication)


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
