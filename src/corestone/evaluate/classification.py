"""How well a model names what held-out pictures show.

Everything is computed from a few numbers per picture (`Answers`), so that the logits of a whole split never exist.

Shape letters: N pictures, B those of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corestone.core.batch import ImageBatch
from corestone.core.errors import DataError
from corestone.core.metric import Metric
from corestone.evaluate.intervals import bootstrap_interval, proportion_interval, ratio_interval
from corestone.nn.modes import evaluation_mode

BINS = 15
"""Of confidence, equally wide, as in Guo et al. 2017 (section 5)."""
FEW = 5

LISTED = 1000
"""Classes up to which each is told by itself; of more, a table would be longer than anybody reads."""

Batches = Callable[[int], Iterator[ImageBatch]]
Ids = NDArray[np.int64]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """What a model says of pictures, in their order.

    Attributes:
        places_N: number of the picture in its split.
        labels_N: its class.
        guesses_N: the likeliest class; the first one where several are.
        ranks_N: how many classes come before the picture's own, 0 for the likeliest; equal ones in order.
        confidence_N: probability of the guess.
        nats_N: minus the logarithm of the probability of the picture's own class.
        classes: how many there are.
    """

    places_N: Ids
    labels_N: Ids
    guesses_N: Ids
    ranks_N: Ids
    confidence_N: Numbers
    nats_N: Numbers
    classes: int

    def __len__(self) -> int:
        return len(self.labels_N)


@torch.no_grad()
def answers_of(logits_NK: Tensor, labels_N: Tensor, first: int = 0) -> Answers:
    """Answers by logits, whose softmax is taken (logarithms of probabilities are logits, too).

    Args:
        first: number of the first picture in its split.
    """
    logits_NK, own_N1 = logits_NK.double(), labels_N[:, None]
    log_NK = logits_NK.log_softmax(dim=1)
    own_logit_N1 = logits_NK.gather(1, own_N1)
    equal_before_NK = (logits_NK == own_logit_N1) & (torch.arange(logits_NK.shape[1], device=own_N1.device) < own_N1)
    ranks_N = ((logits_NK > own_logit_N1) | equal_before_NK).sum(dim=1)
    guesses_N = logits_NK.argmax(dim=1)
    return Answers(
        places_N=np.arange(first, first + len(labels_N)),
        labels_N=labels_N.cpu().numpy(),
        guesses_N=guesses_N.cpu().numpy(),
        ranks_N=ranks_N.cpu().numpy(),
        confidence_N=log_NK.amax(dim=1).exp().cpu().numpy(),
        nats_N=-log_NK.gather(1, own_N1)[:, 0].cpu().numpy(),
        classes=logits_NK.shape[1],
    )


def joined(parts: Sequence[Answers]) -> Answers:
    """Answers one after the other."""
    if not parts:
        raise DataError("evaluation: no picture of the split has a class; give one with labels")
    names = [field.name for field in fields(Answers) if field.name != "classes"]
    columns = {name: np.concatenate([vars(part)[name] for part in parts]) for name in names}
    return Answers(**columns, classes=parts[0].classes)


def answers(model: Any, batches: Batches, batch_size: int) -> Answers:
    """A classifier's answers to a split. Pictures without a class, such as those that fill up a batch, are left out.

    Raises:
        DataError: a picture has several classes, or none has any.
    """
    return answers_to(labelled_logits(model, batches, batch_size))


def answers_to(parts: Iterable[tuple[Tensor, Tensor, Ids]]) -> Answers:
    """Answers by the logits, classes and numbers of pictures, part after part."""
    return joined(
        [replace(answers_of(logits_BK, labels_B), places_N=places_B) for logits_BK, labels_B, places_B in parts]
    )


def labelled_logits(model: Any, batches: Batches, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Ids]]:
    """A classifier's logits (B, K), the classes (B,) and the numbers in the split (B,) of pictures that have a class.

    Raises DataError as `answers` does.
    """
    return labelled(model, batches, batch_size, lambda batch: model.head(model(batch).hidden))


def labelled(
    model: Any, batches: Batches, batch_size: int, of: Callable[[ImageBatch], Tensor]
) -> Iterator[tuple[Tensor, Tensor, Ids]]:
    """What `of` gives of pictures that have a class (B, ...), in CPU memory, their classes and numbers as above.

    Args:
        of: takes a batch where the model's weights are.
    """
    device, first = next(iter(model.named_parameters()))[1].device, 0
    with evaluation_mode(model), torch.inference_mode():
        for batch in batches(batch_size):
            keep_B, labels_B = _one_class(batch, first)
            found_B = of(batch.to(device)).cpu()
            if bool(keep_B.any()):
                yield found_B[keep_B], labels_B[keep_B], first + keep_B.nonzero()[:, 0].numpy()
            first += len(batch)


def _one_class(batch: ImageBatch, first: int) -> tuple[Tensor, Tensor]:
    """Which pictures have a class, boolean (B,), and which one it is (B,)."""
    if batch.targets_BK is None:
        raise DataError("evaluation: the pictures have no classes; give data with labels")
    targets_BK = batch.targets_BK.cpu()
    marks_B = (targets_BK > 0).sum(dim=1)
    if bool((marks_B > 1).any()):
        place = first + int(marks_B.gt(1).nonzero()[0])
        raise DataError(f"evaluation: picture {place:,} has several classes; accuracy needs one of each picture")
    return marks_B > 0, targets_BK.argmax(dim=1)


def classification_metrics(found: Answers, names: Sequence[str] | None = None, reading: str = "") -> Iterator[Metric]:
    """Yield `nats`, `top1_accuracy`, `top5_accuracy` (of more than five classes), `mean_class_accuracy`,
    `calibration_error`, and each class's `accuracy of NAME` that has pictures, of at most `LISTED` classes."""
    ones_N = np.ones(len(found))
    nats = float(found.nats_N.mean())
    yield Metric("nats", nats, "nats/picture", len(found), ratio_interval(found.nats_N, ones_N), reading)
    for likeliest in (1, FEW) if found.classes > FEW else (1,):
        yield share_metric(f"top{likeliest}_accuracy", found.ranks_N < likeliest, reading)
    confusion_KK = confusion_matrix(found.labels_N, found.guesses_N, found.classes)
    yield _mean_class_accuracy(found, confusion_KK, reading)
    yield calibration_metric(found.confidence_N, found.guesses_N == found.labels_N, reading)
    for number, counts_K in enumerate(confusion_KK if found.classes <= LISTED else ()):
        hits, n = int(counts_K[number]), int(counts_K.sum())
        if n:
            name = f"accuracy of {number if names is None else names[number]}"
            yield Metric(name, hits / n, "share of pictures", n, proportion_interval(hits, n), reading)


def share_metric(name: str, right_N: NDArray[np.bool_], reading: str = "") -> Metric:
    """The share of pictures that are right, with Wilson's interval."""
    hits, n = int(right_N.sum()), len(right_N)
    return Metric(name, hits / n, "share of pictures", n, proportion_interval(hits, n), reading)


def confusion_matrix(labels_N: Ids, guesses_N: Ids, classes: int) -> Ids:
    """Pictures by class (row) and guess (column), (K, K)."""
    counts = np.bincount(labels_N * classes + guesses_N, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def _mean_class_accuracy(found: Answers, confusion_KK: Ids, reading: str) -> Metric:
    """The mean of all classes' accuracies. Pictures are resampled, each weighing as in its class as it is."""
    counts_K = confusion_KK.sum(axis=1)
    weights_N = 1 / counts_K[found.labels_N]
    value = float(confusion_KK.diagonal()[counts_K > 0].dot(1 / counts_K[counts_K > 0]) / (counts_K > 0).sum())
    interval = ratio_interval(weights_N * (found.guesses_N == found.labels_N), weights_N)
    said = "; ".join(filter(None, ["mean over classes", reading]))
    return Metric("mean_class_accuracy", value, "share of pictures", len(found), interval, said)


def calibration_error(confidence_N: Numbers, right_N: NDArray[np.bool_]) -> float:
    """Mean distance of confidence and accuracy over bins of confidence, weighted by pictures (Guo et al. 2017,
    equation 3); a bin holds its upper edge, not its lower one."""
    return float(np.abs(np.bincount(confidence_bins(confidence_N), confidence_N - right_N, BINS)).sum() / len(right_N))


def confidence_bins(confidence_N: Numbers) -> Ids:
    """Number of each picture's bin of confidence; a bin holds its upper edge."""
    return np.clip(np.ceil(confidence_N * BINS).astype(np.int64) - 1, 0, BINS - 1)


def calibration_metric(confidence_N: Numbers, right_N: NDArray[np.bool_], reading: str = "") -> Metric:
    """`calibration_error` of the softmax's probability. A sample's error is never nought, so near that both the value
    and its interval are too high."""
    bins_N, gaps_N, n = confidence_bins(confidence_N), confidence_N - right_N, len(right_N)

    def resampled(picks: Ids) -> float:
        return float(np.abs(np.bincount(bins_N[picks], gaps_N[picks], BINS)).sum() / n)

    value = calibration_error(confidence_N, right_N)
    ends = bootstrap_interval(resampled, n, value)
    said = "; ".join(filter(None, [f"{BINS} equally wide bins of the softmax's highest probability", reading]))
    interval = None if ends is None else (max(0.0, ends[0]), min(1.0, ends[1]))
    return Metric("calibration_error", value, "share of pictures", n, interval, said)


def misclassified(found: Answers) -> Ids:
    """Numbers in the split of wrongly named pictures, the most confident mistake first."""
    wrong = np.flatnonzero(found.guesses_N != found.labels_N)
    return found.places_N[wrong[np.argsort(-found.confidence_N[wrong], kind="stable")]]
