"""What dynamic evaluation needs of a run: float32 arithmetic, and gradients over the text it was trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corestone.core.errors import CheckpointError, SpecError
from corestone.core.metric import Metric
from corestone.data.loader import TextLoader
from corestone.evaluate.dynamic import root_mean_squares
from corestone.evaluate.spec import RMS, SGD
from corestone.parallel.collectives import World
from corestone.parallel.precision import Precision
from corestone.recipes.spec import Run
from corestone.recipes.text import open_text


def precision_with(dynamic: SGD | RMS | None, asked: Precision) -> Precision:
    """The format of the arithmetic. Raises SpecError for dynamic evaluation in bfloat16."""
    if dynamic is None:
        return asked
    if asked == "bfloat16":
        raise SpecError("evaluate: --dynamic takes steps that vanish in bfloat16; leave --precision out")
    return "float32"


def named_dynamic(metrics: Iterable[Metric], dynamic: SGD | RMS) -> list[Metric]:
    """Figures of a model that learnt while it read, told from the static ones by name and convention."""
    settings = ", ".join(f"{name} {value}" for name, value in dynamic.model_dump().items())
    return [
        replace(
            metric, name=f"{metric.name}_dynamic", convention=f"{metric.convention}; dynamic evaluation: {settings}"
        )
        for metric in metrics
    ]


def gradient_statistics(model: Any, path: Path, run: Run | None, dynamic: SGD | RMS | None) -> list[Tensor] | None:
    """What `RMS` needs to know of gradients over the run's own training text, in the run's own mixture; else None.

    Raises CheckpointError for a checkpoint without its run.
    """
    if not isinstance(dynamic, RMS):
        return None
    if run is None:
        raise CheckpointError(
            f"{path}: --dynamic rms needs the text of the training; give the run's folder, or use sgd"
        )
    data = open_text(run, World(rank=0, size=1, device=torch.device("cpu")))
    context = data.spec.context_length
    rows = max(1, round(dynamic.statistics_segments * dynamic.segment / context))
    loader = TextLoader(data.train, data.spec.model_copy(update={"prefetch": 0}), run.seed, rows)
    tokens = min(loader.epoch_units, dynamic.statistics_tokens or loader.epoch_units)
    steps = max(1, tokens // (rows * context))
    return root_mean_squares(model, (loader.batch(step) for step in range(steps)))
