"""What a forward works out once for all of its layers: the mask in a kernel's form, and positions.

Shape letters: B batch, T queries, S keys, N heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from corestone.core.mask import Mask
from corestone.nn.attend import LoweredMask, lower
from corestone.nn.cache import KVCache
from corestone.nn.position import alibi_bias, rotary_angles
from corestone.nn.spec import Alibi, Attention, Rotary

Angles = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Lowered:
    """Attributes:
    mask: without what positions add.
    angles: cosines and sines by a rotary record's dims and base.
    slopes: linear biases (N, T, S) by number of heads.
    """

    mask: LoweredMask
    angles: Mapping[tuple[int, float], Angles]
    slopes: Mapping[int, Tensor]

    def mask_of(self, spec: Attention) -> LoweredMask:
        """The mask of one layer, positions included."""
        if isinstance(spec.position, Alibi):
            return replace(self.mask, bias_NTS=self.slopes[spec.num_heads])
        return self.mask

    def angles_of(self, spec: Rotary) -> Angles:
        """The angles by which one layer turns queries and keys."""
        return self.angles[spec.dims, spec.base]


def lower_all(
    mixers: Sequence[Attention], mask: Mask, positions_BT: Tensor, dtype: torch.dtype, cache: KVCache | None
) -> Lowered:
    """Lower the mask, and the positions of every kind that a layer uses."""
    T = positions_BT.shape[1]
    sources = T + (cache.length if cache is not None else 0)
    if cache is not None and cache.length > 0:
        score_dtype = cache.keys_BNSH[0].dtype
    else:
        score_dtype = dtype
    angles: dict[tuple[int, float], Angles] = {}
    slopes: dict[int, Tensor] = {}
    for mixer in mixers:
        position = mixer.position
        if isinstance(position, Rotary) and (position.dims, position.base) not in angles:
            angles[position.dims, position.base] = rotary_angles(position, positions_BT)
        if isinstance(position, Alibi) and mixer.num_heads not in slopes:
            slopes[mixer.num_heads] = alibi_bias(mixer.num_heads, T, sources, score_dtype, positions_BT.device)
    return Lowered(lower(mask, T, dtype, cache), angles, slopes)
