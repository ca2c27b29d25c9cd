"""The map from hidden values to logits.

Shape letters: D width, V vocabulary.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class TiedHead(nn.Module):
    """Logits by the token table itself (Press and Wolf 2017). Satisfies `core.protocols.Head`."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.weight = table.weight  # (V, D)
        self.bias: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight)
