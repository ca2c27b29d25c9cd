"""Scores of classifiers: equal to plain loops, whatever the batch size and filling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from corestone.core.batch import ImageBatch
from corestone.core.errors import DataError
from corestone.core.protocols import Output
from corestone.evaluate.classification import (
    BINS,
    answers,
    answers_of,
    calibration_error,
    calibration_metric,
    classification_metrics,
    confusion_matrix,
    misclassified,
)
from corestone.evaluate.picture_floors import picture_floors


class PixelsAreLogits(nn.Module):
    """A classifier whose logits are the picture's first pixels; dropout tells training from evaluation."""

    def __init__(self, classes):
        super().__init__()
        self.head, self.drop = nn.Linear(classes, classes), nn.Dropout(0.5)
        nn.init.eye_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch):
        return Output(self.drop(batch.images_BCHW.flatten(1)))


def guesses(rows=60, classes=7, seed=0, coarse=False):
    """Logits and labels; coarse logits have many ties."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=generator)
    return logits.round() if coarse else logits, torch.randint(classes, (rows,), generator=generator)


def as_pictures(logits, labels):
    return ImageBatch(logits[:, None, None, :], nn.functional.one_hot(labels, logits.shape[1]).float())


def in_batches(whole):
    return lambda size: (whole.rows(start, start + size) for start in range(0, len(whole), size))


def by_loop(logits, labels):
    """Rank, guess, confidence and nats of each picture, one by one."""
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda k: (-row[k], k))
        weights = [math.exp(value) for value in row]
        yield order.index(label), order[0], max(weights) / sum(weights), -math.log(weights[label] / sum(weights))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), coarse=st.booleans(), classes=st.integers(2, 9))
def test_metrics_equal_a_plain_loop(seed, coarse, classes):
    logits, labels = guesses(60, classes, seed, coarse)
    found = answers_of(logits, labels)
    rows = list(by_loop(logits, labels))
    assert [(int(r), int(g)) for r, g in zip(found.ranks_N, found.guesses_N, strict=True)] == [r[:2] for r in rows]
    np.testing.assert_allclose(found.confidence_N, [row[2] for row in rows], rtol=1e-12)
    metrics = {metric.name: metric for metric in classification_metrics(found)}
    assert metrics["nats"].value == pytest.approx(sum(row[3] for row in rows) / 60, rel=1e-12)
    assert metrics["top1_accuracy"].value == sum(row[0] < 1 for row in rows) / 60
    assert ("top5_accuracy" in metrics) == (classes > 5)
    if classes > 5:
        assert metrics["top5_accuracy"].value == sum(row[0] < 5 for row in rows) / 60
    means = []
    for k in range(classes):
        mine = [row[1] == k for row, label in zip(rows, labels.tolist(), strict=True) if label == k]
        assert (f"accuracy of {k}" in metrics) == bool(mine)
        if mine:
            means.append(sum(mine) / len(mine))
            assert (metrics[f"accuracy of {k}"].value, metrics[f"accuracy of {k}"].n) == (means[-1], len(mine))
    assert metrics["mean_class_accuracy"].value == pytest.approx(sum(means) / len(means), rel=1e-12)
    assert all(m.interval[0] - 1e-12 <= m.value <= m.interval[1] + 1e-12 for m in metrics.values())


def test_confusion_counts_every_pair():
    logits, labels = guesses(200, 4)
    found = answers_of(logits, labels)
    confusion = confusion_matrix(found.labels_N, found.guesses_N, 4)
    for truth in range(4):
        for guess in range(4):
            assert confusion[truth, guess] == int(((labels == truth) & (logits.argmax(1) == guess)).sum())


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), rows=st.integers(1, 80))
def test_calibration_error_equals_a_plain_loop(seed, rows):
    generator = np.random.default_rng(seed)
    confidence = generator.choice([*generator.random(10), 0.0, 1.0, 1 / 15, 2 / 15, 3 / 15, 0.6], rows)
    right = generator.random(rows) < 0.5
    wanted = 0.0
    for number in range(BINS):
        low, high = number / 15, (number + 1) / 15
        inside = [n for n in range(rows) if low < confidence[n] <= high or (number == 0 and confidence[n] == 0)]
        if inside:
            accuracy = sum(right[n] for n in inside) / len(inside)
            wanted += len(inside) / rows * abs(accuracy - sum(confidence[n] for n in inside) / len(inside))
    assert calibration_error(confidence, right) == pytest.approx(wanted, abs=1e-12)


def test_calibration_interval_holds_the_true_error():
    """1,000 pictures, 30 splits. Confidence 0.1 too high: 26 intervals hold that. Nothing wrong: 11 hold nought, for a
    sample's error is never nought; without reflection none would (0 of 150 in a trial)."""
    held = {0.1: 0, 0.0: 0}
    for too_high in held:
        for seed in range(30):
            generator = np.random.default_rng(seed)
            confidence = generator.uniform(0.4, 1.0, 1000)
            low, high = calibration_metric(confidence, generator.random(1000) < confidence - too_high).interval
            held[too_high] += low <= too_high <= high
    assert held[0.1] >= 24
    assert held[0.0] >= 9


def test_neither_batch_size_nor_filling_changes_a_score():
    logits, labels = guesses(23)
    model, whole = PixelsAreLogits(7).train(), as_pictures(logits, labels)
    wanted = list(classification_metrics(answers(model, in_batches(whole), 23)))
    assert wanted == list(classification_metrics(answers_of(logits, labels)))
    assert list(classification_metrics(answers(model, in_batches(whole), 4))) == wanted

    def filled(size):
        for batch in in_batches(whole)(size):
            more = size - len(batch)
            images = torch.cat([batch.images_BCHW, torch.randn(more, 1, 1, 7)])
            yield ImageBatch(images, torch.cat([batch.targets_BK, torch.zeros(more, 7)]))

    assert list(classification_metrics(answers(model, filled, 4))) == wanted
    assert model.training


def test_names_of_classes_name_their_accuracies():
    found = answers_of(*guesses(40, 3))
    names = [metric.name for metric in classification_metrics(found, ["cat", "dog", "emu"])]
    assert names[-3:] == ["accuracy of cat", "accuracy of dog", "accuracy of emu"]


def test_mistakes_are_found_by_their_number_in_the_split():
    logits, labels = guesses(30)
    found = answers(PixelsAreLogits(7), in_batches(as_pictures(logits, labels)), 4)
    mistakes = misclassified(found)
    assert sorted(mistakes.tolist()) == (logits.argmax(1) != labels).nonzero()[:, 0].tolist()
    confidence = logits.softmax(1).amax(1)[torch.from_numpy(mistakes)]
    assert (confidence.diff() <= 1e-6).all()


def test_probabilities_are_as_good_as_logits():
    logits, labels = guesses()
    one, other = (list(classification_metrics(answers_of(x, labels))) for x in (logits, logits.softmax(1).log()))
    for a, b in zip(one, other, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-5), a.name


def test_pictures_that_cannot_be_scored_are_refused():
    whole = as_pictures(*guesses(9))
    whole.targets_BK[5, :2] = 1
    with pytest.raises(DataError, match="picture 5 has several classes"):
        answers(PixelsAreLogits(7), in_batches(whole), 2)
    with pytest.raises(DataError, match="have no classes; give data with labels"):
        answers(PixelsAreLogits(7), in_batches(ImageBatch(whole.images_BCHW)), 2)
    with pytest.raises(DataError, match="no picture of the split has a class"):
        answers(PixelsAreLogits(7), in_batches(ImageBatch(whole.images_BCHW, torch.zeros(9, 7))), 2)


def coloured(rows, seed, classes=3, side=20, noise=1.0):
    """Pictures whose class is a direction of their pixels; class 0 is as common as the others together."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(rows, generator=generator) * 2 * (classes - 1)).long().sub(classes - 2).clamp(min=0)
    means = torch.randn(classes, 2, 4, 4, generator=torch.Generator().manual_seed(9))
    images = nn.functional.interpolate(means[labels], size=(side, side))
    images = images + noise * torch.randn(images.shape, generator=generator)
    return ImageBatch(images, nn.functional.one_hot(labels, classes).float())


def test_floors_equal_the_same_learnt_from_all_pictures_at_once():
    """Centroids and ridge regression by least squares over stacked rows, against sums batch by batch."""
    train, held = coloured(150, 1, noise=10.0), coloured(100, 2, noise=10.0)
    floors = {m.name: m for m in picture_floors(in_batches(train)(16), in_batches(held)(7))}
    X, Y = (nn.functional.adaptive_avg_pool2d(b.images_BCHW, 16).flatten(1).double().numpy() for b in (train, held))
    labels, truth = train.targets_BK.argmax(1).numpy(), held.targets_BK.argmax(1).numpy()
    assert floors["majority_class_accuracy"].value == np.mean(truth == np.bincount(labels).argmax())
    centroids = np.stack([X[labels == k].mean(0) for k in range(3)])
    nearest = [min(range(3), key=lambda k: ((row - centroids[k]) ** 2).sum()) for row in Y]
    assert floors["nearest_centroid_accuracy"].value == np.mean(truth == nearest)
    mean, marks = X.mean(0), np.eye(3)[labels]
    penalty = 1e-3 * ((X - mean) ** 2).sum() / X.shape[1]
    stacked = np.vstack([X - mean, np.sqrt(penalty) * np.eye(X.shape[1])])
    wanted = np.vstack([marks - marks.mean(0), np.zeros((X.shape[1], 3))])
    weights = np.linalg.lstsq(stacked, wanted, rcond=None)[0]
    guess = ((Y - mean) @ weights + marks.mean(0)).argmax(1)
    assert floors["pixel_ridge_accuracy"].value == np.mean(truth == guess)
    assert len({m.value for m in floors.values()}) == 3
    assert all(m.n == 100 and m.interval[0] < m.value < m.interval[1] for m in floors.values())


def test_floors_learn_what_is_easy_and_nothing_from_nothing():
    floors = [m.value for m in picture_floors(in_batches(coloured(400, 1))(64), in_batches(coloured(300, 2))(64))]
    assert floors[0] == pytest.approx(0.5, abs=0.1)
    assert min(floors[1:]) > 0.95
    with pytest.raises(DataError, match="no training picture"):
        picture_floors(iter([]), iter([]))
    black = ImageBatch(torch.zeros(9, 1, 4, 4), torch.eye(3).repeat(3, 1))
    assert [m.value for m in picture_floors(iter([black]), iter([black]))] == [1 / 3] * 3
