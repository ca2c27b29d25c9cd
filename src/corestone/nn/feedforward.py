"""The feed-forward layer.

Shape letters: B batch, T tokens, D width, F hidden.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from corestone.nn.spec import FeedForward


class FeedForwardLayer(nn.Module):
    """(B, T, D) to (B, T, D) through F hidden values."""

    def __init__(self, spec: FeedForward, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, spec.hidden_dim)
        self.down = nn.Linear(spec.hidden_dim, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(x_BTD), approximate="tanh"))
        return out
