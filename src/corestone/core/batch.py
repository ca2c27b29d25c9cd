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
class Colours:
    """Mean and deviation of each channel, on a scale of 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, values_BCHW: Tensor) -> Tensor:
        """Values 0 to 255, of shape (..., C, H, W), as float32 with the mean taken off and divided by the deviation."""
        mean_C11, std_C11 = self.on(values_BCHW.device)
        return values_BCHW.to(torch.float32, copy=True).mul_(1 / (255 * std_C11)).sub_(mean_C11 / std_C11)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Both as (C, 1, 1)."""
        mean_C, std_C = (torch.tensor(values, device=device) for values in (self.mean, self.std))
        return mean_C[:, None, None], std_C[:, None, None]


@dataclass(frozen=True)
class ImageBatch:
    """Pictures with what is to be said of them.

    Attributes:
        pixels_BCHW: uint8 with `colours`, a quarter of the memory and of the way to a device; or float32, normalised.
        targets_BK: float32 share of each class: one 1 a row, shares of mixed pictures, or a mark for each class that
            applies; None: nothing is known.
        colours: what normalises uint8 pixels, as the run's data record says.
    """

    pixels_BCHW: Tensor
    targets_BK: Tensor | None = None
    colours: Colours | None = None

    def __len__(self) -> int:
        return self.pixels_BCHW.shape[0]

    @property
    def images_BCHW(self) -> Tensor:  # noqa: N802 (shape letters)
        """float32, normalised; made anew at each call from uint8 pixels."""
        return self.pixels_BCHW if self.colours is None else self.colours.normalise(self.pixels_BCHW)

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
