"""Token and position tables.

Shape letters: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corestone.core.batch import TextBatch
from corestone.nn.norm import at_least_float32, build_norm
from corestone.nn.spec import TokenEmbedding


class TokenEmbeddingLayer(nn.Module):
    """Tokens, positions and types of a batch to (B, T, D), the start of the residual stream."""

    def __init__(self, spec: TokenEmbedding, width: int) -> None:
        super().__init__()
        inner, position = spec.width or width, spec.position
        self.offset = position.offset if position is not None else 0
        self.token = nn.Embedding(spec.vocab_size, inner)
        self.of_sum = spec.project == "sum"
        self.project = nn.Linear(inner, width, bias=self.of_sum) if spec.width is not None else None
        summed = inner if self.of_sum else width
        self.position = nn.Embedding(spec.context_length + self.offset, summed) if position is not None else None
        self.types = nn.Embedding(spec.types, summed) if spec.types is not None else None
        self.norm = build_norm(spec.norm, summed) if spec.norm is not None else None
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, batch: TextBatch) -> Tensor:
        x_BTD = lookup(self.token.weight, batch.tokens_BT)
        if self.project is not None and not self.of_sum:
            x_BTD = self.project(x_BTD)
        x_BTD = at_least_float32(x_BTD)
        if self.position is not None:
            x_BTD = x_BTD + lookup(self.position.weight, batch.positions_BT + self.offset)
        if self.types is not None:
            types_BT = torch.zeros_like(batch.tokens_BT) if batch.types_BT is None else batch.types_BT
            x_BTD = x_BTD + lookup(self.types.weight, types_BT)
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        x_BTD = self.dropout(x_BTD)
        if self.project is not None and self.of_sum:
            x_BTD = at_least_float32(self.project(x_BTD.to(self.token.weight.dtype)))
        return x_BTD


def lookup(table_VD: Tensor, ids_BT: Tensor) -> Tensor:
    """Rows of a table; in low precision the gradient of a frequent id is summed in float32, then rounded once."""
    if table_VD.dtype == torch.float32 or not torch.is_grad_enabled():
        return F.embedding(ids_BT, table_VD)
    out: Tensor = _Lookup.apply(table_VD, ids_BT)
    return out


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: torch.autograd.function.FunctionCtx, table_VD: Tensor, ids_BT: Tensor
    ) -> Tensor:
        ctx.save_for_backward(ids_BT)
        ctx.shape, ctx.dtype = table_VD.shape, table_VD.dtype  # type: ignore[attr-defined]
        return F.embedding(ids_BT, table_VD)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (ids_BT,) = ctx.saved_tensors  # type: ignore[attr-defined]
        rows, place = torch.unique(ids_BT, return_inverse=True)
        D = gradients[0].shape[-1]
        sums = torch.zeros(rows.numel(), D, dtype=torch.float32, device=rows.device)
        sums.index_add_(0, place.reshape(-1), gradients[0].reshape(-1, D).float())
        table = torch.zeros(ctx.shape, dtype=ctx.dtype, device=rows.device)  # type: ignore[attr-defined]
        table[rows] = sums.to(table.dtype)
        return table, None
