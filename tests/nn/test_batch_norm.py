"""Batch norm against torch's own, and what a low-precision model keeps of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from corestone.core.errors import SpecError
from corestone.nn.batch_norm import BatchNorm


def pair(channels: int, dtype: torch.dtype = torch.float64) -> tuple[BatchNorm, nn.BatchNorm2d]:
    """Ours and torch's with the same gains and biases."""
    ours, theirs = BatchNorm(channels), nn.BatchNorm2d(channels)
    ours.start("cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for mine, other in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
            mine.copy_(torch.randn(channels, generator=generator))
            other.copy_(mine)
    return ours.to(dtype), theirs.to(dtype)


def pictures(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    scale = torch.tensor([0.1, 1.0, 30.0])[:, None, None]
    return (torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(1)) * scale + 10 * scale).to(dtype)


def test_steps_and_statistics_equal_torchs_to_the_last_bit():
    ours, theirs = pair(3)
    for seed in range(3):
        x = pictures() * (1 + seed)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        weights = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(seed))
        found, wanted = ours(a), theirs(b)
        assert torch.equal(found, wanted)
        (found * weights).sum().backward()
        (wanted * weights).sum().backward()
        assert torch.equal(a.grad, b.grad)
    assert torch.equal(ours.weight.grad, theirs.weight.grad)
    assert torch.equal(ours.bias.grad, theirs.bias.grad)
    assert torch.equal(ours.mean, theirs.running_mean)
    assert torch.equal(ours.variance, theirs.running_var)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_statistics_by_hand():
    """The mean and the unbiased variance, a tenth of them after one step; rows are normed by the biased one."""
    ours, _ = pair(3)
    x = pictures()
    out = ours(x)
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    assert torch.allclose(ours.mean, 0.1 * mean, rtol=1e-12)
    assert torch.allclose(ours.variance, 0.9 + 0.1 * variance, rtol=1e-12)
    biased = variance * (1 - 1 / 40)
    normed = (x - mean[:, None, None]) / (biased + 1e-5).sqrt()[:, None, None]
    assert torch.allclose(out, normed * ours.weight[:, None, None] + ours.bias[:, None, None], rtol=1e-9, atol=1e-12)


def test_training_rows_depend_on_each_other_and_evaluated_ones_do_not():
    ours, _ = pair(3)
    x = pictures()
    assert not torch.allclose(ours(x)[:2], ours(x[:2]))
    ours.eval()
    before = ours.mean.clone()
    assert torch.equal(ours(x)[:2], ours(x[:2]))
    assert torch.equal(ours.mean, before)


def test_a_low_precision_model_keeps_parameters_and_statistics_in_float32():
    """A mean of 300 at a deviation of 30 is far beyond bfloat16's two digits: rounded inputs, exact statistics of
    them."""
    ours, _ = pair(3, torch.float32)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), ours).to(torch.bfloat16)
    assert model[0].weight.dtype == torch.bfloat16
    kept = [ours.weight, ours.bias, ours.mean, ours.variance]
    assert all(tensor.dtype == torch.float32 for tensor in kept)
    assert {tensor.dtype for tensor in copy.deepcopy(ours).double().state_dict().values()} == {torch.float64}
    x = pictures(torch.bfloat16)
    out = ours(x)
    assert out.dtype == torch.bfloat16
    exact = pair(3)[0]
    wanted = exact(x.double())
    assert torch.allclose(ours.mean.double(), exact.mean, rtol=1e-6)  # worst 4e-8
    assert torch.allclose(ours.variance.double(), exact.variance, rtol=1e-5)  # worst 7e-8
    assert torch.allclose(out.double(), wanted, rtol=2**-8, atol=1e-5)  # the output's own rounding


def test_one_value_per_channel_is_refused_in_training_alone():
    ours, _ = pair(3)
    lone = torch.zeros(1, 3, dtype=torch.float64)
    with pytest.raises(SpecError, match="two rows or more"):
        ours(lone)
    assert torch.isfinite(ours.eval()(lone)).all()
