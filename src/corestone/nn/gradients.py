"""Gradients of pictures by direction.

Shape letters: B batch, C channels, H height, W width, G directions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corestone.nn.norm import at_least_float32
from corestone.nn.spec import Gradients


class GradientMaps(nn.Module):
    """(B, C, H, W) to (B, G + C, H / 2, W / 2): histograms of gradients on cells of 2 x 2 pixels, then the means of the
    channels (Dalal and Triggs 2005, section 6). Nothing is learnt; float32 at least.

    A pixel's gradient is that of the channel where it is largest, by the difference of its neighbours; its magnitude
    counts for the direction it has and, by half the cosine beyond a half, for those at its sides. A cell's histogram is
    divided by the root of the mean square of all those around it, and of `floor`.
    """

    def __init__(self, spec: Gradients) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x_BCHW = at_least_float32(images_BCHW)
        across_BCHW = F.pad(x_BCHW[..., 2:] - x_BCHW[..., :-2], (1, 1, 0, 0))
        down_BCHW = F.pad(x_BCHW[..., 2:, :] - x_BCHW[..., :-2, :], (0, 0, 1, 1))
        largest_B1HW = (across_BCHW.square() + down_BCHW.square()).argmax(dim=1, keepdim=True)
        across_B1HW, down_B1HW = (d.gather(1, largest_B1HW) for d in (across_BCHW, down_BCHW))
        size_B1HW = torch.hypot(across_B1HW, down_B1HW)
        turn_B1HW = 2 * torch.atan2(down_B1HW, across_B1HW)
        turn_G11 = torch.arange(self.spec.directions, device=x_BCHW.device)[:, None, None] * 2 * math.pi
        turn_G11 = turn_G11 / self.spec.directions
        votes_BGHW = F.avg_pool2d(size_B1HW * F.relu(2 * torch.cos(turn_B1HW - turn_G11) - 1), 2)
        return torch.cat((votes_BGHW / self._contrast(votes_BGHW), F.avg_pool2d(x_BCHW, 2)), dim=1)

    def _contrast(self, votes_BGHW: Tensor) -> Tensor:
        """Root of the mean, over the places around each, of all directions' squares; the picture's edge goes on."""
        side = self.spec.around
        wide_B1HW = F.pad(votes_BGHW.square().sum(dim=1, keepdim=True), (side,) * 4, mode="replicate")
        return F.avg_pool2d(wide_B1HW, 2 * side + 1, stride=1).sqrt() + self.spec.floor
