"""Convolution along time.

Shape letters: B batch, T tokens, W taps, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corestone.nn.norm import at_least_float32


class CausalConv(nn.Module):
    """Each channel mixes a token with the W - 1 before it in its document: (B, T, C) to (B, T, C).

    Row i of `weight` is the tap i tokens back. Sums are float32.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, channels))  # (W, C)

    def forward(self, x_BTC: Tensor, positions_BT: Tensor, past_BWC: Tensor | None = None) -> Tensor:
        """Args: past_BWC: the W - 1 tokens before the first; None: there are none."""
        B, T, C = x_BTC.shape
        W = self.weight.shape[0]
        past = x_BTC.new_zeros(B, W - 1, C) if past_BWC is None else past_BWC.to(x_BTC.dtype)
        stream_BSC = torch.cat((past, x_BTC), dim=1)
        taps = at_least_float32(self.weight)
        out = x_BTC * taps[0]
        for back in range(1, W):  # a token at position p has p tokens of its document before it
            inside = (positions_BT >= back)[..., None]
            out = out + stream_BSC[:, W - 1 - back : W - 1 - back + T] * taps[back] * inside
        return out.to(x_BTC.dtype)
