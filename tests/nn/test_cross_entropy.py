"""The chunked loss equals the plain one, with its gradients."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corestone.core.batch import IGNORE
from corestone.nn import cross_entropy
from corestone.nn.cross_entropy import linear_cross_entropy


@dataclass
class Plain:
    """A head that is a matrix."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None

    def features(self, hidden):
        return hidden


def plain(hidden, weight, bias, targets, z_loss):
    logits = F.linear(hidden, weight, bias)
    keep = targets != IGNORE
    squares = torch.logsumexp(logits, -1)[keep].square().sum()
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum") + z_loss * squares, squares


@pytest.fixture(autouse=True)
def few_rows_at_a_time(monkeypatch):
    """Sixteen rows of 31 logits in cache, so that a few dozen rows take several pieces."""
    monkeypatch.setitem(cross_entropy.SOFTMAX_LOGITS, "cpu", 16 * 31)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 35),
    bias=st.booleans(),
    z_loss=st.sampled_from([0.0, 1e-4, 0.1]),
    ignored=st.floats(0, 0.9),
    seed=st.integers(0, 99),
)
def test_equals_the_plain_form(rows, bias, z_loss, ignored, seed):
    torch.manual_seed(seed)
    hidden, weight = torch.randn(rows, 8, requires_grad=True), torch.randn(31, 8, requires_grad=True)
    b = torch.randn(31, requires_grad=True) if bias else None
    targets = torch.randint(0, 31, (rows,))
    targets[torch.rand(rows) < ignored] = IGNORE
    parameters = [hidden, weight] + ([b] if b is not None else [])
    found, squares = linear_cross_entropy(hidden, Plain(weight, b), targets, z_loss)
    wanted, wanted_squares = plain(hidden, weight, b, targets, z_loss)
    # Worst of 300 random cases: 2.3e-7 relative in the sums, 4.3e-4 absolute in gradients of several hundred.
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(squares, wanted_squares.detach(), rtol=1e-5, atol=1e-3)
    if (targets != IGNORE).any():
        for one, other in zip(
            torch.autograd.grad(3 * found, parameters), torch.autograd.grad(3 * wanted, parameters), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_target_that_the_model_rules_out_has_its_whole_loss():
    """Its probability is zero in float32, and its logarithm would be minus infinity."""
    logits = torch.tensor([[0.0, 400.0, 1.0], [80.0, 0.0, 0.0], [0.5, 0.0, 1.0]])
    hidden, weight = logits.clone().requires_grad_(), torch.eye(3, requires_grad=True)
    found, squares = linear_cross_entropy(hidden, Plain(weight), torch.tensor([0, 1, 2]), 0.1)
    wanted, wanted_squares = plain(logits, torch.eye(3), None, torch.tensor([0, 1, 2]), 0.1)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0.0)  # measured 0
    torch.testing.assert_close(squares, wanted_squares, rtol=1e-6, atol=0.0)
    assert torch.isfinite(torch.autograd.grad(found, hidden)[0]).all()


def test_bfloat16_gradients_are_within_one_percent():
    torch.manual_seed(0)
    hidden, weight = torch.randn(600, 64), torch.randn(500, 64) * 0.1
    targets = torch.randint(0, 500, (600,))
    low = [hidden.bfloat16().requires_grad_(), weight.bfloat16().requires_grad_()]
    wide = [x.detach().float().requires_grad_() for x in low]
    found, _ = linear_cross_entropy(low[0], Plain(low[1]), targets)
    wanted, _ = plain(*wide, None, targets, 0.0)
    assert abs(found.item() / wanted.item() - 1) < 1e-4  # measured 1.2e-7
    for one, other in zip(torch.autograd.grad(found, low), torch.autograd.grad(wanted, wide), strict=True):
        assert ((one.float() - other).norm() / other.norm()).item() < 0.01  # measured 0.0020 and 0.0027


@pytest.mark.parametrize("z_loss", [0.0, 1e-3])
def test_compiled_equals_eager(z_loss):
    torch.manual_seed(0)
    hidden, weight = torch.randn(40, 8), torch.randn(31, 8)
    targets = torch.randint(0, 31, (40,))
    targets[::3] = IGNORE
    compiled = torch.compile(linear_cross_entropy, backend="aot_eager")
    for one, other in zip(
        compiled(hidden, Plain(weight), targets, z_loss),
        linear_cross_entropy(hidden, Plain(weight), targets, z_loss),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
