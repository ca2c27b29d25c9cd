"""The causal convolution is torch's, and sees no other document."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from corestone.nn.conv import CausalConv


def made(width, channels):
    conv = CausalConv(width, channels)
    torch.nn.init.normal_(conv.weight)
    return conv


def test_equals_a_grouped_convolution():
    x = torch.randn(2, 11, 6)
    conv = made(3, 6)
    kernel = conv.weight.flip(0).t()[:, None]  # torch counts from the oldest token
    wanted = F.conv1d(F.pad(x.transpose(1, 2), (2, 0)), kernel, groups=6).transpose(1, 2)
    found = conv(x, torch.arange(11).expand(2, 11))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def test_packed_documents_are_convolved_apart():
    lengths = [1, 5, 2, 7]
    x, conv = torch.randn(1, sum(lengths), 4), made(4, 4)
    packed = conv(x, torch.cat([torch.arange(n) for n in lengths])[None])
    alone = [conv(part, torch.arange(part.shape[1])[None]) for part in x.split(lengths, dim=1)]
    assert torch.equal(packed, torch.cat(alone, dim=1))


def test_token_by_token_equals_the_whole():
    x, conv, positions = torch.randn(1, 9, 4), made(3, 4), torch.arange(9)[None]
    whole = conv(x, positions)
    for t in range(2, 9):
        one = conv(x[:, t : t + 1], positions[:, t : t + 1], x[:, t - 2 : t])
        assert torch.equal(one, whole[:, t : t + 1])
