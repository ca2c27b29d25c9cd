"""Published numbers to stand beside a task's measured ones: the best of each way out of the leaderboard's table."""

from __future__ import annotations

from pydantic import Field

from corestone.core.spec import Spec
from corestone.evaluate.leaderboard import Row, benchmarks, records


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


def published(task: str) -> tuple[PublishedRow, ...]:
    """The published rows of a task, the book's among them; empty where there are none."""
    found = []
    for benchmark in benchmarks():
        best = {row.way: row for row in records(benchmark)}.values() if task in benchmark.tasks else ()
        for row in best:
            found.append(
                PublishedRow(
                    tasks=benchmark.tasks,
                    metrics=(str(row.measure),),
                    system=row.system,
                    value=row.value,
                    unit=benchmark.unit,
                    year=int(str(row.date)[:4]),
                    source=row.source,
                    caveat=_caveat(row),
                )
            )
    return tuple(found)


def _caveat(row: Row) -> str:
    """How the number came about, and what the table notes."""
    data = {None: "its training data not told", "none": "no other training data"}.get(row.extra_data)
    parts = (
        f"{row.split or 'split not told'}",
        row.learning or "how it learnt is not told",
        f"counted: {row.counted}" if row.counted else "how it was counted is not told",
        data or f"trained on {row.extra_data}",
        row.note,
    )
    return "; ".join(part for part in parts if part)
