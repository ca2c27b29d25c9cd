"""Score a run on pictures on those it was not trained on, beside floors measured on the same ones in the same call.

The report shows pictures that are left in the run's folder (`recipes/report_pictures.py`): training pictures, and as
`misclassified` held-out ones of another class than the model says, and with maps those that a model attends to.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from corestone.core.metric import Metric
from corestone.data.images.picture_set import PictureSet
from corestone.data.images.sources import describe
from corestone.data.images.spec import Images
from corestone.evaluate.classification import (
    LISTED,
    Answers,
    answers,
    classification_metrics,
    confidence_bins,
    confusion_matrix,
    misclassified,
)
from corestone.evaluate.intervals import proportion_interval
from corestone.evaluate.picture_floors import picture_floors, several_classes_floors
from corestone.evaluate.several_classes import precision_metrics, scores_and_marks
from corestone.parallel.collectives import World
from corestone.parallel.precision import Precision
from corestone.recipes.images import IN_ORDER, ImageData, has_several, open_images
from corestone.recipes.kept import about_checkpoint
from corestone.recipes.picture_model import load_picture_model
from corestone.recipes.report_pictures import keep_attention, keep_pictures
from corestone.recipes.results import plain_metric, show, write
from corestone.recipes.spec import Run

MISTAKES = 24
"""Misclassified pictures that are kept, the most confident mistakes first."""


def evaluate_images(
    path: Path, run: Run, precision: Precision, batch_size: int | None, console: Console
) -> list[dict[str, Any]]:
    """Score a run's newest whole checkpoint on the test side (the validation side where there is none), beside floors
    learnt from the training side."""
    if batch_size is not None:
        run = run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"batch_size": batch_size})})
    data, model = (
        open_images(run, World(rank=0, size=1, device=torch.device("cpu"))),
        load_picture_model(path, precision).model,
    )
    side = "test" if "test" in data.sides else "validation"
    score = _several_classes if has_several(data.sides["train"]) else _one_class
    metrics, measured, more = score(model, data, side, run, path)
    result: dict[str, Any] = {
        "checkpoint": about_checkpoint(path)["checkpoint"],
        "source": describe(run.data.source) if isinstance(run.data, Images) else "",
        "split": side,
        "precision": str(next(model.parameters()).dtype).removeprefix("torch."),
        "model": [plain_metric(metric) for metric in metrics],
        "floors": [plain_metric(metric) for metric in measured],
        **more,
        "attention": keep_attention(path / "pictures", model, data, data.sides[side], _class_of(data.sides[side])),
    }
    write(path, [result])
    show(console, result, metrics, [], measured)
    return [result]


Scored = tuple[list[Metric], list[Metric], dict[str, Any]]
"""The model's metrics, the floors', and what else is kept of an evaluation."""


def _one_class(model: Any, data: ImageData, side: str, run: Run, path: Path) -> Scored:
    """Of pictures with one class each."""
    rows = run.evaluation.batch_size
    found = answers(model, data.batches(side), rows)
    metrics = list(classification_metrics(found, data.sides[side].classes, IN_ORDER))
    measured = picture_floors(data.batches("train")(rows), data.batches(side)(rows))
    more: dict[str, Any] = {
        "classes": list(data.sides[side].classes),
        "calibration": calibration(found),
        "misclassified": mistakes(found, data, side),
    }
    if found.classes <= LISTED:
        more["confusion"] = confusion_matrix(found.labels_N, found.guesses_N, found.classes).tolist()
    wrong = misclassified(found)[:MISTAKES].tolist()
    keep_pictures(path / "pictures", run, data, data.sides[side], {"misclassified": wrong})
    return metrics, measured, more


def _several_classes(model: Any, data: ImageData, side: str, run: Run, path: Path) -> Scored:
    """Of pictures to which several classes may apply."""
    rows, names = run.evaluation.batch_size, data.sides[side].classes
    metrics = list(precision_metrics(*scores_and_marks(model, data.batches(side), rows), names, IN_ORDER))
    measured = several_classes_floors(data.batches("train")(rows), data.batches(side)(rows), names)
    keep_pictures(path / "pictures", run, data, data.sides[side], {})
    return metrics, measured, {}


def _class_of(side: PictureSet) -> Callable[[int], str]:
    """The names of the classes that apply to a picture of a side."""

    def named(place: int) -> str:
        own = [label for label in np.atleast_1d(side.labels[place]).tolist() if label >= 0]
        return ", ".join(side.classes[label] for label in own)

    return named


def mistakes(found: Answers, data: ImageData, side: str) -> list[tuple[str, int, int]]:
    """Id, class and guess of each wrongly named picture, the most confident mistake first."""
    said = zip(found.places_N.tolist(), found.labels_N.tolist(), found.guesses_N.tolist(), strict=True)
    classes = {place: (label, guess) for place, label, guess in said}
    return [(data.sides[side].id(place), *classes[place]) for place in misclassified(found).tolist()]


def calibration(found: Answers) -> list[dict[str, Any]]:
    """The pictures of each bin of confidence that has some: how many, the mean confidence, the accuracy, its interval.

    The bins are those of `evaluate.classification.calibration_error`.
    """
    bins_N = confidence_bins(found.confidence_N)
    told = []
    for number in np.unique(bins_N):
        chosen_N = bins_N == number
        hits, n = int((found.guesses_N == found.labels_N)[chosen_N].sum()), int(chosen_N.sum())
        confidence = float(found.confidence_N[chosen_N].mean())
        interval = proportion_interval(hits, n)
        told.append({"n": n, "confidence": confidence, "accuracy": hits / n, "interval": interval})
    return told
