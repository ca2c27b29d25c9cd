"""Activations by their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from corestone.nn.feedforward import quick_gelu


def test_quick_gelu_and_its_slope_are_the_formulas():
    x = torch.linspace(-9, 9, 41, dtype=torch.float64, requires_grad=True)
    y = quick_gelu(x)
    y.sum().backward()
    for value, found, slope in zip(x.tolist(), y.tolist(), x.grad.tolist(), strict=True):
        share = 1 / (1 + math.exp(-1.702 * value))
        assert found == pytest.approx(value * share, abs=1e-12)
        assert slope == pytest.approx(share + 1.702 * value * share * (1 - share), abs=1e-12)


def test_quick_gelu_is_the_same_with_and_without_a_gradient():
    """Trained, it is a function of its own; else a chain of torch's."""
    x = torch.linspace(-9, 9, 41, requires_grad=True)
    with torch.no_grad():
        plain = quick_gelu(x)
    assert torch.equal(quick_gelu(x).detach(), plain)
