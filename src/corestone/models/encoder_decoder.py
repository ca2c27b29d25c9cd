"""The encoder-decoder: reads one text, writes another.

Shape letters: B batch, T tokens, S source, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corestone.core.batch import Seq2SeqBatch, TextBatch
from corestone.core.protocols import Output
from corestone.models.decoder import build_head
from corestone.models.flops import stack_flops
from corestone.models.spec import EncoderDecoder
from corestone.nn.attend import lower_sources
from corestone.nn.cache import KVCache, empty_cache
from corestone.nn.embedding import TokenEmbeddingLayer
from corestone.nn.init import started, without_values
from corestone.nn.lowered import Memory
from corestone.nn.stack import StackLayer


class EncoderDecoderModel(nn.Module):
    """`model(batch)` gives hidden values (B, T, D) of the target; `model.head(hidden)` gives logits (B, T, V)."""

    generates = "answers"

    def __init__(self, spec: EncoderDecoder) -> None:
        super().__init__()
        self.spec = spec
        width, own = spec.encoder.width, spec.target_embedding
        self.embedding = TokenEmbeddingLayer(spec.embedding, width)
        self.target_embedding = TokenEmbeddingLayer(own, width) if own is not None else self.embedding
        self.encoder = StackLayer(spec.encoder)
        self.decoder = StackLayer(spec.decoder)
        self.head = build_head(spec.head, self.target_embedding.token, width)

    @property
    def vocab_size(self) -> int:
        """Rows of the smaller token table."""
        return min(self.embedding.token.num_embeddings, self.target_embedding.token.num_embeddings)

    @property
    def context_length(self) -> int:
        """The most tokens a row may have on either side."""
        own = self.spec.target_embedding or self.spec.embedding
        return min(self.spec.embedding.context_length, own.context_length)

    @property
    def longest_answer(self) -> int | None:
        """The most tokens that can be written, where positions are learned; else None."""
        own = self.spec.target_embedding or self.spec.embedding
        return None if own.position is None else own.context_length

    def encode(self, source: TextBatch) -> Tensor:
        """Hidden values (B, S, D) of what is read."""
        hidden: Tensor = self.encoder(self.embedding(source), source.positions_BT, source.mask)
        return hidden

    def decode(self, target: TextBatch, hidden_BSD: Tensor | None, cache: KVCache | None = None) -> Output:
        """Hidden values of what is written, beside the source's; a cache remembers those, which are None then."""
        dtype = self.embedding.token.weight.dtype if cache is None else cache.dtype
        memory = Memory(hidden_BSD, lower_sources(target.mask, dtype))
        x_BTD = self.target_embedding(target)
        hidden_BTD = self.decoder(x_BTD, target.positions_BT, target.mask, cache, memory)
        return Output(hidden=hidden_BTD if self.spec.head.scale == 1.0 else hidden_BTD * self.spec.head.scale)

    def forward(self, batch: Seq2SeqBatch) -> Output:
        """Hidden values of the target of a batch."""
        return self.decode(batch.target, self.encode(batch.source))

    def empty_cache(self, batch: int, capacity: int, dtype: torch.dtype) -> KVCache:
        """Room for `batch` rows of at most `capacity` written tokens, in `dtype`, where the weights are."""
        return empty_cache(self.spec.decoder, batch, capacity, dtype, self.embedding.token.weight.device)

    def training_flops(self, source: int, target: int) -> float:
        """Floating-point operations of forward and backward on one row of so many source and target tokens."""
        head = 6.0 * self.spec.decoder.width * self.target_embedding.token.num_embeddings
        written = stack_flops(self.spec.decoder, target, causal=True, sources=source) + head
        return source * stack_flops(self.spec.encoder, source, causal=False) + target * written


def build_encoder_decoder(
    spec: EncoderDecoder, seed: int = 0, device: torch.device | str = "cpu"
) -> EncoderDecoderModel:
    """Build an encoder-decoder with initial values; on the meta device, without values and in milliseconds."""
    with without_values():
        model = EncoderDecoderModel(spec)
    branches = 2 * len(spec.encoder.blocks) + 3 * len(spec.decoder.blocks)
    return started(model, device, spec.init, branches, seed)
