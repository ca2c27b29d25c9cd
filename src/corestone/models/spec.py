"""Records of the shapes of computation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from corestone.core.spec import Spec
from corestone.nn.spec import (
    LSTM,
    Attention,
    Init,
    Norm,
    Stack,
    TokenEmbedding,
)


class Head(Spec):
    """The map from hidden values to logits.

    Attributes:
        tied: it is the token table itself (Press and Wolf 2017).
        transform: what is done to hidden values before a tied head.
        scale: factor of the logits (PaLM: 1/sqrt(width)).
    """

    tied: bool = True
    transform: Transform | None = None
    bias: bool = False
    scale: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> Head:
        if self.transform is not None and not self.tied:
            raise ValueError("head.transform goes with a tied head; set tied=true or transform=null")
        return self


class Transform(Spec):
    """What stands between hidden values and a tied head: a dense map to the table's width, GELU, a norm (BERT)."""

    norm: Norm = Norm()


class Decoder(Spec):
    """A causal transformer language model: embedding, stack, head."""

    kind: Literal["decoder"] = "decoder"
    embedding: TokenEmbedding
    stack: Stack
    head: Head = Head()
    init: Init = Init()


class PoolerHead(Spec):
    """A row as one vector, by its first token (Devlin et al. 2018, section 3.1).

    Attributes:
        classes: logits of that vector (next-sentence prediction: 2); None: the vector alone.
    """

    classes: int | None = Field(default=None, ge=2)


class Encoder(Spec):
    """A transformer that sees whole texts: embedding, stack, and heads for what is learnt.

    Attributes:
        head: for hidden tokens; None: there is none (an ELECTRA discriminator).
        detector: a logit per token, was it replaced?
        pooler: a vector per row.
    """

    kind: Literal["encoder"] = "encoder"
    embedding: TokenEmbedding
    stack: Stack
    head: Head | None = Head()
    detector: bool = False
    pooler: PoolerHead | None = None
    init: Init = Init()

    @model_validator(mode="after")
    def _fits(self) -> Encoder:
        check_both_ways(self.stack, "stack")
        inner = self.embedding.width
        if self.head is not None and self.head.tied and inner is not None and self.head.transform is None:
            raise ValueError(f"a tied head needs a transform to the token table's width ({inner})")
        return self


class EncoderDecoder(Spec):
    """A text is read whole, another is written token by token (Vaswani et al. 2017; Raffel et al. 2020).

    Attributes:
        embedding: of what is read, and of what is written unless that has its own.
        target_embedding: None: both sides share one.
        decoder: its blocks attend to the encoder's hidden values (`cross`).
        head: tied to the table of what is written.
    """

    kind: Literal["encoder_decoder"] = "encoder_decoder"
    embedding: TokenEmbedding
    target_embedding: TokenEmbedding | None = None
    encoder: Stack
    decoder: Stack
    head: Head = Head()
    init: Init = Init()

    @model_validator(mode="after")
    def _fits(self) -> EncoderDecoder:
        if self.encoder.width != self.decoder.width:
            raise ValueError(f"encoder.width={self.encoder.width} and decoder.width={self.decoder.width} must agree")
        check_both_ways(self.encoder, "encoder")
        if any(block.cross is not None for block in self.encoder.blocks):
            raise ValueError("encoder.blocks: an encoder has nothing to cross to; set cross=null")
        if not any(block.cross is not None for block in self.decoder.blocks):
            raise ValueError("decoder.blocks: no block has cross, so the decoder would never see the source")
        return self


class GeneratorDiscriminator(Spec):
    """Two encoders over one set of tables: the first fills in hidden tokens, the second finds which it got wrong
    (Clark et al. 2020, section 2)."""

    kind: Literal["generator_discriminator"] = "generator_discriminator"
    generator: Encoder
    discriminator: Encoder

    @model_validator(mode="after")
    def _fits(self) -> GeneratorDiscriminator:
        if self.generator.head is None:
            raise ValueError("generator: needs a head that fills in hidden tokens")
        if not self.discriminator.detector:
            raise ValueError("discriminator: needs detector=true")
        if _tables(self.generator) != _tables(self.discriminator):
            raise ValueError(
                "generator and discriminator share their tables, so vocab_size, context_length, types, norm and the "
                f"tables' widths must agree (got {_tables(self.generator)} and {_tables(self.discriminator)})"
            )
        return self


def check_both_ways(stack: Stack, where: str) -> None:
    """Refuse a token mixer that reads forwards only in an encoder."""
    for layer, block in enumerate(stack.blocks):
        if not isinstance(block.mixer, Attention):
            kind = block.mixer.kind
            raise ValueError(
                f"{where}.blocks.{layer}.mixer: '{kind}' sees only earlier tokens; an encoder needs attention"
            )


def _tables(encoder: Encoder) -> dict[str, object]:
    """What two encoders must have in common to share tables."""
    table = encoder.embedding
    shared = {name: getattr(table, name) for name in ("vocab_size", "context_length", "position", "types", "norm")}
    return shared | {"width": table.width or encoder.stack.width}


class Dropout(Spec):
    """Fractions dropped from what the first layer reads, what the others read, and what the head reads."""

    input: float = Field(default=0.0, ge=0, lt=1)
    between: float = Field(default=0.0, ge=0, lt=1)
    output: float = Field(default=0.0, ge=0, lt=1)


class Recurrent(Spec):
    """A language model of LSTM layers: token table, layers, head, all of one width.

    Attributes:
        layer: each of the `depth` layers.
        skip: the head reads the sum of all layers' outputs, not the last one's (Melis et al. 2020, code).
    """

    kind: Literal["recurrent"] = "recurrent"
    vocab_size: int = Field(ge=1)
    width: int = Field(ge=1)
    depth: int = Field(ge=1)
    layer: LSTM = LSTM()
    skip: bool = False
    dropout: Dropout = Dropout()
    head: Head = Head()
