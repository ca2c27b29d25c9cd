"""The leaderboard as one HTML page that needs nothing else: the book's tables, then each data set with its history."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from corestone.core.format import si
from corestone.evaluate.leaderboard import Benchmark, Row, Standing, fold, records, reference, standings, way_label
from corestone.report.plots import COLOURS, Look, Series
from corestone.report.sections import Chart, chart
from corestone.report.write import render, write

YEARS = Look(years=True)
EVIDENCE = {"secondary": "told by others", "unverified": "unverified", "imported": "imported", "measured": "own run"}
"""What stands beside a source that was not itself read."""


def write_leaderboard(benchmarks: Sequence[Benchmark], path: Path, notes: Sequence[str] = ()) -> Path:
    """Write the page.

    Args:
        notes: what was left out on the way, shown first.

    Raises:
        CheckpointError: the file cannot be written.
    """
    tables = [
        (
            number,
            [(one, _line(Standing(row, None, False))) for one in benchmarks for row in one.rows if row.table == number],
        )
        for number in ("1.1", "1.2")
    ]
    values = {
        "title": "Best results",
        "notes": notes,
        "tables": [(number, rows) for number, rows in tables if rows],
        "sections": [_section(one) for one in benchmarks],
    }
    return write(path, render("leaderboard.html.j2", values))


def _section(benchmark: Benchmark) -> dict[str, Any]:
    groups, against = standings(benchmark), reference(benchmark)
    ways = [group[0].row.way for group in groups if group]
    direction = {True: "lower is better", False: "higher is better", None: "which way is better is not told"}
    return {
        "id": fold(benchmark.name),
        "name": benchmark.name,
        "unit": benchmark.unit,
        "about": f"{benchmark.metric}, {direction[benchmark.lower_is_better]}",
        "reference": against.system if against else None,
        "chart": history(benchmark),
        "groups": [
            (way_label(way, ways), [_line(one) for one in group]) for way, group in zip(ways, groups, strict=True)
        ],
    }


def _line(standing: Standing) -> dict[str, Any]:
    """A row of a table, as text."""
    row = standing.row
    return {
        "system": row.system,
        "note": row.note,
        "counted": row.counted,
        "value": f"{row.value:.5g}" if row.measured else str(row.value),
        "transformer": row.transformer,
        "parameters": si(row.parameters) if row.parameters else None,
        "extra_data": row.extra_data,
        "date": row.date,
        "source": row.source,
        "evidence": EVIDENCE.get(row.evidence),
        "mark": row.evidence,
        "record": standing.record,
        "reasons": standing.reasons,
        "peers": standing.peers,
    }


def history(benchmark: Benchmark) -> Chart:
    """The best result over time, one line per way; other dated rows are dots of its colour, own ones diamonds."""
    won, groups = records(benchmark), [group for group in standings(benchmark) if group]
    ways = [group[0].row.way for group in groups]
    last = max((_year(row) for row in benchmark.rows if row.date), default=0.0)
    series = []
    for place, group in enumerate(groups):
        colour, label = COLOURS[place % len(COLOURS)], way_label(ways[place], ways)
        own = [one.row for one in group if one.row.date and one.row.measured]
        best = [row for row in won if row.way == ways[place]]
        rest = [one.row for one in group if one.row.date and not one.record and not one.row.measured]
        if best:
            ends = [*best, best[-1]]
            x = [*map(_year, best), math.floor(last) + 1]
            series.append(Series(x, [row.value for row in ends], label, colour, "steps"))
        for rows, style, name in ((rest, "dots", f"{label}"), (own, "own", f"{label}, own runs")):
            if rows:
                series.append(Series([_year(row) for row in rows], [row.value for row in rows], name, colour, style))
    drawn = chart(f"over-{fold(benchmark.name)}", "Best over time", benchmark.unit, series, YEARS)
    lines = {colour for _, colour, style in drawn.legend if style == "steps"}
    return replace(drawn, legend=[one for one in drawn.legend if one[2] != "dots" or one[1] not in lines])


def _year(row: Row) -> float:
    """A date on the axis; where month or day is not told, the middle."""
    parts = [int(part) for part in str(row.date).split("-")]
    if len(parts) == 1:
        return parts[0] + 0.5
    return parts[0] + (parts[1] - 1 + ((parts[2] - 0.5) / 31 if len(parts) > 2 else 0.5)) / 12
