"""Rows for scaling laws: from run folders, or from a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from corestone.core.errors import CheckpointError, DataError, nearest, unknown
from corestone.core.metric import Metric
from corestone.core.runlog import number
from corestone.plan.rows import Dropped, Row
from corestone.report.figures import held_out, parameters
from corestone.report.folder import Run, read_run
from corestone.report.units import SHARES, Unit, common_unit, seen

NEEDED = ("parameters", "tokens", "loss")
COLUMNS = (*NEEDED, "flops", "step", "name")
"""Of a CSV file; the first three are needed."""


@dataclass(frozen=True)
class Measured:
    """Rows and what their numbers are.

    Attributes:
        dropped: runs that give no row.
        loss: what the loss is, with its unit.
        material: what runs see: tokens or pictures.
    """

    rows: tuple[Row, ...]
    dropped: tuple[Dropped, ...] = ()
    loss: str = "loss"
    material: str = "tokens"


def measured(paths: Sequence[Path], metric: str | None = None) -> Measured:
    """Read rows from run folders, or from one CSV file.

    Args:
        paths: run folders, folders of these, or a file.
        metric: of runs, by name; None is the one by which they are judged.

    Raises:
        DataError: a file or row that cannot be read, or runs whose losses do not compare.
        CheckpointError: no run folder.
    """
    files = [path for path in paths if path.is_file()]
    if files and len(paths) > 1:
        raise DataError(f"{files[0]}: a CSV file stands alone; give either run folders or one file")
    return Measured(tuple(read_csv(files[0]))) if files else read_runs(paths, metric)


def read_csv(path: Path) -> list[Row]:
    """Read rows from a CSV file with the columns parameters, tokens, loss and, where known, flops, step and name.

    A loss may be `nan` or `inf`: that run diverged.

    Raises:
        DataError: a column that is missing or unknown, or a cell that is no positive number, with its line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = [cell.strip() for cell in next(lines, [])]
            _check_header(path, header)
            return [_row(path, lines.line_num, header, cells) for cells in lines if any(cells)]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file in UTF-8; give a CSV file") from None
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num}: not valid CSV ({error})") from None


def _check_header(path: Path, header: Sequence[str]) -> None:
    for column in header:
        if column not in COLUMNS:
            raise DataError(f"{path}, line 1: {unknown('column', column, COLUMNS)}")
        if header.count(column) > 1:
            raise DataError(f"{path}, line 1: column '{column}' stands there twice; keep one")
    for column in NEEDED:
        if column not in header:
            raise DataError(f"{path}, line 1: column '{column}' is missing; the first line names {', '.join(NEEDED)}")


def _row(path: Path, line: int, header: Sequence[str], cells: Sequence[str]) -> Row:
    if len(cells) != len(header):
        raise DataError(f"{path}, line {line}: {len(cells)} cells, but the first line names {len(header)} columns")
    texts = dict(zip(header, (cell.strip() for cell in cells), strict=True))
    numbers = {name: _number(path, line, name, texts[name]) for name in COLUMNS[:-1] if texts.get(name)}
    for name in NEEDED:
        if name not in numbers:
            raise DataError(f"{path}, line {line}, column {name}: empty; give a number, or drop the line")
    return Row(
        parameters=numbers["parameters"],
        tokens=numbers["tokens"],
        loss=numbers["loss"],
        flops=numbers.get("flops"),
        step=int(numbers["step"]) if "step" in numbers else None,
        name=texts.get("name") or f"line {line}",
    )


def _number(path: Path, line: int, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{path}, line {line}, column {name}: '{text}' is not a number") from None
    if name != "loss" and not (math.isfinite(value) and value > 0):
        raise DataError(f"{path}, line {line}, column {name}: '{text}' is not a positive number")
    return value


def read_runs(folders: Sequence[Path], metric: str | None = None) -> Measured:
    """Read one row from each finished run: its size, what it saw, its compute as it was counted, and its loss.

    The loss is that of `evaluation.json`, over all of the held-out data; a share of what was right counts as one less
    it. Sizes are all parameters, embeddings among them.

    Raises:
        CheckpointError: no run folder, or runs on text and on pictures. DataError: runs that were scored on different
            data, or a metric that one of them lacks.
    """
    runs = [read_run(folder) for given in folders for folder in _folders(given)]
    unit = common_unit(runs)
    rows, dropped, scored = list[Row](), list[Dropped](), list[tuple[Run, Metric]]()
    for run in runs:
        found = _scored(run, metric)
        problem = _problem(run, found)
        if found is not None and problem is None:
            scored.append((run, found))
            rows.append(_of_run(run, found, unit))
        else:
            dropped.append(Dropped(Row(math.nan, math.nan, math.nan, name=str(run.folder)), problem or "", ""))
    _check_same(scored)
    if not scored:
        reasons = "; ".join(dict.fromkeys(one.reason for one in dropped))
        raise DataError(f"{folders[0]}: none of {len(runs)} runs can be used ({reasons}); let runs finish")
    one = scored[0][1]
    told = f"1 - {one.name}" if one.unit in SHARES else f"{one.name} ({one.unit})"
    return Measured(tuple(rows), tuple(dropped), told, unit.key)


def _folders(given: Path) -> Iterator[Path]:
    """A run folder, or those below a folder that is none."""
    below = sorted(path.parent for path in given.rglob("metrics.jsonl")) if given.is_dir() else []
    if (given / "recipe.yaml").is_file() or (given / "metrics.jsonl").is_file() or not below:
        if not given.exists():
            raise CheckpointError(f"{given}: there is no such file or folder; give run folders or a CSV file")
        below = [given]
    yield from below


def _scored(run: Run, metric: str | None) -> Metric | None:
    """The metric of a run's evaluation, None where it was not evaluated."""
    if metric is None:
        return held_out(run)
    metrics = {one.name: one for one in run.metrics("model")}
    if metrics and metric not in metrics:
        guess = nearest(metric, metrics)
        hint = f"did you mean '{guess}'? " if guess else ""
        raise DataError(f"{run.folder}: no metric '{metric}': {hint}it has {', '.join(metrics)}")
    return metrics.get(metric)


def _problem(run: Run, found: Metric | None) -> str | None:
    """Why a run gives no row."""
    if not run.events.of("end"):
        return "run is not finished"
    if found is None:
        return "run was not evaluated"
    return None if parameters(run) else "environment.json tells no parameter count"


def _of_run(run: Run, found: Metric, unit: Unit) -> Row:
    end = run.events.of("end")[-1]
    units, floors = seen(end) or math.nan, run.metrics("floors")
    rates = []
    for event in run.events.of("train"):
        flops, speed = number(event, "flops_per_second"), number(event, unit.speed_key)
        if flops and speed:
            rates.append(flops / speed)
    return Row(
        parameters=float(parameters(run) or math.nan),
        tokens=units,
        loss=1 - found.value if found.unit in SHARES else found.value,
        flops=units * sorted(rates)[len(rates) // 2] if rates else None,  # the same in all events, but for rounding
        step=end["step"],
        name=str(run.folder),
        guess=next((one.value for one in floors if one.name.startswith("unigram") and one.unit == found.unit), None),
    )


def _check_same(scored: Sequence[tuple[Run, Metric]]) -> None:
    """Refuse runs that were scored by another metric, or on more or less held-out data, than the first."""
    for run, found in scored:
        first, other = scored[0]
        if (found.name, found.unit, found.n) != (other.name, other.unit, other.n):
            raise DataError(
                f"{run.folder}: scored by {found.name} over {found.n:,}, but {first.folder} by {other.name} over "
                f"{other.n:,}; give runs with the same held-out data and tokenizer"
            )
