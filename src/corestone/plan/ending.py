"""What comes after training. By itself, so that whoever opens data loads no scaling laws."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ending:
    """What is done with the data once training has ended.

    Attributes:
        units: tokens or pictures that the model is scored on.
        captions: that it writes.
        seconds: of what needs no model: floors, and reading pictures.
    """

    units: float
    captions: float = 0.0
    seconds: float = 0.0
