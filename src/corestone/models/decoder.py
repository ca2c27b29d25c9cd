"""The decoder: a causal language model.

Shape letters: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from corestone.core.batch import TextBatch
from corestone.core.protocols import Output
from corestone.models.spec import Decoder
from corestone.nn.cache import KVCache, empty_cache
from corestone.nn.embedding import TokenEmbeddingLayer
from corestone.nn.head import TiedHead
from corestone.nn.init import initialise
from corestone.nn.stack import StackLayer


class DecoderModel(nn.Module):
    """`model(batch)` gives hidden values (B, T, D); `model.head(hidden)` gives logits (B, T, V)."""

    def __init__(self, spec: Decoder) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = TokenEmbeddingLayer(spec.embedding, spec.stack.width)
        self.stack = StackLayer(spec.stack)
        inner, width = spec.embedding.width or spec.stack.width, spec.stack.width
        self.project = nn.Linear(width, inner, bias=False) if spec.embedding.width is not None else None
        own = partial(nn.Linear, inner, spec.embedding.vocab_size, bias=spec.head.bias)
        self.head = TiedHead(self.embedding.token) if spec.head.tied else own()

    @property
    def context_length(self) -> int:
        """The most tokens a row may have."""
        return self.spec.embedding.context_length

    def forward(self, batch: TextBatch, cache: KVCache | None = None) -> Output:
        """Hidden values of a batch. With a cache, the batch continues the tokens already in it."""
        x_BTD = self.embedding(batch.tokens_BT, batch.positions_BT)
        hidden_BTD = self.stack(x_BTD, batch.positions_BT, batch.mask, cache)
        if self.project is not None:
            hidden_BTD = self.project(hidden_BTD)
        # The head is a plain product, so a factor of the logits stands in front of it.
        return Output(hidden=hidden_BTD if self.spec.head.scale == 1.0 else hidden_BTD * self.spec.head.scale)

    def empty_cache(self, batch: int, capacity: int, dtype: torch.dtype) -> KVCache:
        """Room for `batch` rows of at most `capacity` tokens, keys and values in `dtype`, where the weights are."""
        return empty_cache(self.spec.stack, batch, capacity, dtype, self.embedding.token.weight.device)

    def training_flops(self, tokens: int) -> float:
        """Floating-point operations per token of forward and backward on rows of `tokens` tokens.

        6 per weight of a matrix or of the head (tables multiply nothing), plus per layer 12 per attended key and inner
        width: two products forward, twice that backward, over the keys a token really sees. (Chowdhery et al. 2022,
        appendix B, counts all T keys; here causality and windows are counted, so utilisation reads lower.)
        """
        width, inner_width = self.spec.stack.width, self.spec.embedding.width
        weights, attention = self.spec.embedding.vocab_size * (inner_width or width), 0.0
        weights += 2 * width * inner_width if inner_width is not None else 0
        for block in self.spec.stack.blocks:
            mixer, maps = block.mixer, 3 if block.feedforward.gated else 2
            weights += width * mixer.head_dim * 2 * (mixer.num_heads + mixer.kv_heads)
            weights += maps * width * block.feedforward.hidden_dim
            window = min(mixer.window or tokens, tokens)
            attention += 12 * mixer.num_heads * mixer.head_dim * (window - window * (window - 1) / (2 * tokens))
        return 6.0 * weights + attention


def build_decoder(spec: Decoder, seed: int = 0, device: torch.device | str = "cpu") -> DecoderModel:
    """Build a decoder with initial values; on the meta device, without values and in milliseconds."""
    with torch.device("meta"):
        model = DecoderModel(spec)
    if torch.device(device).type == "meta":
        return model
    model = model.to_empty(device=device)
    if spec.head.tied:  # to_empty makes new storage for every parameter; the head must share the token table again
        model.head = TiedHead(model.embedding.token)
    initialise(model, spec.init, branches=2 * len(spec.stack.blocks), seed=seed)
    return model
