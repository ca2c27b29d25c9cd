"""Look-ups sum the gradients of repeated ids without rounding in between."""

from __future__ import annotations

import torch

from corestone.nn.embedding import lookup


def test_gradient_of_a_frequent_id_is_rounded_once():
    table = torch.randn(7, 4, dtype=torch.bfloat16, requires_grad=True)
    ids = torch.full((1, 3000), 2)
    ids[0, 0] = 5
    out = lookup(table, ids)
    gradient = torch.rand(out.shape).bfloat16()
    (found,) = torch.autograd.grad(out, table, gradient)
    wanted = torch.zeros(7, 4).index_add_(0, ids[0], gradient[0].float())
    torch.testing.assert_close(found.float(), wanted.bfloat16().float(), rtol=2**-7, atol=0)
    assert not found[[0, 1, 3, 4, 6]].any()
