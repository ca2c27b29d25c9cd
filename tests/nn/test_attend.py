"""Both attention kernels compute what the definition says, forward and backward."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corestone.core.mask import Mask
from corestone.nn.attend import BLOCK_ROWS, attend, attend_fused, attend_products, lower


def by_definition(q, k, v, segments, window, bias=None):
    """Softmax over allowed keys, one query at a time, in float64."""
    q, k, v = (x.double() for x in (q, k, v))
    B, _, T, H = q.shape
    rows = []
    for t in range(T):
        scores = torch.einsum("bnh,bnsh->bns", q[:, :, t], k) / math.sqrt(H)
        if bias is not None:
            scores = scores + bias[:, t].double()
        allowed = torch.arange(T) <= t
        if window is not None:
            allowed = allowed & (torch.arange(T) > t - window)
        allowed = allowed.expand(B, T)
        if segments is not None:
            allowed = allowed & (segments == segments[:, t : t + 1])
        scores = scores.masked_fill(~allowed[:, None], -math.inf)
        rows.append(torch.einsum("bns,bnsh->bnh", scores.softmax(-1), v))
    return torch.stack(rows, dim=2)


def inputs(B, T, seed, dtype=torch.float32):
    torch.manual_seed(seed)
    return [torch.randn(B, 2, T, 8, dtype=dtype).requires_grad_() for _ in range(3)]


@settings(max_examples=12, deadline=None)
@given(
    B=st.integers(1, 3),
    T=st.integers(2, 2 * BLOCK_ROWS + 40),
    window=st.none() | st.integers(1, 300),
    documents=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_kernels_equal_the_definition(B, T, window, documents, seed):
    q, k, v = inputs(B, T, seed)
    segments = torch.randint(0, documents, (B, T)).sort(1).values.int() if documents else None
    lowered = lower(Mask(segments_BT=segments), T, torch.float32)
    wanted = by_definition(q, k, v, segments, window)
    gradient = torch.randn(wanted.shape)
    wanted_gradients = torch.autograd.grad(wanted, (q, k, v), gradient.double())
    for kernel in (attend_products, attend_fused):
        found = kernel(q, k, v, lowered, window)
        # Worst of 60 random shapes: 8.2e-7 forward, 3.4e-6 backward.
        torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
        for one, other in zip(torch.autograd.grad(found, (q, k, v), gradient), wanted_gradients, strict=True):
            torch.testing.assert_close(one.double(), other.double(), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("documents", [0, 3])
@pytest.mark.parametrize("T", [2, 31, BLOCK_ROWS + 7])
def test_a_bias_per_head_and_shared_heads(T, documents):
    """Six heads of queries, two of keys and values, learned biases: both kernels and the chooser."""
    torch.manual_seed(T)
    q = torch.randn(2, 6, T, 8, requires_grad=True)
    k, v = (torch.randn(2, 2, T, 8, requires_grad=True) for _ in range(2))
    segments = torch.randint(0, documents, (2, T)).sort(1).values.int() if documents else None
    bias = torch.randn(6, T, T, requires_grad=True)
    lowered = replace(lower(Mask(segments_BT=segments), T, torch.float32), bias_NTS=bias)
    repeated = [x.repeat_interleave(3, dim=1) for x in (k, v)]
    wanted = by_definition(q, *repeated, segments, None, bias)
    gradient = torch.randn(wanted.shape)
    wanted_gradients = torch.autograd.grad(wanted, (q, k, v, bias), gradient.double(), retain_graph=True)
    for found in (
        attend(q, k, v, lowered),
        attend_products(q, *repeated, lowered),
        attend_fused(q, *repeated, lowered),
    ):
        torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
        for one, other in zip(
            torch.autograd.grad(found, (q, k, v, bias), gradient, retain_graph=True), wanted_gradients, strict=True
        ):
            torch.testing.assert_close(one.double(), other.double(), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("T", [24, 64, 77, 300])
def test_bfloat16_products_stay_close_to_float32(T):
    """Rows of whole vectors and others."""
    q, k, v = inputs(2, T, 0)
    lowered = lower(Mask(), T, torch.bfloat16)
    wanted = attend_fused(q, k, v, lower(Mask(), T, torch.float32))
    found = attend_products(q.bfloat16(), k.bfloat16(), v.bfloat16(), lowered).float()
    error = ((found - wanted).norm() / wanted.norm()).item()
    assert error < 0.01  # measured 0.0046; the format itself rounds by up to 0.004


def test_a_token_never_sees_later_ones_or_other_segments():
    q, k, v = inputs(1, 40, 1)
    segments = torch.tensor([[0] * 15 + [1] * 25], dtype=torch.int32)
    lowered = lower(Mask(segments_BT=segments), 40, torch.float32)
    out = attend_products(q, k, v, lowered)
    for t in (0, 14, 15, 30):
        (gradient,) = torch.autograd.grad(out[:, :, t].sum(), v, retain_graph=True)
        reached = gradient.abs().sum((0, 1, 3)).nonzero().flatten().tolist()
        assert reached == [s for s in range(t + 1) if segments[0, s] == segments[0, t]]


@pytest.mark.parametrize("window", [None, 5])
def test_compiled_equals_eager(window):
    q, k, v = inputs(1, 33, 2)
    lowered = lower(Mask(), 33, torch.float32)
    compiled = torch.compile(lambda *x: attend_fused(*x, lowered, window), backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, v), attend_fused(q, k, v, lowered, window))
