"""Contrastive losses: the published sums by a plain loop, and one gradient however the pairs are held."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pairs import TinyTowers, gradients_of, objective, pairs, split

from corestone.core.errors import SpecError
from corestone.core.rng import Draws, fold
from corestone.objectives.contrastive import sigmoid_loss, softmax_loss


def features(rows=9, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [F.normalize(torch.randn(rows, width, generator=generator), dim=1) for _ in range(2)]


def logits_of(images, texts, scale, bias=0.0):
    """Row by row in Python's float64."""
    dots = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in texts.tolist()] for x in images.tolist()]
    return [[scale * dot + bias for dot in row] for row in dots]


def choosing(logits):
    """Nats of the diagonal, each among its row."""
    return sum(math.log(sum(map(math.exp, row))) - row[number] for number, row in enumerate(logits))


def sigmoid_by_loop(logits):
    total = 0.0
    for i, row in enumerate(logits):
        for j, value in enumerate(row):
            total -= math.log(1 / (1 + math.exp(-value if i == j else value)))
    return total


@pytest.mark.parametrize("seed", range(3))
def test_softmax_is_the_mean_of_both_directions_summed(seed):
    images, texts = features(seed=seed)
    logits = logits_of(images, texts, 1 / 0.07)
    wanted = (choosing(logits) + choosing(list(zip(*logits, strict=True)))) / 2
    found = float(softmax_loss(images, texts, torch.tensor(1 / 0.07).log()))
    assert found == pytest.approx(wanted, rel=1e-6)  # worst of 200: 1.3e-7


@pytest.mark.parametrize("seed", range(3))
def test_sigmoid_asks_of_every_picture_and_text(seed):
    images, texts = features(seed=seed)
    wanted = sigmoid_by_loop(logits_of(images, texts, 10.0, -10.0))
    found = float(sigmoid_loss(images, texts, torch.tensor(10.0).log(), torch.tensor(-10.0)))
    assert found == pytest.approx(wanted, rel=1e-6)  # worst of 200: 1.7e-7


@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
def test_parts_of_the_rows_add_up(loss):
    scalars = [torch.tensor(2.0), torch.tensor(-1.0)][: 1 if loss is softmax_loss else 2]
    whole = loss(*features(), *scalars)
    parts = sum(loss(*features(), *scalars, rows) for rows in (slice(0, 4), slice(4, 5), slice(5, 9)))
    assert float(parts) == pytest.approx(float(whole), rel=1e-6)


@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
def test_gradients_are_the_slopes_of_the_loss(loss):
    """Central differences along a random direction of every argument. Worst case measured: 2.7e-4 relative."""
    scalars = [torch.tensor(1.0), torch.tensor(-1.0)][: 1 if loss is softmax_loss else 2]
    leaves = [value.clone().requires_grad_() for value in (*features(), *scalars)]
    loss(*leaves).backward()
    for place, leaf in enumerate(leaves):
        direction = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(place))
        ends = []
        for sign in (1, -1):
            moved = [value.detach() for value in leaves]
            moved[place] = moved[place] + sign * 1e-2 * direction
            ends.append(float(loss(*moved)))
        slope = (ends[0] - ends[1]) / 2e-2
        assert slope == pytest.approx(float((leaf.grad * direction).sum()), rel=1e-3), place


SPLITS = [(12,), (6, 6), (5, 5, 2), (1,) * 12]


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_two_passes_give_the_gradient_of_the_whole_batch(loss, sizes):
    """Worst case measured: 4.0e-7 of a gradient's largest entry."""
    model, batch = TinyTowers(bias=loss == "sigmoid"), pairs()
    whole = objective(loss).loss(model, objective(loss).corrupt(batch, Draws(0, range(12))))
    whole.total.backward()
    wanted = gradients_of(model)
    model.zero_grad()
    found = objective(loss).gradients(model, split(batch, sizes), range(len(sizes)))
    assert float(found.total) == pytest.approx(float(whole.total.detach()), rel=1e-6)
    assert int(found.weight) == int(whole.weight) == 12
    compare(gradients_of(model), wanted)


@pytest.mark.parametrize("sizes", SPLITS[1:], ids=str)
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_dropout_is_the_same_in_both_passes(loss, sizes):
    """Against every micro-batch's graph kept, with the same draws. Worst case measured: 3.9e-7."""
    model, parts = TinyTowers(dropout=0.4), split(pairs(), sizes)
    kept = []
    for seed, part in enumerate(parts):
        torch.manual_seed(fold(seed, 0))
        image = model.image(part.images)
        torch.manual_seed(fold(seed, 1))
        kept.append((image, model.text(part.texts)))
    images, texts = (torch.cat(tower) for tower in zip(*kept, strict=True))
    objective(loss).share(model, images, texts, slice(0, 12)).backward()
    wanted = gradients_of(model)
    model.zero_grad()
    objective(loss).gradients(model, parts, range(len(sizes)))
    compare(gradients_of(model), wanted)
    model.zero_grad()
    objective(loss).gradients(model, parts, range(7, 7 + len(sizes)))
    other = gradients_of(model)["pixels.weight"]
    assert float((other - wanted["pixels.weight"]).abs().max()) > 0.01 * float(other.abs().max())  # draws do matter


def compare(found, wanted):
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert float((found[name] - gradient).abs().max()) <= 1e-6 * float(gradient.abs().max()), name


def test_low_precision_towers_are_compared_in_float32():
    """Gradients arrive in the towers' own precision, as those of one pass do."""
    model, batch = TinyTowers().to(torch.bfloat16), pairs()
    whole = objective("softmax").loss(model, batch)
    assert whole.total.dtype == torch.float32
    whole.total.backward()
    wanted = gradients_of(model)
    model.zero_grad()
    found = objective("softmax").gradients(model, [batch], [0])
    assert float(found.total) == float(whole.total.detach())
    assert all(torch.equal(gradient, wanted[name]) for name, gradient in gradients_of(model).items())


def test_a_sigmoid_needs_a_bias():
    with pytest.raises(SpecError, match="loss=sigmoid needs a model with a bias"):
        objective("sigmoid").loss(TinyTowers(bias=False), pairs())


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_transformers(seed):
    """Means there, sums here. Worst case measured: 2.3e-7 relative."""
    modeling_clip = pytest.importorskip("transformers.models.clip.modeling_clip")
    images, texts = features(seed=seed)
    theirs = modeling_clip.image_text_contrastive_loss(14.0 * texts @ images.T)
    ours = softmax_loss(images, texts, torch.tensor(14.0).log())
    assert float(ours) == pytest.approx(9 * float(theirs), rel=1e-6)
