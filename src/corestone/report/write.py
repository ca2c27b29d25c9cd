"""The report: one HTML file that needs nothing else, for one run or for several side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from corestone import __version__
from corestone.core.errors import CheckpointError
from corestone.core.runlog import spelled
from corestone.report import figures, sections
from corestone.report.attention import attention_page
from corestone.report.captions import caption_page
from corestone.report.checks import checks
from corestone.report.compare import System, compare, held_out_curves, labels, summary
from corestone.report.data_sets import data_sets
from corestone.report.evaluations import kept
from corestone.report.folder import Run, read_run
from corestone.report.pictures import picture_page
from corestone.report.planned import held_to_account
from corestone.report.plots import picture
from corestone.report.range_test import range_test
from corestone.report.rehearsal import rehearsal
from corestone.report.units import PICTURES, unit_of

HERE = Path(__file__).parent


def write_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of one run, or a comparison of several.

    Args:
        runs: run folders; unfinished ones and those that lack files are reported as far as they go.
        out: the file to write, or an existing folder to write it into. None: `report.html` in the run folder, for
            several runs `comparison.html` in the working folder.

    Returns:
        The path of the file.

    Raises:
        CheckpointError: no run was given, a folder is no run, or the file cannot be written.
    """
    if not runs:
        raise CheckpointError("report: no run folder was given; give one or more")
    read = [read_run(folder) for folder in runs]
    name = "report.html" if len(read) == 1 else "comparison.html"
    path = (runs[0] / name if len(read) == 1 else Path(name)) if out is None else out / name if out.is_dir() else out
    if len(read) == 1:
        return write(path, render("run.html.j2", _page(read[0])))
    systems = [System(label, [run]) for label, run in zip(labels(read), read, strict=True)]
    return write(path, render("compare.html.j2", compare(systems)))


def write_comparison(runs: Mapping[str, Sequence[Path]], folder: Path) -> Path:
    """Write the comparison of systems, each with its run folders, into a folder.

    Returns:
        The path of comparison.html. Beside it stand comparison.json and a PNG of each curve on held-out text.

    Raises:
        CheckpointError: a folder is no run, or a file cannot be written.
    """
    systems = [System(name, [read_run(path) for path in paths]) for name, paths in runs.items()]
    for name, title, unit, series, look in held_out_curves(systems):
        write(folder / f"held-out-{name}.png", picture(series, title, unit, look))
    told = json.dumps(spelled(summary(systems)), indent=1, ensure_ascii=False, allow_nan=False)
    write(folder / "comparison.json", told.encode("utf-8", "backslashreplace"))
    return write(folder / "comparison.html", render("compare.html.j2", compare(systems)))


def write(path: Path, content: bytes) -> Path:
    """Replace a file in one move."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}.partial")
        fresh.write_bytes(content)
        os.replace(fresh, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror}); choose another --out") from None
    return path


def render(template: str, values: Mapping[str, Any]) -> bytes:
    """Fill a template. Everything is escaped but the drawings and the style sheet, which are our own."""
    jinja = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    jinja.filters["svg"] = Markup
    style = Markup((HERE / "report.css").read_text(encoding="utf-8"))
    return jinja.get_template(template).render(style=style, version=__version__, **values).encode("utf-8", "replace")


def _page(run: Run) -> dict[str, Any]:
    recipe = run.recipe or {}
    shown, between = sections.moments(run)
    mood, state = figures.state(run)
    on_pictures = unit_of(run) == PICTURES
    return {
        "title": str(recipe.get("name") or run.name),
        "folder": run.name,
        "description": str(recipe.get("description") or ""),
        "mood": mood,
        "state": state,
        "notes": run.notes,
        "held_out": unit_of(run).held_out.capitalize(),
        "headline": figures.headline(run),
        "range_test": range_test(run),
        "setup": sections.setup(run),
        "recipe_text": run.recipe_text,
        "machine": sections.machine(run),
        "data_sets": data_sets(run),
        "curves": sections.curves(run),
        "throughput": figures.throughput(run),
        "speed_charts": sections.speed_charts(run),
        "held": held_to_account(run.plan, figures.measured(run)),
        "evaluations": sections.evaluations(run),
        "kept": kept(run),
        "checks": checks(run),
        "rehearsal": rehearsal(run),
        "pictures": picture_page(run) if on_pictures else None,
        "captions": caption_page(run) if on_pictures else None,
        "attention": attention_page(run) if on_pictures else None,
        "moments": shown,
        "between": between,
        "anomalies": sections.anomalies(run),
        "checkpoints": sections.checkpoints(run),
        "commands": sections.commands(run),
    }
