"""Best results on known data sets, and whether a result compares with another. Imports no torch.

The table is `leaderboard.yaml`, the one place of published figures. Whoever adds rows, out of runs or out of a dump,
adds them to its benchmarks, so that all are ordered, judged and shown in one way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import Field

from corestone.core.errors import SpecError, unknown
from corestone.core.spec import Spec, from_yaml, plain

DATE = r"^\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?$"
"""A year, month or day."""


class Protocol(Spec):
    """What must be the same in two results for them to compare. None: the source does not tell it.

    Attributes:
        measure: our name for a figure of this kind.
        counted: the form of the data, and what the figure was divided by.
        learning: trained (on the set's training side), fine-tuned, zero-shot, few-shot, and what was learnt in testing.
        shots: examples before each question.
        extra_data: training data beside the set's own training side; `none` where there was none.
    """

    measure: str | None = None
    counted: str | None = None
    split: str | None = None
    learning: str | None = None
    shots: int | None = 0
    extra_data: str | None = None

    @property
    def way(self) -> tuple[str | None, ...]:
        """The kind of figure. Records are counted within it, whatever data was used."""
        return self.measure, self.split, self.learning


class Measured(Spec):
    """The evidence of an own result.

    Attributes:
        run: its folder.
        weights: 16 hex digits of the sha256 of the checkpoint's weights; None where the checkpoint is gone.
    """

    run: str
    checkpoint: str
    weights: str | None


class Row(Protocol):
    """A result.

    Attributes:
        transformer: partly, where attention is one of several ways in which tokens or pixels mix.
        date: year, month or day of the source that gives the value.
        evidence: verified in paper or code, secondary (told by others), unverified (from memory; such a row is shown,
            but never counts as a record), imported (from a dump, as it stands there), measured (an own run).
        table: the book's table that has this row.
    """

    system: str = Field(min_length=1)
    value: float
    transformer: Literal["yes", "partly", "no"] | None = None
    parameters: float | None = Field(default=None, gt=0)
    date: str | None = Field(default=None, pattern=DATE)
    source: str
    evidence: Literal["verified", "secondary", "unverified", "imported", "measured"]
    note: str = ""
    table: Literal["1.1", "1.2"] | None = None
    measured: Measured | None = None


class Imports(Spec):
    """The names that Papers With Code has for a data set and its metrics, and what each tells of the protocol."""

    datasets: tuple[str, ...]
    metrics: dict[str, Protocol]


class Benchmark(Spec):
    """A data set and what is asked of it.

    Attributes:
        lower_is_better: None where nobody told; such a benchmark has no records.
        measures: our names of the figures that belong here.
        tasks: our names of the tasks that measure them.
        splits: sizes (words, characters, passages or documents) by which a split is recognised.
        training, training_characters: files and hub sets, or the size, by which the training side is recognised.
    """

    name: str
    metric: str
    unit: str
    lower_is_better: bool | None
    measures: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    splits: dict[str, int] = Field(default_factory=dict)
    training: tuple[str, ...] = ()
    training_characters: int | None = None
    imports: Imports | None = None
    rows: tuple[Row, ...]

    def with_rows(self, more: Iterable[Row]) -> Benchmark:
        """The same with further rows, those left out that say the same of the same source."""
        seen = {(row.source, row.value, row.split) for row in self.rows}
        return self.model_copy(
            update={"rows": self.rows + tuple(r for r in more if (r.source, r.value, r.split) not in seen)}
        )


class _Table(Spec):
    benchmarks: tuple[Benchmark, ...]


@cache
def benchmarks() -> tuple[Benchmark, ...]:
    """The shipped table."""
    text = resources.files("corestone.evaluate").joinpath("leaderboard.yaml").read_text(encoding="utf-8")
    return from_yaml(_Table, text, "leaderboard.yaml").benchmarks


def fold(name: str) -> str:
    """A data set's name for comparison: letters and digits alone, so that WikiText-103 is wikitext103."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def find(name: str, known: Sequence[Benchmark]) -> tuple[Benchmark, ...]:
    """The benchmarks of a data set, named as the table, a task or Papers With Code names it.

    Raises:
        SpecError: there is none.
    """
    wanted = fold(name)
    found = tuple(one for one in known if wanted in {fold(alias) for alias in _aliases(one)})
    if not found:
        raise SpecError(f"leaderboard: {unknown('data set', name, {one.name for one in known})}")
    return found


def _aliases(benchmark: Benchmark) -> tuple[str, ...]:
    imported = benchmark.imports.datasets if benchmark.imports else ()
    return (benchmark.name, benchmark.name.partition(" (")[0], *benchmark.tasks, *imported)


def comparable(row: Protocol, protocol: Protocol) -> tuple[str, ...]:
    """Why a result does not compare with one of a protocol; empty where it does.

    What is not told on one side may differ, so it is a reason too.
    """
    pairs = {
        "figure": (row.measure, protocol.measure),
        "form": (row.counted, protocol.counted),
        "split": (row.split, protocol.split),
        "learning": (row.learning, protocol.learning),
        "examples": (row.shots, protocol.shots),
        "extra data": (row.extra_data, protocol.extra_data),
    }
    reasons = []
    for name, (own, other) in pairs.items():
        if own is None:
            reasons.append(f"{name} not told")
        elif other is None:
            reasons.append(f"{name} of the other one not told")
        elif own != other:
            reasons.append(f"{name}: {_said(own)}, not {_said(other)}")
    return tuple(reasons)


def _said(value: str | int) -> str:
    return str(value).replace("_", " ")  # the names of our metrics


@dataclass(frozen=True)
class Standing:
    """A row of a benchmark, judged.

    Attributes:
        reasons: why it does not compare with the reference; empty where it does. None: it is the reference.
        record: better than all before it of its way.
        peers: for an own row, the systems that it does compare with.
    """

    row: Row
    reasons: tuple[str, ...] | None
    record: bool
    peers: tuple[str, ...] = ()


def reference(benchmark: Benchmark) -> Row | None:
    """The row that the others are compared with: the book's, or else the first."""
    return next((row for row in benchmark.rows if row.table), next(iter(benchmark.rows), None))


def records(benchmark: Benchmark) -> list[Row]:
    """The published rows that were better than all earlier ones of their way, oldest first."""
    if benchmark.lower_is_better is None:
        return []
    sign = 1 if benchmark.lower_is_better else -1
    dated = [row for row in benchmark.rows if row.date and row.evidence not in ("unverified", "measured")]
    best: dict[tuple[str | None, ...], float] = {}
    found = []
    for row in sorted(dated, key=lambda row: (str(row.date), sign * row.value)):
        if sign * row.value < best.get(row.way, float("inf")):
            best[row.way] = sign * row.value
            found.append(row)
    return found


def standings(benchmark: Benchmark) -> list[list[Standing]]:
    """The rows by way, that of the reference first, and within a way the best first."""
    against, won = reference(benchmark), {id(row) for row in records(benchmark)}
    ways: dict[tuple[str | None, ...], list[Standing]] = {} if against is None else {against.way: []}
    for row in benchmark.rows:
        reasons = None if against is None or row is against else comparable(row, against)
        others = [other.system for other in benchmark.rows if other is not row and not comparable(row, other)]
        peers = tuple(others) if row.measured else ()
        ways.setdefault(row.way, []).append(Standing(row, reasons, id(row) in won, peers))
    if benchmark.lower_is_better is not None:
        sign = 1 if benchmark.lower_is_better else -1
        for group in ways.values():
            group.sort(key=lambda standing: sign * standing.row.value)
    return list(ways.values())


def told(benchmark: Benchmark) -> dict[str, Any]:
    """A benchmark for JSON, each row with its standing."""
    against = reference(benchmark)
    return {
        "dataset": benchmark.name,
        "metric": benchmark.metric,
        "unit": benchmark.unit,
        "lower_is_better": benchmark.lower_is_better,
        "reference": against.system if against else None,
        "rows": [
            {
                **plain(standing.row),
                "comparable": not standing.reasons,
                "reasons": list(standing.reasons or ()),
                "record": standing.record,
                "compares_with": list(standing.peers),
            }
            for group in standings(benchmark)
            for standing in group
        ],
    }


def way_label(way: tuple[str | None, ...], others: Iterable[tuple[str | None, ...]]) -> str:
    """A way in words: the parts in which it differs from others of its benchmark, or all of it where it is alone."""
    among = list(others)
    differs = [len({other[place] for other in among}) > 1 for place in range(len(way))]
    parts = zip(way, ("figure not told", "split not told", "learning not told"), differs, strict=True)
    return ", ".join(_said(part or absent) for part, absent, differ in parts if differ or not any(differs))


def merged(known: Sequence[Benchmark], more: Mapping[str, Sequence[Row]]) -> tuple[Benchmark, ...]:
    """Benchmarks with further rows by name."""
    return tuple(one.with_rows(more[one.name]) if one.name in more else one for one in known)
