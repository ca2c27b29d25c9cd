"""Published numbers to stand beside measured ones: a table (`published.yaml`), each row with its caveat."""

from __future__ import annotations

from functools import cache
from importlib import resources

from pydantic import Field

from corestone.core.spec import Spec, from_yaml


class PublishedRow(Spec):
    """A number of a paper.

    Attributes:
        tasks: names of our tasks on the same data.
        metrics: names of our metrics of the same kind.
        year: of the source.
        caveat: why it may not be comparable.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    metrics: tuple[str, ...] = Field(min_length=1)
    system: str
    value: float
    unit: str
    year: int
    source: str
    caveat: str


class _Table(Spec):
    rows: tuple[PublishedRow, ...]


@cache
def published(task: str) -> tuple[PublishedRow, ...]:
    """The published rows of a task; empty where there are none."""
    text = resources.files("corestone.evaluate").joinpath("published.yaml").read_text(encoding="utf-8")
    return tuple(row for row in from_yaml(_Table, text, "published.yaml").rows if task in row.tasks)
