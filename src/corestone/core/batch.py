"""What the loader gives and models and objectives take.

Shape letters: B batch, T tokens, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from corestone.core.mask import Mask
from corestone.core.tensors import each_tensor, moved

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
        types_BT: int64 part of a pair that a token belongs to (Devlin et al. 2018, section 3); None: all the first.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    positions_BT: Tensor
    mask: Mask
    types_BT: Tensor | None = None

    def __len__(self) -> int:
        return self.tokens_BT.shape[0]

    def rows(self, start: int, stop: int) -> TextBatch:
        """Some rows of the batch, as a batch."""
        return each_tensor(self, lambda tensor: tensor[start:stop])

    def select(self, places: Tensor) -> TextBatch:
        """The rows at these places, as a batch."""
        return each_tensor(self, lambda tensor: tensor[places])

    def to(self, device: torch.device) -> TextBatch:
        """The batch on a device."""
        return moved(self, device)


def plain_batch(tokens_BT: Tensor, targets_BT: Tensor | None = None) -> TextBatch:
    """A batch of whole causal rows with positions 0..T-1; without targets nothing carries loss."""
    B, T = tokens_BT.shape
    positions = torch.arange(T, device=tokens_BT.device).expand(B, T)
    targets = torch.full_like(tokens_BT, IGNORE) if targets_BT is None else targets_BT
    return TextBatch(tokens_BT=tokens_BT, targets_BT=targets, positions_BT=positions, mask=Mask())


@dataclass(frozen=True)
class Seq2SeqBatch:
    """A text to read and a text to write, row by row; each with as many tokens as its longest row, the rest filled up.

    Attributes:
        source: what the encoder reads; it has no targets.
        target: what the decoder is given, shifted by one, and predicts; its mask names the source's segments.
    """

    source: TextBatch
    target: TextBatch

    def __len__(self) -> int:
        return len(self.target)

    def rows(self, start: int, stop: int) -> Seq2SeqBatch:
        """Some rows of the batch, as a batch."""
        return each_tensor(self, lambda tensor: tensor[start:stop])

    def to(self, device: torch.device) -> Seq2SeqBatch:
        """The batch on a device."""
        return moved(self, device)


@dataclass(frozen=True)
class ImageBatch:
    """Pictures with what is to be said of them.

    Attributes:
        images_BCHW: float32, normalised as the run's data record says.
        targets_BK: float32 share of each class: one 1 a row, shares of mixed pictures, or a mark for each class that
            applies; None: nothing is known.
    """

    images_BCHW: Tensor
    targets_BK: Tensor | None = None

    def __len__(self) -> int:
        return self.images_BCHW.shape[0]

    def rows(self, start: int, stop: int) -> ImageBatch:
        """Some rows of the batch, as a batch."""
        return each_tensor(self, lambda tensor: tensor[start:stop])

    def to(self, device: torch.device) -> ImageBatch:
        """The batch on a device."""
        return moved(self, device)


@dataclass(frozen=True)
class ImageTextBatch:
    """Pictures and a text of each, row by row.

    Attributes:
        images: the pictures; they need no targets.
        texts: their captions, filled up to as many tokens as the longest has; the mask tells text from filling.
    """

    images: ImageBatch
    texts: TextBatch

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, start: int, stop: int) -> ImageTextBatch:
        """Some rows of the batch, as a batch."""
        return each_tensor(self, lambda tensor: tensor[start:stop])

    def to(self, device: torch.device) -> ImageTextBatch:
        """The batch on a device."""
        return moved(self, device)
