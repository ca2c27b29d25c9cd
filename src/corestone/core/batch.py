"""What the loader gives and models and objectives take.

Shape letters: B batch, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from corestone.core.mask import Mask

IGNORE = -100
"""Target of a position that carries no loss (torch's own convention)."""


@dataclass(frozen=True)
class TextBatch:
    """Token ids with their targets, positions and attention rule.

    Attributes:
        tokens_BT: int64 ids.
        targets_BT: int64 ids of what each position should predict, IGNORE where it predicts nothing.
        positions_BT: int64 position of each token in its document (or in the row, when documents are not kept apart).
        mask: who attends to whom.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    positions_BT: Tensor
    mask: Mask

    def __len__(self) -> int:
        return self.tokens_BT.shape[0]

    def rows(self, start: int, stop: int) -> TextBatch:
        """Some rows of the batch, as a batch."""
        return TextBatch(
            tokens_BT=self.tokens_BT[start:stop],
            targets_BT=self.targets_BT[start:stop],
            positions_BT=self.positions_BT[start:stop],
            mask=self.mask.rows(start, stop),
        )

    def to(self, device: torch.device) -> TextBatch:
        """The batch on a device; host memory is pinned first where that lets the copy run in the background."""
        if device.type == "cpu":
            return self
        segments = self.mask.segments_BT

        def move(tensor: Tensor) -> Tensor:
            return tensor.pin_memory().to(device, non_blocking=True)

        return TextBatch(
            tokens_BT=move(self.tokens_BT),
            targets_BT=move(self.targets_BT),
            positions_BT=move(self.positions_BT),
            mask=replace(self.mask, segments_BT=None if segments is None else move(segments)),
        )


def plain_batch(tokens_BT: Tensor, targets_BT: Tensor | None = None) -> TextBatch:
    """A batch of whole causal rows with positions 0..T-1; without targets nothing carries loss."""
    B, T = tokens_BT.shape
    positions = torch.arange(T, device=tokens_BT.device).expand(B, T)
    targets = torch.full_like(tokens_BT, IGNORE) if targets_BT is None else targets_BT
    return TextBatch(tokens_BT=tokens_BT, targets_BT=targets, positions_BT=positions, mask=Mask())
