"""Adafactor against torch's, and PaLM's form of it against the papers' formulas in plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from corestone.optim.build import build_optimiser, load_optimiser_tensors, optimiser_tensors, set_learning_rate
from corestone.optim.spec import Adafactor

SHAPES = {"matrix": (5, 7), "bias": (6,), "kernel": (2, 3, 4)}


def parameters() -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=chance, dtype=torch.float64) for name, shape in SHAPES.items()}


def give_gradients(named: dict[str, torch.Tensor], step: int) -> None:
    chance = torch.Generator().manual_seed(1 + step)
    for tensor in named.values():
        tensor.grad = torch.randn(tensor.shape, generator=chance, dtype=torch.float64) * 10.0 ** (step % 5 - 3)


def test_factored_it_equals_the_one_of_torch():
    """Worst relative difference seen: 1.6e-15."""
    ours, theirs = parameters(), parameters()
    optimiser = build_optimiser(Adafactor(learning_rate=1e-2), ours)
    reference = torch.optim.Adafactor(theirs.values(), lr=1e-2)
    for step in range(30):
        for named in (ours, theirs):
            give_gradients(named, step)
        optimiser.step()
        reference.step()
    for name in SHAPES:
        assert not torch.equal(ours[name], parameters()[name])
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=0)


def palm_by_hand(values: list[float], gradients: list[list[float]], rate: float) -> list[float]:
    """Adam's moments with beta2 = 1 - t^-0.8, updates cut at a root mean square of 1, scaled by the parameter's."""
    mean, squares = [0.0] * len(values), [0.0] * len(values)
    for t, gradient in enumerate(gradients, start=1):
        beta2 = 1 - t**-0.8
        squares = [beta2 * v + (1 - beta2) * (g * g + 1e-30) for v, g in zip(squares, gradient, strict=True)]
        update = [g / math.sqrt(v) for g, v in zip(gradient, squares, strict=True)]
        size = math.sqrt(sum(u * u for u in update) / len(update))
        mean = [0.9 * m + 0.1 * u / max(1.0, size) for m, u in zip(mean, update, strict=True)]
        scale = max(1e-3, math.sqrt(sum(x * x for x in values) / len(values)))
        values = [x * (1 - rate**2) - rate * scale * m for x, m in zip(values, mean, strict=True)]
    return values


@pytest.mark.parametrize("name", SHAPES)
def test_unfactored_with_momentum_and_decay_it_is_palms(name):
    """Worst relative difference seen: 4e-14."""
    ours = parameters()
    optimiser = build_optimiser(Adafactor(learning_rate=0.3, beta1=0.9, factored=False, squared_decay=True), ours)
    gradients = []
    for step in range(12):
        give_gradients(ours, step)
        gradients.append(ours[name].grad.flatten().tolist())
        optimiser.step()
    expected = palm_by_hand(parameters()[name].flatten().tolist(), gradients, rate=0.3)
    torch.testing.assert_close(ours[name].flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.parametrize("palms", [False, True])
def test_it_goes_on_from_its_saved_state_to_the_same_bits(palms):
    spec = Adafactor(learning_rate=0.1, beta1=0.9 if palms else None, factored=not palms)
    whole, cut = parameters(), parameters()
    first, second = build_optimiser(spec, whole), build_optimiser(spec, cut)
    for step in range(6):
        if step == 3:
            saved = {name: value.clone() for name, value in optimiser_tensors(second).items()}
            second = build_optimiser(spec, cut)
            load_optimiser_tensors(second, saved)
        for named, optimiser in ((whole, first), (cut, second)):
            set_learning_rate(optimiser, 0.1 / (1 + step))
            give_gradients(named, step)
            optimiser.step()
    assert all(torch.equal(whole[name], cut[name]) for name in SHAPES)


def test_factored_state_is_a_row_and_a_column():
    named = {"matrix": torch.ones(300, 200, dtype=torch.float64)}
    optimiser = build_optimiser(Adafactor(learning_rate=0.1), named)
    give_gradients(named, 0)
    optimiser.step()
    assert sum(value.numel() for value in optimiser_tensors(optimiser).values()) == 300 + 200 + 1


@pytest.mark.parametrize("size", [1e-9, 1e-12, 1e-14])
def test_small_gradients_make_steps_of_the_same_size(size):
    """In float32 the product of two means of their squares would be zero, and the step no number. Means of squares are
    1e-30 at least, as published, which shortens the steps of 1e-14 by 1.0 % here at most."""
    steps = []
    for scale in (1.0, size):
        named = {"matrix": torch.ones(5, 7)}
        optimiser = build_optimiser(Adafactor(learning_rate=1e-2), named)
        named["matrix"].grad = torch.randn(5, 7, generator=torch.Generator().manual_seed(1)) * scale
        optimiser.step()
        steps.append(1 - named["matrix"])
    torch.testing.assert_close(steps[1], steps[0], rtol=0.02, atol=0)
