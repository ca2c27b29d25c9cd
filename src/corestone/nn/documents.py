"""The documents of packed rows, each in a row of its own: for layers that cannot be told by a mask where to stop.

Shape letters: B batch, T tokens, C channels, M documents of a group, L length of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from corestone.core.mask import Mask


@dataclass(frozen=True)
class Documents:
    """Where the documents of B rows of T tokens lie, in groups of like lengths.

    Lengths of a group differ by less than a factor of two, so that at most half of its places are empty. A document's
    group follows from its own length alone.

    Attributes:
        groups: per group, the row-major places (M, L) of its documents' tokens; B*T where a document has ended.
        places: (B*T,) where each token stands in the groups, laid end to end.
    """

    groups: Sequence[Tensor]
    places: Tensor

    def split(self, x_BTC: Tensor) -> list[Tensor]:
        """Per group (M, L, C), a document a row, zeros behind its end."""
        flat = F.pad(x_BTC.flatten(0, 1), (0, 0, 0, 1))
        return [flat.index_select(0, group.flatten()).view(*group.shape, -1) for group in self.groups]

    def join(self, parts_MLC: Sequence[Tensor], shape: torch.Size) -> Tensor:
        """The inverse: `shape` is (B, T, C)."""
        flat = torch.cat([part.flatten(0, 1) for part in parts_MLC])
        return flat.index_select(0, self.places).view(shape)


def find_documents(mask: Mask, positions_BT: Tensor) -> Documents | None:
    """The documents of a batch, which begin where positions are 0; None where each row is one.

    Without segments each row is one document. Padding whose tokens all have position 0 becomes documents of one token.
    """
    if mask.segments_BT is None:
        return None
    B, T = positions_BT.shape
    begins = positions_BT == 0
    begins[:, 0] = True
    starts = begins.flatten().nonzero()[:, 0]
    if len(starts) == B:
        return None
    lengths = starts.diff(append=starts.new_tensor([B * T]))
    groups, places, before, shortest = [], torch.empty_like(positions_BT).flatten(), 0, 1
    while shortest <= T:
        mine = (lengths >= shortest) & (lengths < 2 * shortest)
        along = torch.arange(min(2 * shortest - 1, T), device=starts.device)
        group = starts[mine][:, None] + along
        inside = along < lengths[mine][:, None]
        places[group[inside]] = before + inside.flatten().nonzero()[:, 0]
        if len(group):
            groups.append(group.masked_fill(~inside, B * T))
        before, shortest = before + group.numel(), 2 * shortest
    return Documents(groups, places)
