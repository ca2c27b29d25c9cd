"""What an evaluation found: on the terminal, as JSON, and in the run's folder."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from corestone.core.metric import Metric


def write(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Keep what a run reached on its own held-out data: `evaluation.json`."""
    content = results[0] | ({"others": results[1:]} if results[1:] else {})
    (path / "evaluation.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def show(
    console: Console,
    result: dict[str, Any],
    metrics: Sequence[Metric],
    dynamic: Sequence[Metric],
    measured: Sequence[Metric],
) -> None:
    """Print the model's figures and the floors'."""
    table = Table(title=f"{result['source']}, {result['split']} ({result['checkpoint']}, {result['precision']})")
    for name in ("metric", "value", "95 % interval", "unit", "n"):
        table.add_column(name, justify="left" if name in ("metric", "unit") else "right")
    for metric in metrics:
        table.add_row(f"[bold]{metric.name}[/]", *cells(metric))
    if dynamic:
        table.add_section()
    for metric in dynamic:
        table.add_row(f"[bold]{metric.name}[/], dynamic ({result['dynamic_settings']['kind']})", *cells(metric))
    if measured:
        table.add_section()
    for metric in measured:
        table.add_row(f"floor: {metric.name}", *cells(metric))
    console.print(table)


def plain_metric(metric: Metric) -> dict[str, Any]:
    """A metric for JSON, which has no infinities: a ruined model's perplexity becomes null."""
    told = {key: value for key, value in asdict(metric).items() if key != "convention" or value}
    return {**told, "value": metric.value if math.isfinite(metric.value) else None}


def cells(metric: Metric) -> list[str]:
    """A metric's value, interval, unit and n as a table shows them."""
    interval = "" if metric.interval is None else f"{metric.interval[0]:.4g} to {metric.interval[1]:.4g}"
    return [f"{metric.value:.5g}", interval, metric.unit, f"{metric.n:,}"]
