"""Score a run on pictures with captions by finding one by the other, beside floors on the same ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from corestone.data.images.pairs import HeldOutPairs
from corestone.data.images.sources import describe
from corestone.evaluate.picture_floors import nearest_caption_floors
from corestone.parallel.collectives import World
from corestone.parallel.precision import Precision
from corestone.recipes.kept import about_checkpoint
from corestone.recipes.pairs import open_pairs
from corestone.recipes.picture_model import load_picture_model
from corestone.recipes.results import plain_metric, show, write
from corestone.recipes.spec import Run


def evaluate_pairs(
    path: Path, run: Run, precision: Precision, batch_size: int | None, console: Console
) -> list[dict[str, Any]]:
    """Score a run's newest whole checkpoint on the test side, or on the validation side where there is none."""
    if batch_size is not None:
        run = run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"batch_size": batch_size})})
    data, model = (
        open_pairs(run, World(rank=0, size=1, device=torch.device("cpu"))),
        load_picture_model(path, precision).model,
    )
    side = "test" if "test" in data.sides else "validation"
    metrics = list(data.scorer(run, side).run(model))
    known, asked = (captioned(data.pairs(name), run.evaluation.batch_size) for name in ("train", side))
    measured = nearest_caption_floors(known, asked, writes=model.generates == "captions")
    result: dict[str, Any] = {
        "checkpoint": about_checkpoint(path)["checkpoint"],
        "source": describe(data.spec.source),
        "split": side,
        "precision": str(next(model.parameters()).dtype).removeprefix("torch."),
        "model": [plain_metric(metric) for metric in metrics],
        "floors": [plain_metric(metric) for metric in measured],
    }
    write(path, [result])
    show(console, result, metrics, [], measured)
    return [result]


def captioned(pairs: HeldOutPairs, batch_size: int) -> tuple[torch.Tensor, list[tuple[str, ...]]]:
    """Pictures, and the captions of each."""
    return torch.cat([batch.images_BCHW for batch in pairs.images(batch_size)]), pairs.captions_of
