"""Who may attend to whom, as a value that travels with the batch.

A kernel's own form of it (a flag, a bias, a block mask) is made in one place, `nn/attend.py`.

Shape letters: B batch, T tokens, S source.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Mask:
    """The attention rule of a batch.

    Attributes:
        causal: a token sees itself and what stands before it; else all of its segment.
        segments_BT: int32 ids; a token sees only tokens of its own id. None: each row is one segment.
        prefix_BT: bool; such tokens are seen by all of their segment (Raffel et al. 2020, section 3.2.1).
        sources_BS: segment ids of the tokens that are looked at, where those are another text's; None: the same text.
    """

    causal: bool = True
    segments_BT: Tensor | None = None
    prefix_BT: Tensor | None = None
    sources_BS: Tensor | None = None
