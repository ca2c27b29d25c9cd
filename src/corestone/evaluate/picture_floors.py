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
    counts_K, sums_KD, gram_DD = _sums(training)
    n, mean_D = counts_K.sum(), sums_KD.sum(axis=0) / counts_K.sum()
    centred_DD = gram_DD / n - np.outer(mean_D, mean_D)
    cross_DK = ((sums_KD - counts_K[:, None] * mean_D) / n).T  # of pixels with marks of classes, both centred
    penalty = RIDGE * max(float(np.trace(centred_DD)) / len(mean_D), np.finfo(np.float64).tiny)
    weights_DK = np.linalg.solve(centred_DD + penalty * np.eye(len(mean_D)), cross_DK)
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
    said = f"learnt from {int(n):,} training pictures, each side averaged down to at most {SIDE} pixels"
    return [share_metric(f"{name}_accuracy", np.concatenate(hits), said) for name, hits in right.items()]


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
    squares_N = (known_ND**2).sum(axis=1)
    found = [known[1][int((squares_N - 2 * known_ND @ pixels_D).argmin())][0] for pixels_D in asked_ND]
    said = f"averaged down to {SIDE} pixels, among {len(known[1]):,} training pictures"
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


def _sums(training: Iterator[ImageBatch]) -> tuple[Numbers, Numbers, Numbers]:
    """Pictures of each class, the sums of their pixels, and all pictures' products of pixels."""
    counts_K, sums_KD, gram_DD = np.zeros(0), np.zeros((0, 0)), np.zeros((0, 0))
    for pixels_BD, marks_BK in _labelled(training):
        if not len(counts_K):
            K, D = marks_BK.shape[1], pixels_BD.shape[1]
            counts_K, sums_KD, gram_DD = np.zeros(K), np.zeros((K, D)), np.zeros((D, D))
        counts_K += marks_BK.sum(axis=0)
        sums_KD += marks_BK.T @ pixels_BD
        gram_DD += pixels_BD.T @ pixels_BD
    if not len(counts_K):
        raise DataError("evaluation: no training picture has one class; give data with labels")
    return counts_K, sums_KD, gram_DD


def _labelled(batches: Iterator[ImageBatch]) -> Iterator[tuple[Numbers, Numbers]]:
    """Pixels (B, D) of the pictures that have one class, and a mark (B, K) of it."""
    for batch in batches:
        if batch.targets_BK is None:
            continue
        marks_BK = batch.targets_BK.cpu() > 0
        one_B = marks_BK.sum(dim=1) == 1
        if bool(one_B.any()):
            height, width = batch.images_BCHW.shape[2:]
            size = min(SIDE, height), min(SIDE, width)
            pixels_BCHW = F.adaptive_avg_pool2d(batch.images_BCHW.cpu()[one_B].float(), size)
            yield pixels_BCHW.flatten(1).double().numpy(), marks_BK[one_B].double().numpy()
