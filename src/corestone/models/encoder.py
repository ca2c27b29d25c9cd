"""The encoder: a transformer that sees whole texts, and a pair of them.

Shape letters: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import nn

from corestone.core.batch import TextBatch
from corestone.core.errors import SpecError
from corestone.core.protocols import Output
from corestone.models.flops import stack_flops
from corestone.models.spec import Encoder, GeneratorDiscriminator
from corestone.nn.embedding import TokenEmbeddingLayer
from corestone.nn.head import DetectorHead, HeadTransform, OwnHead, Pooler, TiedHead
from corestone.nn.init import started, without_values
from corestone.nn.stack import StackLayer


class EncoderModel(nn.Module):
    """`model(batch)` gives hidden values (B, T, D); who needs `head`, `detector` or `pooler` applies them to those."""

    generates = "nothing"

    def __init__(self, spec: Encoder) -> None:
        super().__init__()
        self.spec = spec
        width, inner, head = spec.stack.width, spec.embedding.width or spec.stack.width, spec.head
        self.embedding = TokenEmbeddingLayer(spec.embedding, width)
        self.stack = StackLayer(spec.stack)
        self.head: OwnHead | TiedHead | None = None
        if head is not None and head.tied:
            transform = None if head.transform is None else HeadTransform(width, inner, head.transform.norm)
            self.head = TiedHead(self.embedding.token, head.bias, transform, head.scale)
        elif head is not None:
            self.head = OwnHead(width, spec.embedding.vocab_size, head.bias, head.scale)
        self.detector = DetectorHead(width) if spec.detector else None
        self.pooler = Pooler(width, spec.pooler.classes) if spec.pooler is not None else None

    @property
    def vocab_size(self) -> int:
        """Rows of the token table."""
        return self.spec.embedding.vocab_size

    @property
    def context_length(self) -> int:
        """The most tokens a row may have."""
        return self.spec.embedding.context_length

    def forward(self, batch: TextBatch) -> Output:
        """Hidden values (B, T, D) of a batch whose tokens see both ways."""
        if batch.mask.causal:
            raise SpecError(
                "an encoder sees whole texts, and this batch hides what comes later; choose an objective "
                "for encoders, such as masked_token, or a decoder as the model"
            )
        hidden = self.stack(self.embedding(batch), batch.positions_BT, batch.mask)
        return Output(hidden=hidden)

    def training_flops(self, tokens: int, predicted: float = 1.0) -> float:
        """Floating-point operations per token of forward and backward on rows of `tokens` tokens.

        Args:
            predicted: the share of tokens whose logits are computed.
        """
        width, inner, table = self.spec.stack.width, self.spec.embedding.width, self.spec.embedding
        flops = stack_flops(self.spec.stack, tokens, causal=False)
        if inner is not None:
            flops += 6 * width * inner
        if self.spec.head is not None:
            transform = 0 if self.spec.head.transform is None else width * (inner or width)
            flops += 6 * predicted * (transform + table.vocab_size * (inner or width))
        if self.spec.detector:
            flops += 6 * (width * width + width)
        if self.spec.pooler is not None:
            flops += 6 * (width * width + width * (self.spec.pooler.classes or 0)) / tokens
        return flops


class GeneratorDiscriminatorModel(nn.Module):
    """Two encoders whose tables, and the norm behind them, are the same parameters."""

    generates = "nothing"
    ways_in = ("generator", "discriminator")
    """Inner models by which objectives enter the model (`parallel.compiled`)."""

    def __init__(self, spec: GeneratorDiscriminator) -> None:
        super().__init__()
        self.spec = spec
        self.discriminator = EncoderModel(spec.discriminator)
        self.generator = EncoderModel(spec.generator)
        mine, shared = self.generator.embedding, self.discriminator.embedding
        mine.token, mine.position, mine.types, mine.norm = shared.token, shared.position, shared.types, shared.norm
        if isinstance(self.generator.head, TiedHead):
            self.generator.head.weight = shared.token.weight
        self.head = self.generator.head

    @property
    def vocab_size(self) -> int:
        """Rows of the token table."""
        return self.discriminator.vocab_size

    @property
    def context_length(self) -> int:
        """The most tokens a row may have."""
        return self.discriminator.context_length

    def forward(self, batch: TextBatch) -> Output:
        """The discriminator's hidden values: it is what training is for."""
        out: Output = self.discriminator(batch)
        return out


def build_encoder(spec: Encoder, seed: int = 0, device: torch.device | str = "cpu") -> EncoderModel:
    """Build an encoder with initial values; on the meta device, without values and in milliseconds."""
    with without_values():
        model = EncoderModel(spec)
    return started(model, device, spec.init, 2 * len(spec.stack.blocks), seed)


def build_generator_discriminator(
    spec: GeneratorDiscriminator, seed: int = 0, device: torch.device | str = "cpu"
) -> GeneratorDiscriminatorModel:
    """Build both encoders with the discriminator's initial distribution."""
    with without_values():
        model = GeneratorDiscriminatorModel(spec)
    return started(model, device, spec.discriminator.init, 2 * len(spec.discriminator.stack.blocks), seed)
