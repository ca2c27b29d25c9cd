"""Classification: the published formulas by a plain loop, sums over pictures, the same however a batch is split."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from corestone.core.batch import ImageBatch
from corestone.core.errors import DataError, SpecError
from corestone.core.protocols import Output
from corestone.core.rng import Draws
from corestone.evaluate.objective import ObjectiveScore
from corestone.objectives.classification import ClassificationObjective
from corestone.objectives.spec import Classification


class TinyClassifier(nn.Module):
    """A linear map of the picture and a head."""

    generates = "nothing"

    def __init__(self, classes=7):
        super().__init__()
        torch.manual_seed(1)
        self.body, self.head = nn.Linear(3 * 4 * 4, 8), nn.Linear(8, classes)

    def forward(self, batch):
        return Output(torch.tanh(self.body(batch.images_BCHW.flatten(1).to(self.body.weight.dtype))))

    def training_flops(self):
        return 6.0 * sum(p.numel() for p in (self.body.weight, self.head.weight))


def pictures(rows=10, classes=7, mixed=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (2, rows), generator=generator)
    first, second = nn.functional.one_hot(labels, classes).float()
    share = torch.rand(rows, 1, generator=generator) if mixed else torch.ones(rows, 1)
    images = torch.randn(rows, 3, 4, 4, generator=generator)
    return ImageBatch(images, share * first + (1 - share) * second)


def by_loop(logits, targets, loss, smoothing):
    """The published formulas, class by class, in Python's float64."""
    total, K = 0.0, len(logits[0])
    for row, shares in zip(logits.double().tolist(), targets.double().tolist(), strict=True):
        normaliser = math.log(sum(math.exp(value) for value in row))
        for value, share in zip(row, shares, strict=True):
            if loss == "softmax":
                total -= ((1 - smoothing) * share + smoothing / K) * (value - normaliser)
            else:
                yes = 1 / (1 + math.exp(-value))
                wanted = (1 - smoothing) * share + smoothing / 2
                total -= wanted * math.log(yes) + (1 - wanted) * math.log(1 - yes)
    return total


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@settings(deadline=None, max_examples=25)
@given(smoothing=st.sampled_from([0.0, 1e-4, 0.1, 0.3]), mixed=st.booleans(), seed=st.integers(0, 99))
def test_loss_is_the_published_sum(loss, smoothing, mixed, seed):
    model, batch = TinyClassifier(), pictures(mixed=mixed, seed=seed)
    objective = ClassificationObjective(Classification(loss=loss, smoothing=smoothing))
    found = objective.loss(model, objective.corrupt(batch, Draws(0, range(10))))
    logits = model.head(model(batch).hidden).detach()
    wanted = by_loop(logits, batch.targets_BK, loss, smoothing)
    assert float(found.total.detach()) == pytest.approx(wanted, rel=1e-6)  # worst of 600: 1.8e-7
    assert int(found.weight) == 10
    right = (logits.argmax(1) == batch.targets_BK.argmax(1)).sum()
    assert int(found.metrics["correct"]) == int(right)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_any_split_gives_the_same_gradient(loss):
    """Worst case measured: 1.5e-7 of the largest entry."""
    model, batch = TinyClassifier(), pictures(mixed=True)
    objective = ClassificationObjective(Classification(loss=loss, smoothing=0.1))
    found = []
    for size in (10, 3):
        model.zero_grad()
        for start in range(0, 10, size):
            objective.loss(model, batch.rows(start, start + size)).total.backward()
        found.append([p.grad.clone() for p in model.parameters()])
    for one, other in zip(*found, strict=True):
        assert float((one - other).abs().max()) <= 1e-6 * float(one.abs().max())


def test_low_precision_models_are_scored_in_float32():
    model, batch = TinyClassifier().to(torch.bfloat16), pictures()
    loss = ClassificationObjective(Classification()).loss(model, batch)
    assert loss.total.dtype == torch.float32
    logits = model.head(model(batch).hidden).detach()
    assert float(loss.total.detach()) == pytest.approx(by_loop(logits, batch.targets_BK, "softmax", 0.0), rel=1e-6)


@pytest.mark.parametrize(
    ("classes", "names"), [(7, ["nats", "top1_accuracy", "top5_accuracy"]), (5, ["nats", "top1_accuracy"])]
)
def test_held_out_scores(classes, names):
    """By hand, without smoothing, and the same whatever the batch size."""
    model, whole = TinyClassifier(classes), pictures(23, classes)
    objective = ClassificationObjective(Classification(smoothing=0.3))

    def batches(size):
        return (whole.rows(start, start + size) for start in range(0, 23, size))

    one, other = (list(ObjectiveScore(objective, batches, size).run(model)) for size in (4, 23))
    assert [metric.name for metric in one] == [metric.name for metric in other] == names
    for a, b in zip(one, other, strict=True):
        assert (a.n, a.unit) == (b.n, b.unit) == (23, a.unit)
        assert a.value == pytest.approx(b.value, rel=1e-6)
        assert a.interval[0] < a.value < a.interval[1]
    logits, labels = model.head(model(whole).hidden).detach(), whole.targets_BK.argmax(1)
    assert one[0].value == pytest.approx(by_loop(logits, whole.targets_BK, "softmax", 0.0) / 23, rel=1e-6)
    for metric, likeliest in zip(one[1:], (1, 5), strict=False):
        order = logits.argsort(dim=1, descending=True)[:, :likeliest].tolist()
        hits = sum(label in row for label, row in zip(labels.tolist(), order, strict=True))
        assert metric.value == hits / 23


def test_any_of_several_marked_classes_is_right_and_none_is_not():
    model, batch = TinyClassifier(), pictures(4)
    best = model.head(model(batch).hidden).argmax(1)
    marks = torch.zeros(4, 7)
    marks[0, best[0]] = marks[0, (best[0] + 1) % 7] = 1  # one of two
    marks[1, (best[1] + 1) % 7] = marks[1, (best[1] + 2) % 7] = 1  # neither
    marks[2, best[2]] = 1  # the only one
    objective = ClassificationObjective(Classification(loss="sigmoid"))
    loss = objective.loss(model, ImageBatch(batch.images_BCHW, marks))  # the last picture shows none of them
    assert int(loss.metrics["correct"]) == 2


def test_what_cannot_be_learnt_from_is_refused():
    objective = ClassificationObjective(Classification())
    with pytest.raises(DataError, match="have no classes; give data with labels"):
        objective.loss(TinyClassifier(), ImageBatch(torch.zeros(2, 3, 4, 4)))
    with pytest.raises(SpecError, match="the data has 5 classes and the model's head 7"):
        objective.loss(TinyClassifier(), pictures(2, 5))


def test_flops_are_counted_by_picture():
    assert ClassificationObjective(Classification()).training_flops(TinyClassifier(), 999) == 6 * (48 * 8 + 8 * 7)
