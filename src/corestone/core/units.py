"""Quantities that carry their unit."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from pydantic import Field, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from corestone.core.spec import Spec

Unit = Literal["steps", "tokens", "examples", "epochs"]
_UNITS: tuple[Unit, ...] = ("steps", "tokens", "examples", "epochs")
_FORM = re.compile(r"^\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\s*([a-z]+)\s*$", re.IGNORECASE)


class Duration(Spec):
    """A length of training, written `600 steps`, `3e6 tokens`, `1000 examples` or `2 epochs`."""

    value: float = Field(ge=0)
    unit: Unit

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match = _FORM.match(value)
        unit = match[2].lower().rstrip("s") + "s" if match else ""
        if match is None or unit not in _UNITS:
            raise PydanticCustomError(
                "duration", "expected a number and a unit out of steps, tokens, examples, epochs, such as '600 steps'"
            )
        return {"value": float(match[1].replace("_", "")), "unit": unit}

    @model_serializer
    def _to_text(self) -> str:
        short = f"{self.value:g}"
        return f"{short if float(short) == self.value else repr(self.value)} {self.unit}"

    def __str__(self) -> str:
        return self._to_text()

    def steps(self, *, batch_tokens: int, batch_examples: int, epoch_tokens: int) -> int:
        """Convert to whole optimiser steps, rounded up.

        Args:
            batch_tokens: tokens of one step over all ranks.
            batch_examples: samples of one step over all ranks.
            epoch_tokens: tokens of one pass over the training set.
        """
        tokens = {
            "steps": self.value * batch_tokens,
            "tokens": self.value,
            "examples": self.value * batch_tokens / batch_examples,
            "epochs": self.value * epoch_tokens,
        }[self.unit]
        return math.ceil(tokens / batch_tokens - 1e-9)


def duration(text: str) -> Duration:
    """Read a Duration from its text form."""
    return Duration.model_validate(text)
