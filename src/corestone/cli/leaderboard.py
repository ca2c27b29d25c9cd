"""`corestone leaderboard`: the best published results on known data sets, and own runs beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from corestone.evaluate.leaderboard import Benchmark, Row
    from corestone.evaluate.papers_with_code import Dump


def leaderboard(
    dataset: Annotated[
        str | None,
        typer.Argument(
            help="A data set, such as wikitext103 or ImageNet: all its results. Default: one line for each."
        ),
    ] = None,
    add: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="A run folder whose evaluations stand beside; may be given several times."),
    ] = None,
    imported: Annotated[
        Path | None,
        typer.Option(
            "--import", metavar="FILE", help="Papers With Code's dump of results: evaluation-tables.json or .json.gz."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with plots of the best results over time.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the best results on known data sets, and own runs.

    Each result says whether it compares with the reference, which is the book's, or why not: another split, form of
    counting, way of learning or extra data, or that one of them is not told.
    """
    from rich.console import Console

    from corestone.evaluate.leaderboard import benchmarks, find, told

    shown, notes = benchmarks(), list[str]()
    if imported is not None:
        from corestone.evaluate.papers_with_code import read_dump

        dump = read_dump(imported, shown, dataset)
        shown = dump.benchmarks
        notes += _counts(imported, dump)
    if add:
        from corestone.report.own_rows import with_runs  # brings torch

        shown, more = with_runs(shown, add)
        notes += more
    if dataset is not None:
        shown = find(dataset, shown)
    if html is not None:
        from corestone.report.leaderboard import write_leaderboard  # brings matplotlib

        write_leaderboard(shown, html, notes)
    if as_json:
        typer.echo(json.dumps({"benchmarks": [told(one) for one in shown], "notes": notes}, indent=1))
        return
    console = Console()
    if dataset is None:
        _overview(console, shown)
    else:
        _details(console, shown)
    for note in [*notes, *([f"page: {html}"] if html else [])]:
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def _counts(path: Path, dump: Dump) -> list[str]:
    """What a dump gave and what was left out of it."""
    kept = f"{path}: {dump.read:,} results read, {dump.elsewhere:,} of other data sets left out"
    return [kept, *(f"{path}: left out {count:,} times: {reason}" for reason, count in sorted(dump.bad.items()))]


def _overview(console: Console, shown: Sequence[Benchmark]) -> None:
    """One line per benchmark: its reference, and the own runs."""
    from rich.table import Table

    from corestone.evaluate.leaderboard import reference

    table = Table("data set", title="Best results")
    for name in ("value", "unit", "model", "transformer", "params", "extra data", "date", "source"):
        table.add_column(name, justify="right" if name in ("value", "params") else "left")
    for benchmark in shown:
        against = reference(benchmark)
        own = [row for row in benchmark.rows if row.measured and row is not against]
        for row in [against, *own] if against else []:
            first = (benchmark.name, _value(row), benchmark.unit, row.system)
            table.add_row(*_escaped(first), *_escaped(_facts(row)))
    console.print(table)


def _details(console: Console, shown: Sequence[Benchmark]) -> None:
    """All results, by way, and whether each compares with the reference."""
    from rich.table import Table

    from corestone.evaluate.leaderboard import standings, way_label

    for benchmark in shown:
        groups = standings(benchmark)
        ways = [group[0].row.way for group in groups if group]
        table = Table("model", title=f"{benchmark.name}: {benchmark.metric}")
        for name in ("value", "compares", "transformer", "params", "extra data", "date", "source"):
            table.add_column(name, justify="right" if name in ("value", "params") else "left")
        for way, group in zip(ways, groups, strict=True):
            table.add_section()
            table.add_row(f"[bold]{_escaped([way_label(way, ways)])[0]}[/]")
            for one in group:
                answer = (
                    "reference" if one.reasons is None else "no: " + "; ".join(one.reasons) if one.reasons else "yes"
                )
                answer += f" (compares with {', '.join(one.peers)})" if one.peers else ""
                name = one.row.system + (" *" if one.record else "")
                table.add_row(*_escaped([name, _value(one.row), answer, *_facts(one.row)]))
        console.print(table)
        console.print("* a record of its kind when it was printed", highlight=False)
        for row in (one.row for group in groups for one in group):
            said = "; ".join(part for part in (row.counted, row.note) if part)
            if said:
                console.print(f"{row.system}: {said}", highlight=False, markup=False)


def _value(row: Row) -> str:
    return f"{row.value:.5g}" if row.measured else str(row.value)


def _facts(row: Row) -> tuple[str, ...]:
    from corestone.core.format import si

    shown = {"verified": "", "measured": ""}.get(row.evidence, f" ({row.evidence})")
    size = si(row.parameters) if row.parameters else ""
    return row.transformer or "", size, row.extra_data or "not told", row.date or "", row.source + shown


def _escaped(cells: Iterable[str]) -> list[str]:
    from rich.markup import escape

    return [escape(cell) for cell in cells]
