"""What a run may compute on, and the electricity it runs on: tables with their sources, and this machine.

Units: FLOP/s, bytes, bytes/s, W, USD per device and hour, g CO2 per kWh.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import resources

import torch

from corestone.core.errors import SpecError, unknown
from corestone.core.spec import Spec, from_yaml
from corestone.parallel.peak import gemm_peak
from corestone.plan.spec import CPU, Hardware, Region

PROBE_SECONDS = 0.04
"""How long each shape is multiplied to find this machine's peak: long enough for the best of many repeats."""


class _Devices(Spec):
    entries: tuple[Hardware, ...]


class _Regions(Spec):
    entries: tuple[Region, ...]


@cache
def devices() -> dict[str, Hardware]:
    """The table of devices by name, without this machine."""
    text = resources.files("corestone.plan").joinpath("hardware.yaml").read_text(encoding="utf-8")
    return {entry.name: entry for entry in from_yaml(_Devices, text, "hardware.yaml").entries}


@cache
def regions() -> dict[str, Region]:
    """The table of grids by name."""
    text = resources.files("corestone.plan").joinpath("grid.yaml").read_text(encoding="utf-8")
    return {entry.name: entry for entry in from_yaml(_Regions, text, "grid.yaml").entries}


def find_region(name: str) -> Region:
    """A grid by name; SpecError names the nearest one."""
    if name.lower() not in regions():
        raise SpecError("--region: " + unknown("region", name, regions()))
    return regions()[name.lower()]


def find_hardware(name: str, precision: str) -> Hardware:
    """A device by name; `cpu` is this machine, whose peak is measured in that format. SpecError names the nearest."""
    if name.lower() == CPU:
        return this_machine(getattr(torch, precision))
    if name.lower() not in devices():
        raise SpecError("--hardware: " + unknown("hardware", name, [*devices(), CPU]))
    return devices()[name.lower()]


def this_device(device: torch.device, dtype: torch.dtype, peak: float) -> Hardware:
    """The device that a process of this machine computes on, whose peak was measured in that format."""
    if device.type == "cpu":
        return this_machine(dtype, peak)
    found = torch.cuda.get_device_properties(device)
    name, size = str(found.name), float(found.total_memory)
    return Hardware(name=name, title=name, peak_bf16=peak, memory_bytes=size, source="measured", measured=True)


def this_machine(dtype: torch.dtype, peak: float | None = None) -> Hardware:
    """This machine's processor as one device, its peak measured unless it is given."""
    return Hardware(
        name=CPU,
        title=f"this machine, {torch.get_num_threads()} threads",
        peak_bf16=peak or gemm_peak(dtype, torch.device("cpu"), PROBE_SECONDS),
        memory_bytes=float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        source="measured",
        measured=True,
    )
