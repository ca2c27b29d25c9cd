"""What methods without learned features reach on pictures of one size: the figures of the cards.

Shape letters: N pictures, D pixel values of a picture, K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from corestone.core.errors import DataError
from corestone.data.images.picture_set import PictureSet

RIDGE = 10.0
"""The penalty on the squared weights, for pixel values between 0 and 1 and a sum over pictures."""


def majority(train: PictureSet, held_out: PictureSet) -> float:
    """Share of the held-out pictures whose class is the most frequent one of the training side."""
    _, labels = _labelled(train)
    _, truth = _labelled(held_out)
    return float((truth == np.bincount(labels).argmax()).mean())


def nearest_centroid(train: PictureSet, held_out: PictureSet) -> float:
    """Accuracy of the class whose mean training picture is nearest."""
    x_ND, labels = _labelled(train)
    z_ND, truth = _labelled(held_out)
    known = np.unique(labels)
    means_KD = np.stack([x_ND[labels == label].mean(axis=0) for label in known])
    distances_NK = (means_KD**2).sum(axis=1) - 2 * z_ND @ means_KD.T  # the pictures' own squares are the same for all
    return float((known[distances_NK.argmin(axis=1)] == truth).mean())


def nearest_neighbour(train: PictureSet, held_out: PictureSet) -> float:
    """Accuracy of the class of the nearest training picture."""
    x_ND, labels = _labelled(train)
    z_ND, truth = _labelled(held_out)
    distances_NN = (x_ND**2).sum(axis=1) - 2 * z_ND @ x_ND.T
    return float((labels[distances_NN.argmin(axis=1)] == truth).mean())


def ridge(train: PictureSet, held_out: PictureSet, penalty: float = RIDGE) -> float:
    """Accuracy of linear least squares on the pixels with a penalty, one output for each class and a free bias."""
    x_ND, labels = _labelled(train)
    z_ND, truth = _labelled(held_out)
    targets_NK = np.eye(int(labels.max()) + 1)[labels]
    x_mean, target_mean = x_ND.mean(axis=0), targets_NK.mean(axis=0)
    centred_ND = x_ND - x_mean
    square_DD = centred_ND.T @ centred_ND + penalty * np.eye(centred_ND.shape[1])
    weights_DK = np.linalg.solve(square_DD, centred_ND.T @ (targets_NK - target_mean))
    return float((((z_ND - x_mean) @ weights_DK + target_mean).argmax(axis=1) == truth).mean())


def _labelled(pictures: PictureSet) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The pictures with a class as rows of values from 0 to 1, and their classes."""
    if pictures.array is None:
        raise DataError(f"{pictures.folder}: floors need pictures of one size, stored as pixels")
    places = np.flatnonzero(pictures.labels >= 0)
    rows = pictures.array[places].reshape(len(places), -1) / 255.0
    return rows, pictures.labels[places]
