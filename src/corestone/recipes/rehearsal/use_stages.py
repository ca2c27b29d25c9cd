"""Stages of a rehearsal in which the trained model is used: scored, sampled, exported, imported, reported."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.console import Console

from corestone.core.errors import CheckpointError, DataError, Disagreement
from corestone.core.format import si
from corestone.core.metric import Metric
from corestone.data.images.spec import Images, Pairs
from corestone.recipes.checks.export_check import exported, imported_apart
from corestone.recipes.evaluate import evaluate as run_evaluation
from corestone.recipes.load import load_model, open_data
from corestone.recipes.picture_model import load_picture_model
from corestone.recipes.rehearsal.setting import Outcome, Setting, failed, passed, skipped
from corestone.recipes.rehearsal.stand_in import ALONE
from corestone.report.folder import metrics, read_run
from corestone.report.write import write_report
from corestone.train.archive import locate

LENGTH = 80
"""Characters of a sample that are shown."""


def evaluate(setting: Setting) -> Outcome:
    """The resumed run's newest checkpoint is scored on all held-out data beside its floors, as `corestone evaluate`
    does."""
    results = run_evaluation(setting.folder, console=Console(quiet=True))
    found = [metric for result in results for metric in result["model"]]
    first, floors = found[0], sum(len(result["floors"]) for result in results)
    ran = f"{len(found)} figures on the {results[0]['split']} side, {floors} floors"
    wrong = [metric["name"] for metric in found if metric["value"] is None]
    if wrong:
        return failed(ran, f"not finite: {', '.join(wrong)}")
    return passed(ran, f"{first['name']} {first['value']:.4g} {first['unit']} (n = {first['n']:,})")


def generate(setting: Setting) -> Outcome:
    """The model writes what the recipe asks of it: continuations, answers or captions."""
    model = _model(setting)
    if model.generates == "nothing":
        return skipped(f"a model of kind {setting.run.model.model_dump()['kind']} writes nothing")
    samples = setting.run.samples
    run = setting.run.model_copy(update={"samples": samples.model_copy(update={"prompts": samples.prompts or ("",)})})
    written = open_data(run, ALONE).samples(run, model)
    ran = f"{len(written)} {model.generates} of at most {samples.sampling.max_tokens} tokens"
    if not written:
        return failed(ran, "nothing was written")
    return passed(ran, repr("".join(written[0]))[:LENGTH])


def _model(setting: Setting) -> Any:
    if isinstance(setting.run.data, Images | Pairs):
        return load_picture_model(setting.folder).model
    return load_model(setting.folder)[0]


def export(setting: Setting) -> Outcome:
    """The model is written for another library, which the exporter does only where it computes the same."""
    try:
        library, checks = exported(locate(setting.folder), _out(setting))
    except Disagreement as error:
        return failed("", str(error))
    except (CheckpointError, DataError) as error:
        return skipped(f"no library can hold it ({error})")
    return passed(f"a folder for {library}", "; ".join(checks))


def _out(setting: Setting) -> Path:
    return setting.scratch / "exported"


def import_(setting: Setting) -> Outcome:
    """What was exported comes back as the same tensors."""
    gap, where = imported_apart(locate(setting.folder), _out(setting), setting.scratch / "imported")
    ran = "the exported folder as a checkpoint"
    return passed(ran, "all tensors equal bit for bit") if gap == 0 else failed(ran, f"{where} differs by {gap:.2g}")


def report(setting: Setting) -> Outcome:
    """The run's page is written, with all that its folder holds."""
    page = write_report([setting.folder])
    run = read_run(setting.folder)
    ran = f"{page.name} of {page.parent}"
    if run.notes:
        return failed(ran, "; ".join(run.notes))
    scored: list[Metric] = metrics(run.evaluation or {}, "model")
    if not any(math.isfinite(metric.value) for metric in scored):
        return failed(ran, "it has no evaluation")
    return passed(ran, f"{si(page.stat().st_size, 'B')}, {len(run.events.rows)} events, nothing unreadable")
