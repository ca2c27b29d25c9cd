"""The decoder: a causal language model.

Shape letters: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import nn

from corestone.core.batch import TextBatch
from corestone.core.errors import SpecError
from corestone.core.protocols import Output
from corestone.models.flops import stack_flops
from corestone.models.spec import Decoder, Head
from corestone.nn.cache import KVCache, empty_cache
from corestone.nn.embedding import TokenEmbeddingLayer
from corestone.nn.head import OwnHead, TiedHead
from corestone.nn.init import started, without_values
from corestone.nn.stack import StackLayer


class DecoderModel(nn.Module):
    """`model(batch)` gives hidden values (B, T, D); `model.head(hidden)` gives logits (B, T, V)."""

    generates = "continuations"

    def __init__(self, spec: Decoder) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = TokenEmbeddingLayer(spec.embedding, spec.stack.width)
        self.stack = StackLayer(spec.stack)
        inner, width = spec.embedding.width or spec.stack.width, spec.stack.width
        self.project = nn.Linear(width, inner, bias=False) if spec.embedding.width is not None else None
        self.head = build_head(spec.head, self.embedding.token, inner)

    @property
    def vocab_size(self) -> int:
        """Rows of the token table."""
        return self.spec.embedding.vocab_size

    @property
    def context_length(self) -> int:
        """The most tokens a row may have."""
        return self.spec.embedding.context_length

    def forward(self, batch: TextBatch, cache: KVCache | None = None) -> Output:
        """Hidden values of a batch. With a cache, the batch continues the tokens already in it."""
        if not batch.mask.causal:
            raise SpecError(
                "a decoder predicts from what comes before, and this batch shows what comes later; choose an objective "
                "for decoders, such as next_token, or an encoder as the model"
            )
        x_BTD = self.embedding(batch)
        hidden_BTD = self.stack(x_BTD, batch.positions_BT, batch.mask, cache)
        if self.project is not None:
            hidden_BTD = self.project(hidden_BTD)
        # The head is a plain product, so a factor of the logits stands in front of it.
        return Output(hidden=hidden_BTD if self.spec.head.scale == 1.0 else hidden_BTD * self.spec.head.scale)

    def empty_cache(self, batch: int, capacity: int, dtype: torch.dtype) -> KVCache:
        """Room for `batch` rows of at most `capacity` tokens, keys and values in `dtype`, where the weights are."""
        return empty_cache(self.spec.stack, batch, capacity, dtype, self.embedding.token.weight.device)

    def training_flops(self, tokens: int) -> float:
        """Floating-point operations per token of forward and backward on rows of `tokens` tokens (`stack_flops`; the
        head multiplies, tables do not)."""
        width, inner = self.spec.stack.width, self.spec.embedding.width
        maps = self.spec.embedding.vocab_size * (inner or width) + (2 * width * inner if inner is not None else 0)
        return 6.0 * maps + stack_flops(self.spec.stack, tokens, causal=True)


def build_head(spec: Head, table: nn.Embedding, inner: int) -> OwnHead | TiedHead:
    """The head that a record describes; `inner` is the width of what it multiplies."""
    if spec.tied:
        return TiedHead(table, spec.bias)
    return OwnHead(inner, table.num_embeddings, bias=spec.bias)


def build_decoder(spec: Decoder, seed: int = 0, device: torch.device | str = "cpu") -> DecoderModel:
    """Build a decoder with initial values; on the meta device, without values and in milliseconds."""
    with without_values():
        model = DecoderModel(spec)
    return started(model, device, spec.init, 2 * len(spec.stack.blocks), seed)
