"""Lion, SGD, LAMB and CoCa's Adafactor against their formulas in plain loops, and all of them resumed."""

from __future__ import annotations

import math

import pytest
import torch

from corestone.core.errors import SpecError
from corestone.core.spec import parse
from corestone.optim import parts as parts_of
from corestone.optim.build import (
    build_optimiser,
    load_optimiser_tensors,
    optimiser_tensors,
    rules_of,
    set_learning_rate,
)
from corestone.optim.spec import LAMB, SGD, Adafactor, AdamW, Lion, Rule
from corestone.train.checkpoint import read_tensors, write_checkpoint

SHAPES = {"matrix": (5, 7), "bias": (6,), "kernel": (2, 3, 4)}
RATE, DECAY = 0.03, 0.2
COCA = Adafactor(learning_rate=RATE, beta1=0.9, beta2=0.999, factored=False, weight_decay=DECAY)


def parameters(dtype=torch.float64) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=chance, dtype=dtype) for name, shape in SHAPES.items()}


def give_gradients(named: dict[str, torch.Tensor], step: int) -> None:
    chance = torch.Generator().manual_seed(1 + step)
    for name, shape in SHAPES.items():
        named[name].grad = torch.randn(shape, generator=chance, dtype=named[name].dtype) * 10.0 ** (step % 5 - 3)


def norm(values: list[float]) -> float:
    return math.sqrt(sum(value * value for value in values))


def lion_by_hand(values, gradients, decay):
    means = [0.0] * len(values)
    for gradient in gradients:
        mixed = [0.9 * m + 0.1 * g for m, g in zip(means, gradient, strict=True)]
        values = [x - RATE * (math.copysign(1, c) + decay * x) for x, c in zip(values, mixed, strict=True)]
        means = [0.99 * m + 0.01 * g for m, g in zip(means, gradient, strict=True)]
    return values


def sgd_by_hand(values, gradients, decay):
    """The decay is part of the gradient, so the velocity carries it too."""
    speeds = [0.0] * len(values)
    for gradient in gradients:
        speeds = [0.9 * v + g + decay * x for v, g, x in zip(speeds, gradient, values, strict=True)]
        values = [x - RATE * v for x, v in zip(values, speeds, strict=True)]
    return values


def adam_steps(gradients, beta1, beta2, eps):
    """Adam's step of each time, before the learning rate."""
    means, squares = [0.0] * len(gradients[0]), [0.0] * len(gradients[0])
    for t, gradient in enumerate(gradients, start=1):
        means = [beta1 * m + (1 - beta1) * g for m, g in zip(means, gradient, strict=True)]
        squares = [beta2 * v + (1 - beta2) * g * g for v, g in zip(squares, gradient, strict=True)]
        pairs = zip(means, squares, strict=True)
        yield [m / (1 - beta1**t) / (math.sqrt(v / (1 - beta2**t)) + eps) for m, v in pairs]


def lamb_by_hand(values, gradients, decay):
    for step in adam_steps(gradients, 0.9, 0.999, 1e-6):
        if decay:
            step = [s + decay * x for s, x in zip(step, values, strict=True)]
            step = [s * norm(values) / norm(step) for s in step]
        values = [x - RATE * s for x, s in zip(values, step, strict=True)]
    return values


def coca_by_hand(values, gradients, decay):
    """Adam's second moments, without its first; then as PaLM's, but with decoupled decay."""
    mean = [0.0] * len(values)
    for update in adam_steps(gradients, 0.0, 0.999, 0.0):
        size = norm(update) / math.sqrt(len(update))
        mean = [0.9 * m + 0.1 * u / max(1.0, size) for m, u in zip(mean, update, strict=True)]
        scale = max(1e-3, norm(values) / math.sqrt(len(values)))
        values = [x * (1 - RATE * decay) - RATE * scale * m for x, m in zip(values, mean, strict=True)]
    return values


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    ("spec", "by_hand"),
    [
        (Lion(learning_rate=RATE, weight_decay=DECAY), lion_by_hand),
        (SGD(learning_rate=RATE, weight_decay=DECAY), sgd_by_hand),
        (LAMB(learning_rate=RATE, weight_decay=DECAY), lamb_by_hand),
        (COCA, coca_by_hand),
    ],
    ids=["lion", "sgd", "lamb", "adafactor of coca"],
)
def test_it_is_its_formula(name, spec, by_hand):
    """Worst difference seen, in float64: 3.5e-15 of a value; 7e-17 on LAMB's value of -5e-6."""
    ours, gradients = parameters(), []
    optimiser = build_optimiser(spec, ours)
    for step in range(12):
        give_gradients(ours, step)
        gradients.append(ours[name].grad.flatten().tolist())
        optimiser.step()
    decay = 0.0 if name == "bias" else DECAY
    expected = torch.tensor(by_hand(parameters()[name].flatten().tolist(), gradients, decay), dtype=torch.float64)
    torch.testing.assert_close(ours[name].flatten(), expected, rtol=1e-12, atol=1e-14)


KINDS = [
    AdamW(learning_rate=RATE),
    Lion(learning_rate=RATE, weight_decay=DECAY),
    SGD(learning_rate=RATE, weight_decay=DECAY),
    SGD(learning_rate=RATE, momentum=0.0),
    LAMB(learning_rate=RATE, weight_decay=DECAY),
    COCA,
]


@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: spec.kind)
def test_it_goes_on_from_a_checkpoint_to_the_same_bits(spec, tmp_path):
    whole, cut = parameters(torch.float32), parameters(torch.float32)
    first, second = build_optimiser(spec, whole), build_optimiser(spec, cut)
    for step in range(8):
        if step == 3:
            files = {"model.safetensors": cut, "optimizer.safetensors": optimiser_tensors(second)}
            write_checkpoint(tmp_path / "step", files, {})
            cut = read_tensors(tmp_path / "step" / "model.safetensors")
            second = build_optimiser(spec, cut)
            load_optimiser_tensors(second, read_tensors(tmp_path / "step" / "optimizer.safetensors"))
        for named, optimiser in ((whole, first), (cut, second)):
            set_learning_rate(optimiser, RATE / (1 + step))
            give_gradients(named, step)
            optimiser.step()
    assert all(torch.equal(whole[name], cut[name]) for name in SHAPES)
    assert not any(torch.equal(whole[name], parameters(torch.float32)[name]) for name in SHAPES)


@pytest.mark.parametrize(
    ("spec", "keys"),
    [
        (Lion(learning_rate=RATE), {"exp_avg"}),
        (SGD(learning_rate=RATE), {"momentum_buffer"}),
        (LAMB(learning_rate=RATE), {"step", "exp_avg", "exp_avg_sq"}),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_what_it_keeps(spec, keys):
    named = parameters(torch.float32)
    optimiser = build_optimiser(spec, named)
    give_gradients(named, 0)
    optimiser.step()
    assert optimiser_tensors(optimiser).keys() == {f"{name}/{key}" for name in SHAPES for key in keys}


@pytest.mark.parametrize("spec", [Lion(learning_rate=RATE, weight_decay=DECAY), LAMB(learning_rate=RATE)])
@pytest.mark.parametrize("most", [1, 40, 60])
def test_the_size_of_parts_changes_no_bit(spec, most, monkeypatch):
    whole, cut = parameters(torch.float32), parameters(torch.float32)
    build = {name: build_optimiser(spec, named) for name, named in (("whole", whole), ("cut", cut))}
    pieces = parts_of.parts
    seen = []

    def smaller(group):
        for part in pieces(group, most):
            seen.append(len(part[0]))
            yield part

    for step in range(3):
        give_gradients(whole, step)
        give_gradients(cut, step)
        build["whole"].step()
        with monkeypatch.context() as patch:
            patch.setattr(f"corestone.optim.{spec.kind}.parts", smaller)
            build["cut"].step()
    assert all(torch.equal(whole[name], cut[name]) for name in SHAPES)
    assert sum(seen) == 9
    assert max(seen) == (2 if most == 60 else 1)  # 35 and 24 values; the bias is a group of its own


@pytest.mark.parametrize("kind", [Lion, LAMB])
def test_a_parameter_without_a_gradient_stays(kind):
    named = parameters()
    optimiser = build_optimiser(kind(learning_rate=RATE), named)
    give_gradients(named, 0)
    named["kernel"].grad = None
    optimiser.step()
    assert torch.equal(named["kernel"], parameters()["kernel"])
    assert not torch.equal(named["matrix"], parameters()["matrix"])


def test_lambs_step_on_a_matrix_is_as_long_as_the_rate_says_and_zeros_may_leave_zero():
    named = {"matrix": torch.randn(8, 8, generator=torch.Generator().manual_seed(0)), "zeros": torch.zeros(3, 3)}
    before = {name: tensor.clone() for name, tensor in named.items()}
    optimiser = build_optimiser(LAMB(learning_rate=0.01), named)
    for gradients in (1e-4, 1e4):
        for tensor in named.values():
            tensor.grad = torch.full_like(tensor, gradients)
        length = named["matrix"].norm()
        start = named["matrix"].clone()
        optimiser.step()
        assert (named["matrix"] - start).norm() / length == pytest.approx(0.01, rel=1e-5)  # seen: 1e-7
    assert (named["zeros"] != before["zeros"]).all()


@pytest.mark.parametrize("kind", [Adafactor, Lion, SGD, LAMB])
def test_rules_and_axes_say_what_decays(kind):
    named = parameters()
    by_axes = rules_of(kind(learning_rate=RATE, weight_decay=DECAY), named)
    assert {name: rule.weight_decay for name, rule in by_axes.items()} == {"matrix": DECAY, "bias": 0, "kernel": DECAY}
    rules = (Rule(match=("matrix", "bias"), weight_decay=0.5, lr_scale=0.1), Rule(match=("kernel",)))
    optimiser = build_optimiser(kind(learning_rate=RATE, rules=rules), named)
    found = {tuple(group["names"]): (group["weight_decay"], group["lr_scale"]) for group in optimiser.param_groups}
    assert found == {("matrix", "bias"): (0.5, 0.1), ("kernel",): (0.0, 1.0)}


def test_lamb_without_decay_is_refused():
    """It would be Adam."""
    with pytest.raises(SpecError, match="optimiser: weight_decay"):
        parse(LAMB, {"kind": "lamb", "learning_rate": 0.1, "weight_decay": 0.0}, "optimiser")
