"""What a forward works out once for all of its layers: the mask in a kernel's form, and positions.

Shape letters: B batch, T queries, S keys, N heads, U buckets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from corestone.core.mask import Mask
from corestone.nn.attend import LoweredMask, lower
from corestone.nn.cache import KVCache
from corestone.nn.documents import Documents, find_documents
from corestone.nn.position import alibi_bias, bucket_bias, rotary_angles
from corestone.nn.spec import H3, Alibi, Attention, Buckets, Mixer, Rotary

Angles = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Memory:
    """Another text's hidden values (B, S, D), and who may look at what of them; None once a cache holds their keys."""

    hidden_BSD: Tensor | None
    mask: LoweredMask


@dataclass(frozen=True)
class Lowered:
    """For all layers of one forward.

    Attributes:
        mask: without what positions add.
        positions_BT: of the tokens in their documents.
        angles: cosines and sines by a rotary record's dims.
        biases: per-head biases (N, T, S) by kind of position and number of heads.
        memory: what cross-attention looks at; None where there is nothing.
        documents: where a layer reads each by itself; None where each row is one.
    """

    mask: LoweredMask
    positions_BT: Tensor
    angles: Mapping[int, Angles]
    biases: Mapping[tuple[str, int], Tensor]
    memory: Memory | None = None
    documents: Documents | None = None

    def mask_of(self, spec: Attention) -> LoweredMask:
        """The mask of one layer, positions included."""
        if isinstance(spec.position, Alibi | Buckets):
            return replace(self.mask, bias_NTS=self.biases[spec.position.kind, spec.num_heads])
        return self.mask

    def angles_of(self, spec: Rotary) -> Angles:
        """The angles by which one layer turns queries and keys."""
        return self.angles[spec.dims]


def lower_all(
    mixers: Sequence[Mixer],
    mask: Mask,
    positions_BT: Tensor,
    dtype: torch.dtype,
    cache: KVCache | None,
    table_UN: Tensor | None,
    memory: Memory | None = None,
) -> Lowered:
    """Lower the mask, and the positions of every kind that a layer uses.

    Args:
        table_UN: the stack's biases by bucket of distances, where a layer has them.
    """
    T, past = positions_BT.shape[1], cache.length if cache is not None else 0
    score_dtype = cache.dtype if cache is not None and past > 0 else dtype
    angles: dict[int, Angles] = {}
    biases: dict[tuple[str, int], Tensor] = {}
    for mixer in (mixer for mixer in mixers if isinstance(mixer, Attention)):
        position, N = mixer.position, mixer.num_heads
        if isinstance(position, Rotary) and position.dims not in angles:
            angles[position.dims] = rotary_angles(position.dims, positions_BT)
        if isinstance(position, Alibi) and ("alibi", N) not in biases:
            biases["alibi", N] = alibi_bias(N, T, past + T, score_dtype, positions_BT.device)
        if isinstance(position, Buckets) and table_UN is not None and ("buckets", N) not in biases:
            biases["buckets", N] = bucket_bias(position, table_UN, T, past + T, mask.causal).to(score_dtype)
    apart = any(isinstance(mixer, H3) for mixer in mixers)
    documents = find_documents(mask, positions_BT) if apart else None
    return Lowered(lower(mask, T, dtype, cache), positions_BT, angles, biases, memory, documents)
