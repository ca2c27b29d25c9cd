"""How well a model says which of several classes apply to held-out pictures: mean average precision.

Shape letters: N pictures, B those of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corestone.core.batch import ImageBatch
from corestone.core.errors import DataError
from corestone.core.metric import Metric
from corestone.evaluate.classification import Batches
from corestone.evaluate.intervals import bootstrap_interval
from corestone.nn.modes import evaluation_mode

UNIT = "precision"
Scores = NDArray[np.float32]
Marks = NDArray[np.bool_]


def scores_and_marks(model: Any, batches: Batches, batch_size: int) -> tuple[Scores, Marks]:
    """A classifier's logits of a split, and which classes apply, both (N, K): five bytes per picture and class.

    Raises DataError where the pictures have no classes.
    """
    device = next(iter(model.named_parameters()))[1].device
    scores, marks = [], []
    with evaluation_mode(model), torch.inference_mode():
        for batch in batches(batch_size):
            marks.append(_marks(batch))
            scores.append(model.head(model(batch.to(device)).hidden).float().cpu().numpy())
    return np.concatenate(scores), np.concatenate(marks)


def _marks(batch: ImageBatch) -> Marks:
    if batch.targets_BK is None:
        raise DataError("evaluation: the pictures have no classes; give data with labels")
    return np.asarray(batch.targets_BK.cpu().numpy() > 0)


def precision_metrics(
    scores_NK: NDArray[np.floating], marks_NK: Marks, names: Sequence[str], reading: str = ""
) -> Iterator[Metric]:
    """Yield `mean_average_precision`, over the classes that apply to some picture and not to all, with an interval that
    resamples pictures, and each of these classes' `average precision of NAME`.

    Raises DataError where there is no such class.
    """
    ranked = [_Ranked(scores_NK[:, k], marks_NK[:, k]) for k in range(len(names))]
    n, kept = len(marks_NK), [k for k in range(len(names)) if 0 < marks_NK[:, k].sum() < len(marks_NK)]
    if not kept:
        raise DataError("evaluation: no class applies to some of the pictures and not to others; give more of them")

    def mean(weights_N: NDArray[np.float64]) -> float:
        return float(np.nanmean([ranked[k].average_precision(weights_N) for k in kept]))

    value = mean(np.ones(n))
    ends = bootstrap_interval(lambda picks: mean(np.bincount(picks, minlength=n).astype(np.float64)), n, value)
    interval = None if ends is None else (max(0.0, ends[0]), min(1.0, ends[1]))
    said = "; ".join(filter(None, [f"mean over {len(kept)} of {len(names)} classes", reading]))
    yield Metric("mean_average_precision", value, UNIT, n, interval, said)
    for k in kept:
        applies = int(marks_NK[:, k].sum())
        said = "; ".join(
            filter(None, [f"applies to {applies:,} of {n:,} pictures, {applies / n:.3f} by chance", reading])
        )
        precision = ranked[k].average_precision(np.ones(n))
        yield Metric(f"average precision of {names[k]}", precision, UNIT, n, None, said)


def average_precision(scores_N: NDArray[np.floating], marks_N: Marks) -> float:
    """The mean, over the pictures that a class applies to, of the share of such pictures among those that score as high
    or higher; equal scores stand in no order, so they are taken together."""
    return _Ranked(scores_N, marks_N).average_precision(np.ones(len(marks_N)))


class _Ranked:
    """Pictures from the highest score down, so that weights of pictures need no further sorting."""

    def __init__(self, scores_N: NDArray[np.floating], marks_N: Marks) -> None:
        self._order_N = np.argsort(-scores_N, kind="stable")
        descending_N = scores_N[self._order_N]
        self._marks_N = marks_N[self._order_N].astype(np.float64)
        self._last_N = np.append(np.flatnonzero(np.diff(descending_N)), len(scores_N) - 1)  # of each run of equal ones

    def average_precision(self, weights_N: NDArray[np.float64]) -> float:
        """Of pictures that count so many times each; not a number where the class applies to none of them."""
        weights_N = weights_N[self._order_N]
        seen, found = np.cumsum(weights_N)[self._last_N], np.cumsum(weights_N * self._marks_N)[self._last_N]
        if found[-1] == 0:
            return float("nan")
        precision = found / np.maximum(seen, 1.0)
        return float((np.diff(found, prepend=0.0) * precision).sum() / found[-1])
