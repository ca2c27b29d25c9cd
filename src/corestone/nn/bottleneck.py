"""The bottleneck of a residual network whose maps shrink by means.

            x ─┬─ convolution 1 ─ norm ─ relu ─ convolution 3 ─ norm ─ relu ─ pool ─ convolution 1 ─ norm ─ + ─ relu ─ y
               └───────────────────────── pool ─ convolution 1 ─ norm ──────────────────────────────────────┘

Shape letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from corestone.nn.batch_norm import BatchNorm
from corestone.nn.convolution import Convolution
from corestone.nn.norm import at_least_float32
from corestone.nn.spec import ConvLayer

EXPANSION = 4
"""Outputs for each channel inside (He et al. 2016, section 4.1)."""


class BottleneckBlock(nn.Module):
    """(B, C, H, W) to four times `width` channels, of half the height and width where it halves (He et al. 2016).

    All convolutions have stride 1: means of four places halve the map (Zhang 2019; He et al. 2019, figure 2c; Radford
    et al. 2021, section 2.4). The residual stream is float32; the branch computes in its parameters' format.
    """

    def __init__(self, channels: int, width: int, halve: bool) -> None:
        super().__init__()
        self.halve, outputs = halve, EXPANSION * width
        self.first = Convolution(ConvLayer(channels=width, kernel=1), channels)
        self.second = Convolution(ConvLayer(channels=width, kernel=3, padding=1), width)
        self.third = Convolution(ConvLayer(channels=outputs, kernel=1, activation=None), width)
        self.shortcut = None
        if halve or channels != outputs:
            self.shortcut = Convolution(ConvLayer(channels=outputs, kernel=1, activation=None), channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        dtype = self.first.convolution.weight.dtype
        h_BCHW = self.second(self.first(x_BCHW.to(dtype)))
        if self.halve:
            h_BCHW, x_BCHW = F.avg_pool2d(h_BCHW, 2), F.avg_pool2d(x_BCHW, 2)
        if self.shortcut is not None:
            x_BCHW = at_least_float32(self.shortcut(x_BCHW.to(dtype)))
        return F.relu(x_BCHW + self.third(h_BCHW))

    def start_as_identity(self) -> None:
        """The branch starts at zero (Goyal et al. 2017, section 5.1; Radford et al. 2021, code)."""
        assert isinstance(self.third.norm, BatchNorm)
        nn.init.zeros_(self.third.norm.weight)
