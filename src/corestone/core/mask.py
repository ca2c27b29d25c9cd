"""Who may attend to whom, as a value that travels with the batch.

A kernel's own form of it (a flag, a bias, a block mask) is made in one place, `nn/attend.py`.

Shape letters: B batch, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Mask:
    """The attention rule of a batch.

    Attributes:
        causal: a token sees itself and what stands before it.
        segments_BT: int32 ids; a token sees only tokens of its own id. None: each row is one segment.
    """

    causal: bool = True
    segments_BT: Tensor | None = None

    def rows(self, start: int, stop: int) -> Mask:
        """The mask of some rows of the batch."""
        segments = None if self.segments_BT is None else self.segments_BT[start:stop]
        return Mask(causal=self.causal, segments_BT=segments)
