"""An evaluated number. Imports no torch, so that a report may."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One evaluated number: its name, value, unit, sample size and 95 % interval (None where it has none).

    `convention` says how it was counted, where numbers of one name are counted in several ways.
    """

    name: str
    value: float
    unit: str
    n: int
    interval: tuple[float, float] | None = None
    convention: str = ""
