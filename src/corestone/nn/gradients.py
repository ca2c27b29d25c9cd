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
    """(B, C, H, W) to (B, G + C, H / cell, W / cell): histograms of gradients, then the means of the channels (Dalal
    and Triggs 2005, section 6). Nothing is learnt; float32 at least. Rows and columns beyond the last whole cell are
    left out.

    A pixel's gradient is that of the channel where it is largest, by the difference of its neighbours. Its magnitude
    counts for the direction it has and, by half the cosine beyond a half, for those at its sides, and for the cells
    around it by how near their centres are (bilinear). A cell's histogram is divided by the root of the mean square of
    those around it, and of `floor`; roots of that are the maps (the paper's L1-sqrt, with L2 for L1).
    """

    def __init__(self, spec: Gradients) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x_BCHW = at_least_float32(images_BCHW)
        across_BCHW = F.pad(x_BCHW[..., 2:] - x_BCHW[..., :-2], (1, 1, 0, 0))
        down_BCHW = F.pad(x_BCHW[..., 2:, :] - x_BCHW[..., :-2, :], (0, 0, 1, 1))
        across_B1HW, down_B1HW = self._largest(across_BCHW, down_BCHW)
        size_B1HW = torch.hypot(across_B1HW, down_B1HW)
        turn_B1HW = 2 * torch.atan2(down_B1HW, across_B1HW)
        turn_G11 = torch.arange(self.spec.directions, device=x_BCHW.device)[:, None, None] * 2 * math.pi
        turn_G11 = turn_G11 / self.spec.directions
        votes_BGHW = self._cells(size_B1HW * F.relu(2 * torch.cos(turn_B1HW - turn_G11) - 1))
        return torch.cat((torch.sqrt(votes_BGHW / self._contrast(votes_BGHW)), self._cells(x_BCHW)), dim=1)

    @staticmethod
    def _largest(across_BCHW: Tensor, down_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Of each pixel's channels the gradient of the largest, the first of equals. Channel by channel: an argmax
        over so few takes eight times as long on a CPU."""
        (across, *others_across), (down, *others_down) = across_BCHW.split(1, dim=1), down_BCHW.split(1, dim=1)
        for other_across, other_down in zip(others_across, others_down, strict=True):
            larger = other_across.square() + other_down.square() > across.square() + down.square()
            across, down = torch.where(larger, other_across, across), torch.where(larger, other_down, down)
        return across, down

    def _cells(self, x_BCHW: Tensor) -> Tensor:
        rows, columns = (side // self.spec.cell for side in x_BCHW.shape[2:])
        whole_BCHW = x_BCHW[..., : rows * self.spec.cell, : columns * self.spec.cell]
        return F.interpolate(whole_BCHW, size=(rows, columns), mode="bilinear", antialias=True)

    def _contrast(self, votes_BGHW: Tensor) -> Tensor:
        """Root of the mean, over the cells around each, of all directions' squares; the picture's edge goes on."""
        side = self.spec.around
        wide_B1HW = F.pad(votes_BGHW.square().sum(dim=1, keepdim=True), (side,) * 4, mode="replicate")
        return F.avg_pool2d(wide_B1HW, 2 * side + 1, stride=1).sqrt() + self.spec.floor
