"""The dump of results that Papers With Code published, `evaluation-tables.json` or .json.gz, read task by task.

The site has shut down. Its dump is a JSON array of tasks; a task holds data sets and further tasks, a data set holds
further ones and a table of rows (paperswithcode/sota-extractor, taskdb/v01/schemas.py). The dump tells neither how a
figure was counted nor how a model learnt, so its rows come with protocols that are mostly not told.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from corestone.core.errors import DataError, SpecError
from corestone.core.spec import parse
from corestone.evaluate.leaderboard import DATE, Benchmark, Row, fold, merged

CHUNK = 1 << 16
MAX_TASK = 1 << 28
"""Characters of one task with all below it: what a damaged or hostile file can make the reader hold."""
PARAMETERS = ("Number of params", "Number of Params", "Params", "Parameters")
"""What the dump calls a model's size, between its metrics."""


@dataclass
class Dump:
    """What a dump gave.

    Attributes:
        benchmarks: the known ones with the dump's rows.
        read: rows that were taken over.
        elsewhere: rows of other data sets.
        bad: rows and places that could not be read, by reason.
    """

    benchmarks: tuple[Benchmark, ...]
    read: int = 0
    elsewhere: int = 0
    bad: Counter[str] = field(default_factory=Counter)


def read_dump(path: Path, known: Sequence[Benchmark], asked: str | None = None) -> Dump:
    """Add the dump's rows on known data sets to their benchmarks.

    Args:
        asked: the name of one more data set. Where none of the known is called so, the dump's tables of that name
            become benchmarks of their own, by their first metric; nobody tells which direction is better there.

    Raises:
        DataError: the file holds no JSON array. OSError: it cannot be read.
    """
    dump = Dump(tuple(known))
    found: dict[str, list[Row]] = {}
    fresh: dict[str, Benchmark] = {}
    by_name: dict[str, list[Benchmark]] = {}
    for benchmark in known:
        for name in benchmark.imports.datasets if benchmark.imports else ():
            by_name.setdefault(fold(name), []).append(benchmark)
    for name, sota in _tables(items(path, dump.bad), dump.bad):
        rows = _list(sota, "rows", dump.bad)
        wanted = by_name.get(fold(name), [])
        metrics = [str(metric) for metric in _list(sota, "metrics", dump.bad)]
        if not wanted and asked is not None and fold(name) == fold(asked) and metrics:
            fresh.setdefault(name, _own_table(name, metrics[0]))
            wanted = [fresh[name]]
        if not wanted:
            dump.elsewhere += len(rows)
        for benchmark in wanted:
            taken = found.setdefault(benchmark.name, [])
            taken += [row for item in rows if (row := _row(item, benchmark, dump.bad)) is not None]
    for name, taken in found.items():
        found[name] = list({(row.system, row.value, row.source, row.split): row for row in taken}.values())
    dump.benchmarks = merged([*known, *fresh.values()], found)
    dump.read = sum(len(one.rows) for one in dump.benchmarks) - sum(len(one.rows) for one in known)
    return dump


def _own_table(name: str, metric: str) -> Benchmark:
    tree = {"name": name, "metric": metric, "unit": metric, "lower_is_better": None, "rows": ()}
    return parse(Benchmark, {**tree, "imports": {"datasets": [name], "metrics": {metric: {}}}}, name)


def items(path: Path, bad: Counter[str]) -> Iterator[Any]:
    """The items of a file that holds one JSON array, plain or compressed by gzip, one in memory at a time.

    Where the file is damaged or ends early, what stood before is given, and the damage is counted.

    Raises:
        DataError: it holds no array.
    """
    with path.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    with gzip.open(path) if compressed else path.open("rb") as binary:
        reader = _Reader(TextIOWrapper(binary, encoding="utf-8-sig", errors="replace"))
        if reader.sign() != "[":
            raise DataError(f"{path}: holds no JSON array; give evaluation-tables.json of Papers With Code, or its .gz")
        try:
            if reader.sign() == "]":
                return
            reader.place -= 1
            while True:
                yield reader.item()
                sign = reader.sign()
                if sign == "]":
                    return
                if sign != ",":
                    raise EOFError
        except (EOFError, RecursionError):
            bad["a task that is cut off or no JSON, and all behind it"] += 1


class _Reader:
    """Text of which one item at a time is held. EOFError: it ends, or an item cannot be read."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.text, self.place, self.decoder = stream, "", 0, json.JSONDecoder()

    def more(self, size: int) -> None:
        """Forget what was read and hold more of what follows."""
        try:
            fresh = self.stream.read(size)
        except (OSError, zlib.error):
            raise EOFError from None
        if not fresh:
            raise EOFError
        self.text, self.place = self.text[self.place :] + fresh, 0

    def sign(self) -> str:
        """The next character that is no space."""
        while True:
            while self.place < len(self.text):
                self.place += 1
                if not self.text[self.place - 1].isspace():
                    return self.text[self.place - 1]
            try:
                self.more(CHUNK)
            except EOFError:
                return ""

    def item(self) -> Any:
        """The next value, up to the comma or bracket behind it."""
        self.sign()
        self.place -= 1
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.place)
                if self.text[end:].strip():  # a number might go on, were it the last in hand
                    self.place = end
                    return value
            except ValueError:
                pass
            held = len(self.text) - self.place
            if held > MAX_TASK:
                raise EOFError
            self.more(max(CHUNK, held))  # twice as much each time, so that a long task is not parsed over and over


def _tables(tasks: Iterator[Any], bad: Counter[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each data set's name and table, of all tasks and what lies below them."""
    for task in tasks:
        below = [("a task", task)]
        while below:
            what, node = below.pop()
            if not isinstance(node, dict):
                bad[f"{what} that is no object"] += 1
                continue
            name, sota = node.get("dataset") or node.get("subdataset"), node.get("sota")
            if isinstance(sota, dict) and isinstance(name, str):
                yield name, sota
            elif what == "a data set":
                bad["a data set without a name or a table"] += 1
            below += [("a task", item) for item in _list(node, "subtasks", bad)]
            below += [("a data set", item) for key in ("datasets", "subdatasets") for item in _list(node, key, bad)]


def _list(node: Mapping[str, Any], key: str, bad: Counter[str]) -> list[Any]:
    value = node.get(key)
    if value is not None and not isinstance(value, list):
        bad[f"{key} that are no list"] += 1
    return value if isinstance(value, list) else []


def _row(item: Any, benchmark: Benchmark, bad: Counter[str]) -> Row | None:
    """A row of the dump in a benchmark; None where it has no figure of that kind, or cannot be read."""
    metrics = item.get("metrics") if isinstance(item, dict) else None
    if not isinstance(metrics, dict) or benchmark.imports is None:
        bad["a row without metrics"] += 1
        return None
    name = next((name for name in benchmark.imports.metrics if metrics.get(name) not in (None, "")), None)
    if name is None:
        return None
    value = number(metrics[name])
    if value is None:
        bad["a row whose value is no number"] += 1
        return None
    size = next((number(metrics[key]) for key in PARAMETERS if key in metrics), None)
    date = item.get("paper_date")
    tree = {
        **benchmark.imports.metrics[name].model_dump(),
        "shots": None,
        # False is also what the dump says where nobody was asked.
        "extra_data": "some, not named" if item.get("uses_additional_data") is True else None,
        "system": item.get("model_name"),
        "value": value,
        "parameters": size if size and size > 0 else None,
        "date": date if isinstance(date, str) and re.match(DATE, date) else None,
        "source": _source(item),
        "evidence": "imported",
    }
    try:
        return parse(Row, tree, "row")
    except SpecError:
        bad["a row without a model's name"] += 1
        return None


def _source(item: Mapping[str, Any]) -> str:
    """The paper, named as the shipped table names it."""
    url = str(item.get("paper_url") or "")
    found = re.search(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})", url)
    return f"arXiv {found[1]}" if found else str(item.get("paper_title") or url or "no paper named")


def number(said: Any) -> float | None:
    """A figure as the dump spells it: `99.5%`, `10.60`, `65.0 ± 0.1`, `1,542M`; None where it is none."""
    if isinstance(said, bool) or not isinstance(said, (str, int, float)):
        return None
    text = re.split(r"±|\+/-|\(", str(said))[0].strip().removesuffix("%").strip()
    found = re.fullmatch(
        r"([+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:e[+-]?\d+)?)\s*([KMBGT]?)", text, re.IGNORECASE
    )
    try:
        value = float(found[1].replace(",", "")) if found else math.nan
    except ValueError:
        return None
    factor = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}[found[2].upper()] if found else 1.0
    return value * factor if math.isfinite(value * factor) else None
