"""Lion, LAMB, SGD and rates by layer against timm, lion-pytorch and torch."""

from __future__ import annotations

import pytest
import torch

from corestone.optim.build import build_optimiser, rules_of, set_learning_rate
from corestone.optim.layerwise import layerwise_rules
from corestone.optim.spec import LAMB, SGD, AdamW, Lion

SHAPES = {"matrix": (64, 48), "bias": (64,), "kernel": (8, 3, 3, 3)}
STEPS = 50


def parameters() -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=chance) for name, shape in SHAPES.items()}


def trained(named, optimiser, set_rate):
    """Weights after steps of falling size with the same gradients, whose scale changes."""
    for step in range(STEPS):
        chance = torch.Generator().manual_seed(1 + step)
        set_rate(optimiser, 1e-2 * (1 - step / STEPS))
        for tensor in named.values():
            tensor.grad = torch.randn(tensor.shape, generator=chance) * 10.0 ** (step % 5 - 3)
        optimiser.step()
    return named


def both(spec, reference, decay, **settings):
    """Largest difference of ours from a reference, and how far it went."""

    def set_rate(optimiser, rate):
        for group in optimiser.param_groups:
            group["lr"] = rate

    ours, theirs = parameters(), parameters()
    trained(ours, build_optimiser(spec, ours), set_learning_rate)
    matrices = {"params": [tensor for tensor in theirs.values() if tensor.ndim > 1], "weight_decay": decay}
    vectors = {"params": [tensor for tensor in theirs.values() if tensor.ndim < 2], "weight_decay": 0.0}
    trained(theirs, reference([matrices, vectors], **settings), set_rate)
    moved = min(float((theirs[name] - start).abs().max()) for name, start in parameters().items())
    return max(float((ours[name] - theirs[name]).abs().max()) for name in SHAPES), moved


@pytest.mark.parity
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.95, 0.98)])
def test_lion_of_timm(betas):
    timm = pytest.importorskip("timm.optim")
    spec = Lion(learning_rate=1e-2, beta1=betas[0], beta2=betas[1], weight_decay=0.1)
    difference, moved = both(spec, timm.Lion, 0.1, betas=betas)
    assert difference == 0
    assert moved > 0.1


@pytest.mark.parity
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.95, 0.98)])
def test_lion_of_lion_pytorch(betas):
    package = pytest.importorskip("lion_pytorch")
    spec = Lion(learning_rate=1e-2, beta1=betas[0], beta2=betas[1], weight_decay=0.1)
    difference, moved = both(spec, package.Lion, 0.1, betas=betas)
    assert difference == 0
    assert moved > 0.1


@pytest.mark.parity
@pytest.mark.parametrize("foreach", [True, False])
def test_lamb_of_timm(foreach):
    """Largest difference seen: 2.4e-7 with foreach, where timm multiplies in another order, else 0."""
    timm = pytest.importorskip("timm.optim")
    spec = LAMB(learning_rate=1e-2, weight_decay=0.1)
    difference, moved = both(spec, timm.Lamb, 0.1, max_grad_norm=None, foreach=foreach)
    assert difference < 2e-6
    assert moved > 0.1


@pytest.mark.parity
@pytest.mark.parametrize("foreach", [True, False])
def test_sgd_of_torch(foreach):
    """Ours is the fused one. Largest difference seen: 0."""
    spec = SGD(learning_rate=1e-2, weight_decay=0.1)
    difference, moved = both(spec, torch.optim.SGD, 0.1, momentum=0.9, foreach=foreach)
    assert difference < 1e-6
    assert moved > 0.1


@pytest.mark.parity
def test_rates_by_layer_of_timm():
    """The same rates and decay, but that timm spares two tables by name and gives the final norm the last layer's rate
    (BEiT's own code: the head's, as ours)."""
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224")
    named = dict(model.named_parameters())
    embedding = ("cls_token", "pos_embed", "patch_embed.*")
    rules = layerwise_rules(12, 0.75, 0.05, head=("norm.*", "head.*"), stack="blocks", embedding=embedding)
    ours = rules_of(AdamW(learning_rate=1, rules=rules), named)
    groups = timm.optim.param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.75)
    of = {id(tensor): group for group in groups for tensor in group["params"]}
    assert len(of) == len(named)
    for name, tensor in named.items():
        lower = 0.75 if name.startswith("norm.") else 1.0
        assert of[id(tensor)]["lr_scale"] == pytest.approx(lower * ours[name].lr_scale)
        spared = name in {"cls_token", "pos_embed"}
        assert of[id(tensor)]["weight_decay"] == (0 if spared else ours[name].weight_decay)
