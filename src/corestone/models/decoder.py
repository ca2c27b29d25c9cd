"""The decoder: a causal language model.

Shape letters: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import nn

from corestone.core.batch import TextBatch
from corestone.core.protocols import Output
from corestone.models.spec import Decoder
from corestone.nn.cache import KVCache
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
        self.head = TiedHead(self.embedding.token)

    def forward(self, batch: TextBatch, cache: KVCache | None = None) -> Output:
        """Hidden values of a batch. With a cache, the batch continues the tokens already in it."""
        x_BTD = self.embedding(batch.tokens_BT, batch.positions_BT)
        return Output(hidden=self.stack(x_BTD, batch.mask, cache))


def build_decoder(spec: Decoder, seed: int = 0, device: torch.device | str = "cpu") -> DecoderModel:
    """Build a decoder with initial values; on the meta device, without values and in milliseconds."""
    with torch.device("meta"):
        model = DecoderModel(spec)
    if torch.device(device).type == "meta":
        return model
    model = model.to_empty(device=device)
    # to_empty makes new storage for every parameter; the head must share the token table again.
    model.head = TiedHead(model.embedding.token)
    initialise(model, spec.init, branches=2 * len(spec.stack.blocks), seed=seed)
    return model


def training_flops_per_token(spec: Decoder, context_length: int) -> float:
    """Floating-point operations of forward and backward per token: 6 per weight that multiplies, plus attention.

    Counted are all weight matrices and the head (the tables' look-ups multiply nothing). Attention adds, per layer,
    two products over the keys a token sees, half the context on average under a causal mask, a third as much again
    forward as backward (Chowdhery et al. 2022, appendix B, with causality counted).
    """
    width = spec.stack.width
    weights = spec.embedding.vocab_size * width
    attention = 0.0
    for block in spec.stack.blocks:
        inner = block.mixer.num_heads * block.mixer.head_dim
        weights += 4 * width * inner + 2 * width * block.feedforward.hidden_dim
        window = min(block.mixer.window or context_length, context_length)
        seen = window - window * (window - 1) / (2 * context_length)  # mean keys per query: ramp up to the window
        attention += 12 * inner * seen
    return 6.0 * weights + attention
