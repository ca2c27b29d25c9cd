"""The average of weights against torch's, and the exact way back from it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from corestone.core.errors import CheckpointError, SpecError
from corestone.optim.ema import ExponentialAverage
from corestone.parallel.precision import MasterWeights
from corestone.train.checkpoint import read_tensors, write_checkpoint


@dataclass(frozen=True)
class Pictures:
    images_BCHW: torch.Tensor


class Net(nn.Module):
    """A convolution with batch norm, for a batch that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 2)

    def forward(self, batch: Pictures) -> torch.Tensor:
        return self.head(self.norm(self.conv(batch.images_BCHW)).relu().mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def pictures(number: int) -> list[Pictures]:
    chance = torch.Generator().manual_seed(number)
    return [Pictures(torch.randn(8, 1, 6, 6, generator=chance) * 3 + 1) for _ in range(number)]


def train(model: Net, steps: int, average: ExponentialAverage | None = None, reference=None) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3)
    for batch in pictures(steps):
        model(batch).square().sum(1).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        if average is not None:
            average.update()
        if reference is not None:
            reference.update_parameters(model)


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@settings(deadline=None)
@given(decay=st.floats(0, 0.9999))
def test_it_is_the_average_of_torch(decay):
    """Bit for bit. torch's counts from the first weights it is shown, ours from those it is built on."""
    model = net()
    average = ExponentialAverage(dict(model.named_parameters()), decay)
    reference = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    reference.update_parameters(model)
    train(model, 4, average, reference)
    assert same(average.averages, dict(reference.module.named_parameters()))


def test_a_ramp_forgets_the_start():
    """The formula in a plain loop, in float64; worst relative difference seen: 3.4e-16."""
    value = torch.tensor([1.0], dtype=torch.float64)
    average = ExponentialAverage({"x": value}, decay=0.9, ramp=True)
    expected = 1.0
    for n in range(1, 200):
        value.fill_(float(n % 7))
        average.update()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * float(n % 7)
        assert average.averages["x"].item() == pytest.approx(expected, rel=1e-12)


def test_the_trained_weights_come_back_exactly():
    """And buffers that changed meanwhile; after an evaluation, and after one that fails."""
    model = net()
    average = ExponentialAverage(dict(model.named_parameters()), 0.9)
    train(model, 5, average)
    before = bits(model)
    with average.applied(model):
        assert same({name: p.detach() for name, p in model.named_parameters()}, average.averages)
        assert not torch.equal(model.conv.weight, before["conv.weight"])
        model.norm.running_mean.add_(1)
    assert same(bits(model), before)
    with pytest.raises(ZeroDivisionError), average.applied(model):
        raise ZeroDivisionError
    assert same(bits(model), before)


def test_averages_of_float32_masters_reach_a_bfloat16_model_and_leave_it():
    model = nn.Linear(7, 5)
    weights = MasterWeights(model, torch.bfloat16)
    average = ExponentialAverage(weights.masters, 0.5)
    for master in weights.masters.values():
        master.mul_(1.001)
    weights.publish()
    average.update()
    before = bits(model)
    with average.applied(model):
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, average.averages[name].to(torch.bfloat16))
            assert average.averages[name].dtype == torch.float32
    assert same(bits(model), before)


def test_a_run_resumed_from_a_checkpoint_has_the_same_average(tmp_path):
    whole = net()
    average = ExponentialAverage(dict(whole.named_parameters()), 0.99, ramp=True)
    train(whole, 3, average)
    write_checkpoint(tmp_path / "step", {"average.safetensors": average.tensors()}, {})
    cut = copy.deepcopy(whole)
    resumed = ExponentialAverage(dict(cut.named_parameters()), 0.99, ramp=True)
    resumed.load(read_tensors(tmp_path / "step" / "average.safetensors"))
    train(whole, 3, average)
    train(cut, 3, resumed)
    assert same(average.tensors(), resumed.tensors())
    assert not same(average.averages, {name: p.detach() for name, p in whole.named_parameters()})


def test_wrong_use_is_refused():
    model = net()
    average = ExponentialAverage(dict(model.named_parameters()), 0.9)
    with pytest.raises(SpecError, match="got 1"):
        ExponentialAverage({}, 1.0)
    other = nn.Linear(1, 1)
    with pytest.raises(SpecError, match=r"other parameters \(differing: \['bias'"), average.applied(other):
        pass
    with pytest.raises(CheckpointError, match=r"differing: \['head\.bias'\]"):
        average.load({name: tensor for name, tensor in average.tensors().items() if name != "head.bias"})
    with pytest.raises(CheckpointError, match="their shapes"):
        average.load({**average.tensors(), "head.bias": torch.zeros(3)})
