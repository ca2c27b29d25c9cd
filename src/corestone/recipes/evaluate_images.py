"""Score a run on pictures on those it was not trained on, beside floors measured on the same ones in the same call.

The report shows pictures that this module leaves in the run's folder:

    pictures/augmented.png           a grid of training pictures as the model saw them
    pictures/misclassified-00.png    held-out pictures of another class than the model says, in the order of
    ...                              `misclassified` in evaluation.json
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from corestone.core.metric import Metric
from corestone.data.images.augment import evaluation_picture
from corestone.data.images.picture_set import PictureSet
from corestone.data.images.preview import preview
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
from corestone.recipes.results import plain_metric, show, write
from corestone.recipes.spec import Run

Pixels = NDArray[np.uint8]

MISTAKES = 24
"""Misclassified pictures that are kept, the most confident mistakes first."""
GRID_BYTES, MISTAKE_BYTES = 110_000, 3_500
"""The grid and each mistake are made smaller until they take no more, so that a report stays below 200 kB of them."""
SMALL = 64
"""Pixels of a side up to which the grid has eight columns; four of larger pictures, which have more to show."""


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
    keep_pictures(path / "pictures", run, data, data.sides[side], misclassified(found))
    return metrics, measured, more


def _several_classes(model: Any, data: ImageData, side: str, run: Run, path: Path) -> Scored:
    """Of pictures to which several classes may apply."""
    rows, names = run.evaluation.batch_size, data.sides[side].classes
    metrics = list(precision_metrics(*scores_and_marks(model, data.batches(side), rows), names, IN_ORDER))
    measured = several_classes_floors(data.batches("train")(rows), data.batches(side)(rows), names)
    keep_pictures(path / "pictures", run, data, data.sides[side], np.zeros(0, dtype=np.int64))
    return metrics, measured, {}


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


def keep_pictures(folder: Path, run: Run, data: ImageData, side: PictureSet, wrong_N: NDArray[np.int64]) -> None:
    """Write the pictures for the report, in place of those of an earlier evaluation.

    Args:
        wrong_N: numbers of the misclassified pictures of the side.
    """
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    spec, batch = data.spec.augmentation, data.batch(run)[0]
    columns = min(8 if max(spec.size) <= SMALL else 4, batch)
    grid = preview(data.sides["train"], spec, run.seed, min(4, batch // columns), columns)
    (folder / "augmented.png").write_bytes(small_png(with_clear_gaps(grid, spec.size, columns), GRID_BYTES))
    for number, place in enumerate(wrong_N[:MISTAKES].tolist()):
        shown = evaluation_picture(spec, side.pixels(place)).permute(1, 2, 0).numpy()
        (folder / f"misclassified-{number:02d}.png").write_bytes(small_png(shown, MISTAKE_BYTES))


def with_clear_gaps(grid: Pixels, size: tuple[int, int], columns: int) -> Pixels:
    """A grid of pictures of this size with a further channel that lets the page show between them."""
    gap = (grid.shape[1] - columns * size[1]) // max(1, columns - 1)
    down, right = (np.arange(length) % (side + gap) < side for length, side in zip(grid.shape[:2], size, strict=True))
    return np.dstack([grid, np.where(down[:, None] & right, 255, 0).astype(np.uint8)])


def small_png(pixels: Pixels, most: int) -> bytes:
    """Pixels (H, W, 1 to 4: grey or colours, and what is opaque) as a PNG file, scaled down by as little as keeps it
    within so many bytes."""
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    width, height = picture.size
    for scale in 0.9 ** np.arange(40):
        size = max(1, round(width * scale)), max(1, round(height * scale))
        stream = io.BytesIO()
        (picture if size == picture.size else picture.resize(size, Image.Resampling.BOX)).save(stream, "png")
        if stream.tell() <= most:
            break
    return stream.getvalue()
