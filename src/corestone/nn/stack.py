"""Layers one after the other.

Shape letters: B batch, T tokens, D width, U buckets of distances, N heads.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from corestone.core.mask import Mask
from corestone.nn.block import BlockLayer
from corestone.nn.cache import KVCache
from corestone.nn.lowered import Memory, lower_all
from corestone.nn.norm import build_norm
from corestone.nn.spec import Buckets, Stack


class StackLayer(nn.Module):
    """One layer per block record, then the final norm where there is one.

    `recompute` drops each layer's activations and computes them again in backward (Chen et al. 2016): less memory
    for about a third more arithmetic. The trainer's plan sets it; it changes no value.
    """

    def __init__(self, spec: Stack) -> None:
        super().__init__()
        self.spec = spec
        self.blocks = nn.ModuleList(BlockLayer(block, spec.width) for block in spec.blocks)
        shared = [(m.position.num, m.num_heads) for m in spec.attention if isinstance(m.position, Buckets)]
        self.position = nn.Embedding(*shared[0]) if shared else None
        self.final_norm = build_norm(spec.final_norm, spec.width) if spec.final_norm is not None else nn.Identity()
        self.dropout = nn.Dropout(spec.dropout)
        self.recompute = False

    def forward(
        self,
        x_BTD: Tensor,
        positions_BT: Tensor,
        mask: Mask,
        cache: KVCache | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        x_BTD = self.through(range(len(self.blocks)), x_BTD, positions_BT, mask, cache, memory)
        if cache is not None:
            cache.length += x_BTD.shape[1]
        return self.ended(x_BTD)

    def through(
        self,
        layers: Iterable[int],
        x_BTD: Tensor,
        positions_BT: Tensor,
        mask: Mask,
        cache: KVCache | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """The residual stream behind some of the layers."""
        dtype = next(self.parameters()).dtype
        table_UN = self.position.weight if self.position is not None else None
        mixers = [block.mixer for block in self.spec.blocks]
        lowered = lower_all(mixers, mask, positions_BT, dtype, cache, table_UN, memory)
        for layer in layers:
            block = self.blocks[layer]
            if self.recompute and torch.is_grad_enabled():
                x_BTD = checkpoint(block, x_BTD, lowered, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, lowered, cache, layer)
        return x_BTD

    def ended(self, x_BTD: Tensor) -> Tensor:
        """Hidden values of the residual stream behind the last layer."""
        hidden: Tensor = self.dropout(self.final_norm(x_BTD)).to(next(self.parameters()).dtype)
        return hidden
