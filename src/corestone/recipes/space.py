"""What a sweep may try: ranges and choices of a recipe's keys, read from words of the command line. Loads no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from corestone.core.errors import SpecError
from corestone.core.spec import override
from corestone.recipes.spec import Run

WIDE = 10.0
"""A positive range whose ends are this many times apart is drawn evenly in the logarithm."""

RATES = (1e-6, 1.0)
"""What a learning-rate range test rises from and to."""

_WHOLE = re.compile(r"^[+-]?\d[\d_]*$")
Value = int | float | str


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Attributes:
        log: drawn evenly in the logarithm.
        whole: integers alone; both ends were written as integers.
    """

    path: str
    low: float
    high: float
    log: bool
    whole: bool

    def tried_first(self) -> list[Value]:
        """Values that the recipe must take: both ends, and one between them."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return [int(value) if self.whole else float(value) for value in (self.low, middle, self.high)]


@dataclass(frozen=True)
class Choice:
    """Values out of a list, as they were written."""

    path: str
    values: tuple[str, ...]

    def tried_first(self) -> list[Value]:
        """All values."""
        return list(self.values)


Dimension = Range | Choice


def read_space(words: Sequence[str]) -> tuple[list[Dimension], list[str]]:
    """Tell what is searched from what is fixed.

    `path=low:high` is a range, with `:log` or `:linear` behind it where the rule (`WIDE`) is not to decide; `path=a,b`
    is a choice; any other `path=value` is an override of every trial.

    Raises:
        SpecError: a word is none of these, a range is empty, or a path is searched twice.
    """
    found: list[Dimension] = []
    fixed: list[str] = []
    for word in words:
        path, separator, text = word.partition("=")
        if not separator or not path or not text:
            raise SpecError(f"sweep: '{word}' is no path=low:high, path=a,b,c or path=value")
        dimension = _dimension(path, text, word)
        if dimension is None:
            fixed.append(word)
            continue
        if any(path == other.path for other in found):
            raise SpecError(f"sweep: '{path}' is searched twice; give it once")
        found.append(dimension)
    if not found:
        raise SpecError("sweep: nothing is searched; give a range, path=low:high, or a choice, path=a,b,c")
    return found, fixed


def read_rates(words: Sequence[str]) -> tuple[tuple[float, float], list[str]]:
    """The bounds of a learning-rate range test, LOW:HIGH (`RATES` where they are not said), and the overrides.

    Raises:
        SpecError: a word is neither, a bound is not positive, or something is to be searched besides.
    """
    bounds: tuple[float, float] | None = None
    fixed: list[str] = []
    for word in words:
        path, separator, text = word.partition("=")
        if separator:
            if path and text and _dimension(path, text, word) is not None:
                raise SpecError(
                    f"sweep --range-test: '{word}' would be searched; the test varies the learning rate alone"
                )
            fixed.append(word)
            continue
        numbers = [_number(part) for part in word.split(":")]
        low, high = numbers if len(numbers) == 2 else (None, None)
        if low is None or high is None or not 0 < low < high:
            raise SpecError(f"sweep --range-test: '{word}' is no LOW:HIGH of two rates above 0, such as 1e-6:1")
        if bounds is not None:
            raise SpecError(f"sweep --range-test: '{word}' is a second LOW:HIGH; give one")
        bounds = (low, high)
    return bounds or RATES, fixed


def _dimension(path: str, text: str, word: str) -> Dimension | None:
    """A range, a choice, or None of a plain value, such as a YAML list or text with a colon."""
    if text[0] in "[{\"'":
        return None
    if "," in text:
        values = tuple(value.strip() for value in text.split(","))
        if len(set(values)) < len(values) or "" in values:
            raise SpecError(f"sweep: '{word}': a choice needs different values, none of them empty")
        return Choice(path, values)
    parts = text.split(":")
    numbers = [_number(part) for part in parts[:2]]
    if len(parts) == 1 or all(number is None for number in numbers):
        return None
    return _range(path, parts, numbers, word)


def _range(path: str, parts: Sequence[str], numbers: Sequence[float | None], word: str) -> Range:
    low, high = numbers
    if low is None or high is None or len(parts) > 3:
        raise SpecError(f"sweep: '{word}': a range is low:high, low:high:log or low:high:linear, of two numbers")
    if not low < high:
        raise SpecError(f"sweep: '{word}': the range is empty; its first number must be the smaller one")
    scale = parts[2] if len(parts) == 3 else "log" if low > 0 and high / low >= WIDE else "linear"
    if scale not in ("log", "linear"):
        raise SpecError(f"sweep: '{word}': behind a range stands log or linear, not '{scale}'")
    if scale == "log" and low <= 0:
        raise SpecError(f"sweep: '{word}': a logarithmic range begins above 0")
    whole = all(_WHOLE.match(part) for part in parts[:2])
    return Range(path, low, high, scale == "log", whole)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def check_space(base: Run, space: Sequence[Dimension]) -> None:
    """Refuse a path that the recipe lacks, and values that it does not take, before anything is trained.

    Raises SpecError, which names the assignment.
    """
    for dimension in space:
        for value in dimension.tried_first():
            assignment = f"{dimension.path}={value}"
            try:
                override(base, [assignment])
            except SpecError as error:
                raise SpecError(f"sweep: '{assignment}' does not fit the recipe: {error}") from None
