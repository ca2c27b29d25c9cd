"""What classifying pictures reaches without a model: the commonest class, the nearest mean picture, ridge regression.

Shape letters: B pictures of a batch, C channels, H height, W width, D pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from corestone.core.batch import ImageBatch
from corestone.core.errors import DataError
from corestone.core.metric import Metric
from corestone.evaluate.captions import caption_metrics
from corestone.evaluate.classification import share_metric
from corestone.evaluate.several_classes import precision_metrics

SIDE = 16
"""Pixels of a side: larger pictures are averaged down to it, so that ridge regression stays small."""
RIDGE = 1e-3
"""Penalty of squared weights, as a share of the mean variance of pixels."""

Numbers = NDArray[np.float64]


def picture_floors(training: Iterator[ImageBatch], held_out: Iterator[ImageBatch]) -> list[Metric]:
    """Accuracies of `majority_class`, `nearest_centroid` and `pixel_ridge`, learnt from one half and held to the other.

    Pictures without a class, or with several, are left out. All that is kept of the training pictures is their sums
    and products, so they may be any number.

    Raises:
        DataError: no picture with one class, here or there.
    """
    n, counts_K, sums_KD, sum_D, gram_DD = _sums(training)
    mean_D, weights_DK = _ridge(n, counts_K, sums_KD, sum_D, gram_DD)
    centroids_KD = sums_KD / np.maximum(counts_K, 1)[:, None]
    absent_K = np.where(counts_K > 0, 0.0, np.inf)
    right: dict[str, list[NDArray[np.bool_]]] = {"majority_class": [], "nearest_centroid": [], "pixel_ridge": []}
    for pixels_BD, marks_BK in _labelled(held_out):
        labels_B = marks_BK.argmax(axis=1)
        far_BK = (centroids_KD**2).sum(axis=1) - 2 * pixels_BD @ centroids_KD.T + absent_K
        score_BK = (pixels_BD - mean_D) @ weights_DK + counts_K / n
        right["majority_class"].append(labels_B == counts_K.argmax())
        right["nearest_centroid"].append(labels_B == far_BK.argmin(axis=1))
        right["pixel_ridge"].append(labels_B == score_BK.argmax(axis=1))
    if not right["majority_class"]:
        raise DataError("evaluation: no held-out picture has one class; give a split with labels")
    said = f"learnt from {n:,} training pictures, each side averaged down to at most {SIDE} pixels"
    return [share_metric(f"{name}_accuracy", np.concatenate(hits), said) for name, hits in right.items()]


def several_classes_floors(
    training: Iterator[ImageBatch], held_out: Iterator[ImageBatch], names: Sequence[str]
) -> list[Metric]:
    """Mean average precision by chance (pictures in no order) and of `pixel_ridge`, of several classes at once."""
    n, *sums = _sums(training, several=True)
    mean_D, weights_DK = _ridge(n, *sums)
    found = [(pixels_BD, marks_BK > 0) for pixels_BD, marks_BK in _labelled(held_out, several=True)]
    if not found:
        raise DataError("evaluation: no held-out picture has classes; give a split with labels")
    marks_NK = np.concatenate([marks for _, marks in found])
    score_NK = np.concatenate([(pixels_BD - mean_D) @ weights_DK for pixels_BD, _ in found])
    said = f"learnt from {n:,} training pictures, each side averaged down to at most {SIDE} pixels"
    floors = {"by_chance": (np.zeros_like(score_NK), "pictures in no order"), "of_pixel_ridge": (score_NK, said)}
    return [
        replace(next(precision_metrics(scores_NK, marks_NK, names, how)), name=f"mean_average_precision_{name}")
        for name, (scores_NK, how) in floors.items()
    ]


def nearest_caption_floors(
    known: tuple[Tensor, Sequence[Sequence[str]]],
    asked: tuple[Tensor, Sequence[Sequence[str]]],
    writes: bool = False,
) -> list[Metric]:
    """What finding captions reaches without a model: the first caption of the nearest training picture, where it is one
    of the picture's own; and chance.

    Args:
        known, asked: pictures (N, C, H, W) and the captions of each, of the training side and the held-out one.
        writes: for models that write captions: that caption's words beside the picture's own, too.
    """
    known_ND, asked_ND = (
        F.adaptive_avg_pool2d(images, SIDE).flatten(1).double().numpy() for images in (known[0], asked[0])
    )
    mean_D = known_ND.mean(axis=0)
    known_ND, asked_ND = known_ND - mean_D, asked_ND - mean_D
    known_ND /= np.maximum(np.linalg.norm(known_ND, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    found = [known[1][int((known_ND @ pixels_D).argmax())][0] for pixels_D in asked_ND]
    said = (
        f"by the cosine of what differs from the mean training picture, averaged down to {SIDE} pixels, among "
        f"{len(known[1]):,} training pictures"
    )
    exact, f1 = caption_metrics(found, asked[1], said, "nearest_picture_")
    n = len(asked[1])
    return [
        replace(exact, name="nearest_picture_has_the_caption"),
        *([f1] if writes else []),
        chance("recall_at_1_by_chance", n, n),
    ]


def chance(name: str, of: int, n: int) -> Metric:
    """The share of n pictures for which one drawn of so many is right."""
    return Metric(name, 1 / of, "share of pictures", n)


def _ridge(n: int, counts_K: Numbers, sums_KD: Numbers, sum_D: Numbers, gram_DD: Numbers) -> tuple[Numbers, Numbers]:
    """The mean picture, and the weights (D, K) of ridge regression from centred pixels to marks of classes."""
    mean_D = sum_D / n
    centred_DD = gram_DD / n - np.outer(mean_D, mean_D)
    cross_DK = ((sums_KD - counts_K[:, None] * mean_D) / n).T  # of pixels with marks of classes, both centred
    penalty = RIDGE * max(float(np.trace(centred_DD)) / len(mean_D), np.finfo(np.float64).tiny)
    weights_DK = np.linalg.solve(centred_DD + penalty * np.eye(len(mean_D)), cross_DK)
    return mean_D, np.asarray(weights_DK, dtype=np.float64)


def _sums(training: Iterator[ImageBatch], several: bool = False) -> tuple[int, Numbers, Numbers, Numbers, Numbers]:
    """How many pictures, those of each class and their pixels added, all pixels added and their products added."""
    n, counts_K, sums_KD, sum_D, gram_DD = 0, np.zeros(0), np.zeros((0, 0)), np.zeros(0), np.zeros((0, 0))
    for pixels_BD, marks_BK in _labelled(training, several):
        if not n:
            K, D = marks_BK.shape[1], pixels_BD.shape[1]
            counts_K, sums_KD, sum_D, gram_DD = np.zeros(K), np.zeros((K, D)), np.zeros(D), np.zeros((D, D))
        n += len(pixels_BD)
        counts_K += marks_BK.sum(axis=0)
        sums_KD += marks_BK.T @ pixels_BD
        sum_D += pixels_BD.sum(axis=0)
        gram_DD += pixels_BD.T @ pixels_BD
    if not n:
        raise DataError("evaluation: no training picture has one class; give data with labels")
    return n, counts_K, sums_KD, sum_D, gram_DD


def _labelled(batches: Iterator[ImageBatch], several: bool = False) -> Iterator[tuple[Numbers, Numbers]]:
    """Pixels (B, D) of the pictures that have one class, or of all, and a mark (B, K) of each class."""
    for batch in batches:
        if batch.targets_BK is None:
            continue
        marks_BK = batch.targets_BK.cpu() > 0
        chosen_B = (marks_BK.sum(dim=1) == 1) | several
        if bool(chosen_B.any()):
            height, width = batch.pixels_BCHW.shape[2:]
            size = min(SIDE, height), min(SIDE, width)
            pixels_BCHW = F.adaptive_avg_pool2d(batch.images_BCHW.cpu()[chosen_B].float(), size)
            yield pixels_BCHW.flatten(1).double().numpy(), marks_BK[chosen_B].double().numpy()
