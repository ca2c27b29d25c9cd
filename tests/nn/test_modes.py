"""Training, evaluation and freezing: who drops out, whose statistics move, who gets a gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corestone.core.batch import ImageBatch
from corestone.nn.batch_norm import BatchNorm, recompute_statistics
from corestone.nn.modes import evaluation_mode, freeze, is_frozen, training_mode


class Tower(nn.Module):
    """A map, a norm of batches, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.map, self.norm, self.dropout = nn.Linear(4, 4), BatchNorm(4), nn.Dropout(0.5)
        nn.init.ones_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)
        self.norm.start("cpu")

    def forward(self, x_BC: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.norm(self.map(x_BC)))
        return out


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = Tower(), Tower()

    def forward(self, batch: ImageBatch) -> Tensor:
        out: Tensor = self.second(self.first(batch.images_BCHW.flatten(1)))
        return out


BATCH = ImageBatch(torch.randn(32, 4, 1, 1, generator=torch.Generator().manual_seed(1)))
FIRST = {"first.map.weight", "first.map.bias", "first.norm.weight", "first.norm.bias"}


def test_a_frozen_tower_gets_no_gradient_drops_nothing_and_keeps_its_statistics():
    model = Pair()
    freeze(model, FIRST)
    before = model.first(BATCH.images_BCHW.flatten(1))
    model(BATCH).sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == FIRST
    assert torch.equal(model.first(BATCH.images_BCHW.flatten(1)), before)
    assert not model.first.norm.mean.any()
    assert model.second.norm.mean.any()
    assert not torch.equal(model.second(before), model.second(before))


def test_a_module_of_which_something_is_trained_is_in_training():
    model = Pair()
    freeze(model, FIRST - {"first.norm.bias"})
    assert is_frozen(model.first.map)
    assert not is_frozen(model.first)
    assert not is_frozen(model.first.dropout)  # it has nothing to freeze: it goes with what it is in
    modes = {name for name, module in model.named_modules() if module.training}
    assert modes == {
        "",
        "first",
        "first.norm",
        "first.dropout",
        "second",
        "second.map",
        "second.norm",
        "second.dropout",
    }


def test_evaluation_gives_each_module_its_own_mode_back():
    model = Pair()
    freeze(model, FIRST)
    modes = [module.training for module in model.modules()]
    assert len(set(modes)) == 2
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes
    model.eval()
    training_mode(model)
    assert [module.training for module in model.modules()] == modes


def test_statistics_taken_anew_are_not_those_of_frozen_norms():
    model = Pair()
    freeze(model, FIRST)
    model.eval()
    recompute_statistics(model, [BATCH])
    assert not any(module.training for module in model.modules())
    assert not model.first.norm.mean.any()
    wanted = model.second.map(model.first(BATCH.images_BCHW.flatten(1))).mean(0)
    torch.testing.assert_close(model.second.norm.mean, wanted, atol=1e-6, rtol=0)  # worst seen: 3e-8
