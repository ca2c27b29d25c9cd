"""Score a run on pictures on those it was not trained on, beside floors measured on the same ones in the same call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from corestone.data.images.sources import describe
from corestone.data.images.spec import Images
from corestone.evaluate.classification import answers, classification_metrics, confusion_matrix, misclassified
from corestone.evaluate.picture_floors import picture_floors
from corestone.parallel.collectives import World, join_world
from corestone.parallel.precision import Precision, compute_dtype
from corestone.recipes.build import build_model, kept_buffers, load_weights, read_model_spec
from corestone.recipes.images import IN_ORDER, open_images
from corestone.recipes.kept import about_checkpoint
from corestone.recipes.results import plain_metric, show, write
from corestone.recipes.spec import Run
from corestone.train.archive import PICTURES, read_model_files


def load_picture_model(path: Path, precision: Precision = "auto") -> Any:
    """The model of a run's newest whole checkpoint, or of a checkpoint, that reads pictures; in evaluation mode."""
    world = join_world()
    text, tensors, _ = read_model_files(path, (PICTURES,))
    model = build_model(read_model_spec(text, f"{path}: model.yaml"), 0, world.device)
    load_weights({**dict(model.named_parameters()), **kept_buffers(model)}, tensors, str(path))
    return model.to(compute_dtype(precision, world.device)).eval()


def evaluate_images(
    path: Path, run: Run, precision: Precision, batch_size: int | None, console: Console
) -> list[dict[str, Any]]:
    """Score a run's newest whole checkpoint on the test side (the validation side where there is none), beside floors
    learnt from the training side."""
    if batch_size is not None:
        run = run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"batch_size": batch_size})})
    data, model = (
        open_images(run, World(rank=0, size=1, device=torch.device("cpu"))),
        load_picture_model(path, precision),
    )
    side, rows = "test" if "test" in data.sides else "validation", run.evaluation.batch_size
    found = answers(model, data.batches(side), rows)
    metrics = list(classification_metrics(found, data.sides[side].classes, IN_ORDER))
    measured = picture_floors(data.batches("train")(rows), data.batches(side)(rows))
    checkpoint = about_checkpoint(path)
    wrong = [
        (data.sides[side].id(int(place)), int(found.labels_N[place]), int(found.guesses_N[place]))
        for place in misclassified(found)
    ]
    result: dict[str, Any] = {
        "checkpoint": checkpoint["checkpoint"],
        "source": describe(run.data.source) if isinstance(run.data, Images) else "",
        "split": side,
        "precision": str(next(model.parameters()).dtype).removeprefix("torch."),
        "model": [plain_metric(metric) for metric in metrics],
        "floors": [plain_metric(metric) for metric in measured],
        "classes": list(data.sides[side].classes),
        "confusion": confusion_matrix(found.labels_N, found.guesses_N, found.classes).tolist(),
        "misclassified": wrong,
    }
    write(path, [result])
    show(console, result, metrics, [], measured)
    return [result]
