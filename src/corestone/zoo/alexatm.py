"""AlexaTM 20B as a spec (Soltan et al. 2022, section 3, table 1)."""

from __future__ import annotations

from corestone.models.spec import EncoderDecoder, Head
from corestone.nn.spec import Attention, Block, FeedForward, Norm, Stack, TokenEmbedding
from corestone.zoo.entry import Entry

NORM = Norm(eps=1e-12)


def alexatm(
    width: int,
    depths: tuple[int, int],
    num_heads: int,
    vocab_size: int,
    context_length: int = 1024,
    dropout: float = 0.1,
) -> EncoderDecoder:
    """Pre-norm encoder and decoder with learned positions; three tables: read, written, and the head.

    Args:
        depths: layers of the encoder and of the decoder.
    """
    attention = Attention(num_heads=num_heads, head_dim=width // num_heads, dropout=dropout)
    block = Block(
        norm=NORM,
        mixer=attention,
        feedforward=FeedForward(hidden_dim=4 * width, activation="gelu"),
        dropout=dropout,
    )
    table = TokenEmbedding(vocab_size=vocab_size, context_length=context_length, dropout=dropout)
    crossing = block.model_copy(update={"cross": attention})
    return EncoderDecoder(
        embedding=table,
        target_embedding=table,
        encoder=Stack(width=width, blocks=(block,) * depths[0], final_norm=NORM),
        decoder=Stack(width=width, blocks=(crossing,) * depths[1], final_norm=NORM),
        head=Head(tied=False),
    )


def entries() -> list[Entry]:
    """The published size."""
    doubt = "its vocabulary is given as about 150 k and 1 k reserved; 151,000 here, 154,500 would give 19.75 B"
    return [Entry("alexatm-20b", "alexatm", alexatm(4096, (46, 32), 32, 151_000), 19.75e9, "Soltan et al. 2022", doubt)]
