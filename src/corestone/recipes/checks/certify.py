"""Try a recipe's promises and write down what came of it."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from corestone.core.environment import environment
from corestone.core.errors import CorestoneError, SpecError, unknown
from corestone.core.runlog import spelled
from corestone.core.spec import fingerprint, plain
from corestone.parallel.collectives import World
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.checks.context import Context, open_context
from corestone.recipes.checks.finding import Finding, failed
from corestone.recipes.checks.registry import CHECKS
from corestone.recipes.load import is_run
from corestone.recipes.pretrain import changed_paths
from corestone.recipes.spec import Run
from corestone.report.folder import CERTIFICATE
from corestone.report.write import write

VERSION = 1
CPU = World(rank=0, size=1, device=torch.device("cpu"))
"""Where checks run: what is promised bit for bit is promised there, and two ranks need no two GPUs."""


def check(
    recipe: str, names: Sequence[str], assignments: Sequence[str], out: Path | None, console: Console
) -> dict[str, Any]:
    """Run checks on a recipe, scaled down, and keep the certificate.

    Args:
        recipe: as `pretrain` takes it, or the folder of a run, whose recipe it is.
        names: which checks; none: all.
        out: the file of the certificate; None: `check.json` in the run's folder, where there is one of this recipe.

    Returns:
        The certificate: `recipe`, `scaled`, `environment`, `checks` (each a finding with its name and seconds) and
        `passed`, which is False where one failed.

    Raises:
        SpecError: an unknown name of a check, or one of several ranks.
    """
    for name in names:
        if name not in CHECKS:
            raise SpecError(unknown("check", name, CHECKS))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SpecError("check: starts the ranks it needs itself; call it without torchrun")
    source = str(Path(recipe) / "recipe.yaml") if is_run(Path(recipe)) else recipe
    whole = find_recipe(source, [*assignments])
    chosen = [name for name in CHECKS if not names or name in names]
    with tempfile.TemporaryDirectory(prefix="corestone-check-") as scratch:
        ctx, told = open_context(source, assignments, CPU, Path(scratch))
        console.print(f"[bold]{whole.name}[/], scaled down: {'; '.join(told)}", highlight=False)
        found = [(name, *tried(name, ctx, console)) for name in chosen]
    told_all = {
        "version": VERSION,
        "recipe": whole.name,
        "fingerprint": fingerprint(plain(whole)),
        "scaled": told,
        "environment": environment() | {"threads": torch.get_num_threads()},
        "time": round(time.time(), 3),
        "checks": [{"name": name, **_plain(one), "seconds": round(took, 3)} for name, one, took in found],
        "passed": all(one.verdict != "fail" for _, one, _ in found),
    }
    certificate: dict[str, Any] = spelled(told_all)  # JSON has no word for what is not finite
    console.print(table(whole.name, found))
    keep(certificate, whole, recipe, out, console)
    return certificate


def tried(name: str, ctx: Context, console: Console) -> tuple[Finding, float]:
    """A check's finding and its seconds. One that breaks off has failed: models and objectives may be the user's own,
    and raise anything."""
    begun = time.perf_counter()
    with console.status(name):
        try:
            found = CHECKS[name](ctx)
        except CorestoneError as error:
            found = failed("", str(error))
        except Exception as error:
            found = failed("", f"broke off with {type(error).__name__}: {error}")
    return found, time.perf_counter() - begun


def table(title: str, found: Sequence[tuple[str, Finding, float]]) -> Table:
    """What was compared, the worst difference, the tolerance, the verdict, the seconds; of what did not pass, why. The
    certificate and the report have the notes of all."""
    shown = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("check", "verdict", "worst", "tolerance", "seconds", "compared"):
        shown.add_column(column, justify="right" if column in ("worst", "tolerance", "seconds") else "left")
    colours = {"pass": "green", "fail": "red", "skipped": "yellow"}
    for name, one, took in found:
        why = one.note if one.verdict != "pass" else ""
        told = "\n".join(filter(None, [one.compared, why]))
        figures = ["" if figure is None else f"{figure:.2g}" for figure in (one.worst, one.tolerance)]
        shown.add_row(name, f"[{colours[one.verdict]}]{one.verdict}[/]", *figures, f"{took:.1f}", Text(told))
    return shown


def keep(certificate: dict[str, Any], run: Run, recipe: str, out: Path | None, console: Console) -> None:
    """Write the certificate where it was asked for, or into the folder of a run of this recipe."""
    folder = Path(recipe) if is_run(Path(recipe)) else Path("runs") / run.name
    if out is None:
        if not is_run(folder) or changed_paths(run, folder):  # of another recipe this says nothing
            return
        out = folder / CERTIFICATE
    write(out, json.dumps(certificate, indent=1, allow_nan=False).encode())
    console.print(f"kept {out}", highlight=False, markup=False, soft_wrap=True)


def _plain(found: Finding) -> dict[str, Any]:
    return {
        "compared": found.compared,
        "worst": found.worst,
        "tolerance": found.tolerance,
        "verdict": found.verdict,
        "note": found.note,
        "details": dict(found.details),
    }
