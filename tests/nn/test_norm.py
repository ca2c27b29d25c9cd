"""The norms' own gradients against the library's, and against differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from corestone.nn.norm import LayerNorm, RMSNorm


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


def low_precision_layer_norm(mean: float, bias: bool = True):
    """A layer norm stored in bfloat16, an input of this mean, and gradients; then the library's, of the same."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(5, 12, 256, generator=generator) + mean).requires_grad_()
    norm = LayerNorm(256, eps=1e-5, bias=bias, dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_(0.5, 0.5, generator=generator)
    upstream = torch.randn(x.shape, generator=generator)
    wide = [parameter.detach().float().requires_grad_() for parameter in norm.parameters()]
    exact = F.layer_norm(x, norm.normalized_shape, *wide, eps=norm.eps)
    wanted = torch.autograd.grad(exact, (x, *wide), upstream)
    return norm, x, upstream, exact, wanted


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_a_low_precision_layer_norm_keeps_half_and_is_as_exact(mean, bias):
    """Values to the bit. Relative distance of gradients of input, weights and bias, seen: at most 1.6e-4, 2.4e-3
    and 1.7e-3 (bfloat16's own rounding of the last two), also where the mean is a hundred deviations."""
    norm, x, upstream, exact, wanted = low_precision_layer_norm(mean, bias)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda y: (kept.append(y), y)[1], lambda y: y):
        out = norm(x)
    assert torch.equal(out, exact)
    assert {y.dtype for y in kept if y.shape == x.shape} == {torch.bfloat16}
    found = torch.autograd.grad(out, (x, *norm.parameters()), upstream)
    off = [((a.float() - b).norm() / b.norm()).item() for a, b in zip(found, wanted, strict=True)]
    assert off[0] < 5e-4
    assert off[1] < 4e-3
    assert all(error < 3e-3 for error in off[2:])


def test_a_low_precision_layer_norm_without_gradients_is_the_librarys():
    norm, x, _, exact, _ = low_precision_layer_norm(0.0)
    with torch.no_grad():
        assert torch.equal(norm(x), exact)
