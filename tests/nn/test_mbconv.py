"""The inverted bottleneck against torch's functions, branch by branch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from corestone.nn.batch_norm import BatchNorm
from corestone.nn.mbconv import MBConvBlock
from corestone.nn.spec import MBConv


def block(stride_at: str, channels: int, halve: bool) -> MBConvBlock:
    """In float64, every parameter and statistic drawn."""
    made = MBConvBlock(MBConv(stride_at=stride_at), channels, 8, halve, 0.0).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            tensor.copy_(torch.rand(tensor.shape, dtype=torch.float64, generator=generator) + (tensor.ndim == 1) - 0.4)
    return made.eval()


@pytest.mark.parametrize("stride_at", ["expand", "depthwise"])
@pytest.mark.parametrize(("channels", "halve"), [(8, False), (8, True), (4, True), (4, False)])
def test_the_block_is_what_its_drawing_says(stride_at, channels, halve):
    made = block(stride_at, channels, halve)
    x = torch.randn(2, channels, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def norm(layer: BatchNorm, h: torch.Tensor) -> torch.Tensor:
        centred = (h - layer.mean[:, None, None]) / (layer.variance[:, None, None] + 1e-5).sqrt()
        return centred * layer.weight[:, None, None] + layer.bias[:, None, None]

    stride = 2 if halve else 1
    first, second = (stride, 1) if stride_at == "expand" else (1, stride)
    h = torch.einsum("bchw,dc->bdhw", norm(made.norm, x), made.expand.weight[:, :, 0, 0])[:, :, ::first, ::first]
    h = F.gelu(norm(made.expand_norm, h))
    h = F.gelu(norm(made.depthwise_norm, F.conv2d(h, made.depthwise.weight, None, second, 1, groups=32)))
    squeeze = made.squeeze
    assert squeeze.down.weight.shape == (2, 32)  # a fourth of the eight outputs
    share = F.silu(h.mean((2, 3)) @ squeeze.down.weight.T + squeeze.down.bias) @ squeeze.up.weight.T + squeeze.up.bias
    h = F.conv2d(h * share.sigmoid()[:, :, None, None], made.project.weight, made.project.bias)
    rest = torch.stack([x[:, :, a::2, b::2] for a in (0, 1) for b in (0, 1)]).amax(0) if halve else x
    assert (made.shortcut is None) == (channels == 8)
    if made.shortcut is not None:
        rest = F.conv2d(rest, made.shortcut.weight, made.shortcut.bias)
    out = made(x)
    assert out.shape == (2, 8, 2, 3) if halve else (2, 8, 4, 6)
    assert torch.allclose(out, rest + h, rtol=1e-12, atol=1e-12)
