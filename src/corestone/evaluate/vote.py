"""Several classifiers as one, by majority vote (An et al. 2020, section 3).

Shape letters: M members, N pictures (or whatever is classified), K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corestone.core.errors import DataError
from corestone.core.metric import Metric
from corestone.evaluate.classification import Batches, labelled_logits, share_metric
from corestone.evaluate.intervals import ratio_interval

Probabilities = NDArray[np.floating]
Classes = NDArray[np.int64]


@dataclass(frozen=True)
class Judgement:
    """What a member says of the pictures of a split that have a class.

    Attributes:
        places_N: number of the picture in its split.
        labels_N: its class.
        probabilities_NK: of each class, float32.
    """

    places_N: Classes
    labels_N: Classes
    probabilities_NK: Probabilities

    @property
    def guesses(self) -> Classes:
        """The likeliest class of each (N,); the first one where several are."""
        guesses: Classes = self.probabilities_NK.argmax(axis=1)
        return guesses

    @property
    def nats(self) -> float:
        """Mean of minus the logarithm of the probability of a picture's own class."""
        own_N = self.probabilities_NK[np.arange(len(self.labels_N)), self.labels_N]
        return float(-np.log(np.maximum(own_N, np.finfo(np.float32).tiny)).mean())


def judge(model: Any, batches: Batches, batch_size: int) -> Judgement:
    """A classifier's softmax of a split. Raises DataError where a picture has several classes, or none has any."""
    found = list(labelled_logits(model, batches, batch_size))
    if not found:
        raise DataError("vote: no picture of the split has a class; give one with labels")
    return Judgement(
        places_N=np.concatenate([places_B for _, _, places_B in found]),
        labels_N=np.concatenate([labels_B.numpy() for _, labels_B, _ in found]),
        probabilities_NK=np.concatenate([logits_BK.double().softmax(dim=1).float().numpy() for logits_BK, *_ in found]),
    )


def agreement(guesses_MN: Classes, labels_N: Classes) -> Iterator[Metric]:
    """Yield how much members say the same: `all_agree` (rightly or not), `pairs_agree` (mean over pairs of members) and
    `none_right`, the share that no vote of theirs can get right. A single member agrees with itself."""
    M, N = guesses_MN.shape
    yield share_metric("all_agree", (guesses_MN == guesses_MN[0]).all(axis=0))
    others_N = (guesses_MN[:, None] == guesses_MN[None]).sum(axis=(0, 1)) - M
    pairs_N = others_N / (M * (M - 1)) if M > 1 else np.ones(N)
    interval = ratio_interval(pairs_N, np.ones(N))
    yield Metric("pairs_agree", float(pairs_N.mean()), "share of pictures", N, interval, "mean over pairs of members")
    yield share_metric("none_right", (guesses_MN != labels_N).all(axis=0))


def most_voted(votes_MN: Classes, support_NK: Probabilities) -> Classes:
    """The class (N,) that most members vote for.

    The paper does not say what happens to a tie. Here the tied class with the largest support wins, and of equal
    supports the first.

    Raises DataError where votes and supports are not of the same N things, or a vote is for none of the K classes.
    """
    if votes_MN.ndim != 2 or support_NK.ndim != 2 or votes_MN.shape[1] != support_NK.shape[0] or not votes_MN.size:
        shapes = f"votes {votes_MN.shape} and support {support_NK.shape}"
        raise DataError(f"vote: {shapes} do not go together; give (members, N) and (N, classes)")
    (N, K), places_N = support_NK.shape, np.arange(votes_MN.shape[1])
    if votes_MN.min() < 0 or votes_MN.max() >= K:
        raise DataError(f"vote: a member votes for class {votes_MN.max()}; give votes from 0 to {K - 1}")
    counts_NK = np.zeros((N, K), dtype=np.int64)
    for votes_N in votes_MN:
        counts_NK[places_N, votes_N] += 1
    tied_NK = counts_NK == counts_NK.max(axis=1, keepdims=True)
    winners_N: Classes = np.where(tied_NK, support_NK, -np.inf).argmax(axis=1)
    return winners_N


def majority(probabilities_MNK: Probabilities) -> Classes:
    """The vote (N,) of members of one kind: each for its most probable class; ties go to the class with the largest sum
    of probabilities over all members."""
    _check(probabilities_MNK)
    return most_voted(probabilities_MNK.argmax(axis=2), probabilities_MNK.sum(axis=0))


def two_level_majority(kinds: Sequence[Probabilities]) -> Classes:
    """The vote (N,) of several kinds of members, (M, N, K) each: first within each kind, then one vote per kind.

    Ties between kinds go to the class with the largest sum, over kinds, of its mean probability there, so that a kind
    with many members weighs no more than another.
    """
    if not kinds:
        raise DataError("vote: there are no kinds of members; give at least one array (members, N, classes)")
    for probabilities_MNK in kinds:
        _check(probabilities_MNK)
    if len({probabilities_MNK.shape[1:] for probabilities_MNK in kinds}) > 1:
        shapes = ", ".join(str(probabilities_MNK.shape) for probabilities_MNK in kinds)
        raise DataError(f"vote: kinds of shapes {shapes} judge different things; all need the same N and classes")
    votes_MN = np.stack([majority(probabilities_MNK) for probabilities_MNK in kinds])
    support_NK = np.sum([probabilities_MNK.mean(axis=0) for probabilities_MNK in kinds], axis=0)
    return most_voted(votes_MN, support_NK)


def _check(probabilities_MNK: Probabilities) -> None:
    if probabilities_MNK.ndim != 3 or not probabilities_MNK.size:
        raise DataError(f"vote: probabilities have shape {probabilities_MNK.shape}; give (members, N, classes)")
    if not np.isfinite(probabilities_MNK).all():
        raise DataError("vote: a probability is not a finite number; leave out the member that gives it")
