"""The root-mean-square norm's own gradients against the library's, and against differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from corestone.nn.norm import RMSNorm


def normed(shape: tuple[int, ...], dtype: torch.dtype, transposed: bool = False):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(dtype)
    x = (x.transpose(0, 1) if transposed else x).requires_grad_()
    norm = RMSNorm(x.shape[-1], eps=1e-6, dtype=dtype)
    with torch.no_grad():
        norm.weight.normal_(1.0, 0.5, generator=generator)
    return x, norm


@pytest.mark.parametrize("shape", [(7, 64), (3, 5, 33), (2, 3, 4, 8), (1, 1)])
@pytest.mark.parametrize("transposed", [False, True])
def test_values_and_gradients_are_the_librarys(shape, transposed):
    """Seen: at most 3.8e-6, of a sum over 15 rows."""
    x, norm = normed(shape, torch.float32, transposed)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    ours = norm(x)
    found = torch.autograd.grad(ours, (x, norm.weight), upstream)
    theirs = F.rms_norm(x, norm.normalized_shape, norm.weight, norm.eps)
    wanted = torch.autograd.grad(theirs, (x, norm.weight), upstream)
    worst = max((a - b).abs().max() for a, b in zip((ours, *found), (theirs, *wanted), strict=True))
    assert worst < 1e-5


def test_gradients_are_differences():
    x, norm = normed((3, 4, 6), torch.float64)
    assert torch.autograd.gradcheck(lambda x, weight: functional(norm, x, weight), (x, norm.weight))


def functional(norm: RMSNorm, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.func.functional_call(norm, {"weight": weight}, (x,))


def test_a_row_of_zeros_has_finite_gradients():
    x, norm = normed((2, 8), torch.float32)
    with torch.no_grad():
        x[0] = 0.0
    norm(x).sum().backward()
    assert norm(x)[0].eq(0.0).all()
    assert x.grad.isfinite().all()


def test_low_precision_gives_float32():
    """The statistics and what comes out, however the weights are stored."""
    x, norm = normed((4, 16), torch.bfloat16)
    exact = F.rms_norm(x.float(), norm.normalized_shape, norm.weight.float(), norm.eps)
    assert norm(x).dtype == torch.float32
    assert torch.allclose(norm(x), exact, atol=2e-6)
