"""Clocks of a run: tokens or pictures per second, utilisation, the share of time spent waiting for data, memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Reading:
    """What was measured since the reading before it.

    Attributes:
        seconds: of training steps; evaluation, samples and checkpoints do not count.
        units_per_second: in the unit that the run counts in, tokens or pictures.
        utilisation: model FLOP/s over the measured peak of all ranks, as a fraction.
        data_wait_share: fraction of the time in which the loop waited for a batch.
        memory_bytes: the most this process has used so far (GPU memory where it computes on one).
    """

    steps: int
    seconds: float
    units_per_second: float
    flops_per_second: float
    utilisation: float
    data_wait_share: float
    memory_bytes: int


class Meter:
    """Counts training time only: what a hook takes is left out by `paused`."""

    def __init__(self, flops_per_unit: float, peak_flops: float, device: torch.device) -> None:
        self.flops_per_unit = flops_per_unit
        self.peak_flops = peak_flops
        self.device = device
        self.total_seconds = 0.0
        self.total_units = 0
        self._start = time.perf_counter()
        self._wait = self._pause = 0.0
        self._steps = self._units = 0

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._wait += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._pause += time.perf_counter() - start

    def step_done(self, units: int) -> None:
        self._steps += 1
        self._units += units

    def read(self) -> Reading:
        """Averages since the last call."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = max(1e-9, time.perf_counter() - self._start - self._pause)
        rate = self._units / seconds
        reading = Reading(
            steps=self._steps,
            seconds=seconds,
            units_per_second=rate,
            flops_per_second=rate * self.flops_per_unit,
            utilisation=rate * self.flops_per_unit / self.peak_flops,
            data_wait_share=self._wait / seconds,
            memory_bytes=peak_memory(self.device),
        )
        self.total_seconds += seconds
        self.total_units += self._units
        self._start = time.perf_counter()
        self._wait = self._pause = 0.0
        self._steps = self._units = 0
        return reading


def peak_memory(device: torch.device) -> int:
    """Bytes this process has used at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would also count what the process was before exec
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
