"""Records of what a run may compute on, and of the electricity it runs on.

Units: FLOP/s, bytes, bytes/s, W, USD per device and hour, g CO2 per kWh.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from corestone.core.errors import SpecError
from corestone.core.spec import Spec

CPU = "cpu"
"""The name of this machine's processor."""

UTILISATION = 0.45
"""Share of its peak that an accelerator reaches on operations that are done, recomputed ones among them, where nothing
better is known: OPT-175B reached 147 of an A100's 312 TFLOP/s (0.47; Zhang et al. 2022), PaLM 540B 0.58 of a TPU v4's
peak, 0.46 without what it recomputed (Chowdhery et al. 2022, section 4.1)."""

CPU_UTILISATION = 0.5
"""The same of a processor, against the measured peak of its own matrix products; a guess that calibration replaces."""


class Hardware(Spec):
    """One kind of device.

    Attributes:
        peak_bf16, peak_float32: dense peaks; None: not known. TF32, which is faster than float32, is off in training.
        memory_bandwidth: of a device's own memory; None: not known.
        within_bytes, between_bytes: a device's links to others of its node (or pod), and beyond, one direction.
        devices_per_node: that the faster links join.
        power_w, price_usd_hour: of one device; None: not known.
        measured: whether the peak was measured on this machine, in the format asked for.
        unverified: fields that were not seen at their source.
    """

    name: str
    title: str
    year: int | None = None
    peak_bf16: float = Field(gt=0)
    peak_float32: float | None = Field(default=None, gt=0)
    memory_bytes: float = Field(gt=0)
    memory_bandwidth: float | None = Field(default=None, gt=0)
    within_bytes: float = Field(default=1e10, gt=0)
    between_bytes: float = Field(default=1e9, gt=0)
    devices_per_node: int = Field(default=1, ge=1)
    power_w: float | None = None
    price_usd_hour: float | None = None
    source: str
    measured: bool = False
    price_source: str = ""
    unverified: tuple[str, ...] = ()

    def peak(self, precision: str) -> float:
        """FLOP/s in a number format; SpecError where none is known."""
        if precision != "float32" or self.measured:
            return self.peak_bf16
        if self.peak_float32 is None:
            raise SpecError(f"{self.name}: no float32 peak is known of it; take training.precision=bfloat16")
        return self.peak_float32

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


def device_count(word: str) -> int | None:
    """The number in `x64`; None where a word is no such number. Raises SpecError for none at all."""
    found = re.fullmatch(r"[x×]([0-9][0-9_]*)", word)
    if found is None:
        return None
    if not int(found[1].replace("_", "")):
        raise SpecError(f"{word}: a run needs a device; give x1 or more")
    return int(found[1].replace("_", ""))


class Published(Spec):
    """The rate and batch that a published model was pretrained with, by Adam.

    Attributes:
        model, objectives: kinds of records that name its family.
        parameters: as published.
        batch: of a step, in `unit`; length: of the run, None where it was not seen at its source.
    """

    name: str
    model: str
    objectives: tuple[str, ...]
    parameters: float = Field(gt=0)
    learning_rate: float = Field(gt=0)
    batch: float = Field(gt=0)
    length: float | None = Field(default=None, gt=0)
    unit: Literal["tokens", "pictures"]
    source: str
