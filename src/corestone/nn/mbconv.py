"""The inverted bottleneck.

            x ─┬─ norm ─ expand ─ norm ─ gelu ─ depthwise ─ norm ─ gelu ─ squeeze ─ project ─ drop path ─ + ─ y
               └─────────────────────────────── pool ─ shortcut ──────────────────────────────────────────┘

Shape letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from corestone.nn.batch_norm import BatchNorm
from corestone.nn.drop_path import DropPath
from corestone.nn.norm import at_least_float32
from corestone.nn.spec import MBConv

EXPANSION, SQUEEZE, KERNEL = 4, 4, 3
"""Of a block's outputs there are four times as many channels inside and a fourth in the squeeze; side of the depthwise
kernel (Dai et al. 2021, appendix A)."""


class SqueezeExcitation(nn.Module):
    """Each channel of (B, C, H, W) times a share that follows from the means of all (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, squeezed)
        self.up = nn.Linear(squeezed, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        share_BC: Tensor = self.up(F.silu(self.down(x_BCHW.mean((2, 3))))).sigmoid()
        return x_BCHW * share_BC[:, :, None, None]


class MBConvBlock(nn.Module):
    """(B, C, H, W) to so many channels, of half the height and width where it halves (Dai et al. 2021, appendix A).

    The residual stream is float32; the branch computes in its parameters' format. A shortcut between different numbers
    of channels is a linear map.
    """

    def __init__(self, spec: MBConv, channels: int, width: int, halve: bool, drop_path: float) -> None:
        super().__init__()
        self.halve = halve
        inner, stride = EXPANSION * width, 2 if halve else 1
        first, second = (stride, 1) if spec.stride_at == "expand" else (1, stride)
        self.norm = BatchNorm(channels)
        self.expand = nn.Conv2d(channels, inner, 1, first, bias=False)
        self.expand_norm = BatchNorm(inner)
        self.depthwise = nn.Conv2d(inner, inner, KERNEL, second, KERNEL // 2, groups=inner, bias=False)
        self.depthwise_norm = BatchNorm(inner)
        self.squeeze = SqueezeExcitation(inner, width // SQUEEZE)
        self.project = nn.Conv2d(inner, width, 1)
        self.shortcut = nn.Conv2d(channels, width, 1) if channels != width else None
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        dtype = self.expand.weight.dtype
        h_BCHW = F.gelu(self.expand_norm(self.expand(self.norm(x_BCHW).to(dtype))))
        h_BCHW = F.gelu(self.depthwise_norm(self.depthwise(h_BCHW)))
        h_BCHW = self.project(self.squeeze(h_BCHW))
        x_BCHW = F.max_pool2d(x_BCHW, 2) if self.halve else x_BCHW
        if self.shortcut is not None:
            x_BCHW = at_least_float32(self.shortcut(x_BCHW.to(dtype)))
        out: Tensor = x_BCHW + self.drop_path(h_BCHW)
        return out
