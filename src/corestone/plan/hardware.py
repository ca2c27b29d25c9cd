"""What a run may compute on, and the electricity it runs on: tables with their sources, and this machine.

Units: FLOP/s, bytes, bytes/s, W, USD per device and hour, g CO2 per kWh.
"""

from __future__ import annotations

import os
import re
from functools import cache
from importlib import resources

import torch
from pydantic import Field

from corestone.core.errors import SpecError, unknown
from corestone.core.spec import Spec, from_yaml
from corestone.parallel.peak import gemm_peak

CPU = "cpu"
"""The name of this machine's processor."""

PROBE_SECONDS = 0.04
"""How long each shape is multiplied to find this machine's peak: long enough for the best of many repeats."""

UTILISATION = 0.45
"""Share of its peak that an accelerator reaches on operations that are done, recomputed ones among them, where nothing
better is known: OPT-175B reached 147 of an A100's 312 TFLOP/s (0.47; Zhang et al. 2022), PaLM 540B 0.46 of a TPU v4's
(Chowdhery et al. 2022, section 4.1)."""

CPU_UTILISATION = 0.5
"""The same of a processor, against the measured peak of its own matrix products; a guess that calibration replaces."""


class Hardware(Spec):
    """One kind of device.

    Attributes:
        peak_bf16, peak_fp8: dense peaks; None: there is none.
        within_bytes, between_bytes: a device's links to others of its node (or pod), and beyond, one direction.
        devices_per_node: that the faster links join.
        power_w, price_usd_hour: of one device; None: not known.
        unverified: fields that were not seen at their source.
    """

    name: str
    title: str
    year: int | None = None
    peak_bf16: float = Field(gt=0)
    peak_fp8: float | None = None
    memory_bytes: float = Field(gt=0)
    memory_bandwidth: float | None = None
    within_bytes: float = Field(default=1e10, gt=0)
    between_bytes: float = Field(default=1e9, gt=0)
    devices_per_node: int = Field(default=1, ge=1)
    power_w: float | None = None
    price_usd_hour: float | None = None
    source: str
    price_source: str = ""
    unverified: tuple[str, ...] = ()

    def peak(self, precision: str) -> float:
        """FLOP/s in a number format. Of float32 it is half of bfloat16's, as TF32's is on NVIDIA's devices; this
        machine's is measured in the format asked for."""
        return self.peak_bf16 / 2 if precision == "float32" and self.name != CPU else self.peak_bf16

    @property
    def utilisation(self) -> float:
        """The share of the peak that a plan counts with where nothing else is said."""
        return CPU_UTILISATION if self.name == CPU else UTILISATION


class Region(Spec):
    """An electricity grid: grams of CO2 equivalents per kWh, mean of a year."""

    name: str
    grams_per_kwh: float = Field(gt=0)
    year: int
    source: str
    unverified: bool = False


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


def this_machine(dtype: torch.dtype, peak: float | None = None) -> Hardware:
    """This machine as one device, its peak measured unless it is given."""
    return Hardware(
        name=CPU,
        title=f"this machine, {torch.get_num_threads()} threads",
        peak_bf16=peak or gemm_peak(dtype, torch.device("cpu"), PROBE_SECONDS),
        memory_bytes=float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        source="measured",
    )


def device_count(word: str) -> int | None:
    """The number in `x64`; None where a word is no such number."""
    found = re.fullmatch(r"[x×](\d[\d_]*)", word)
    return max(1, int(found[1])) if found else None
