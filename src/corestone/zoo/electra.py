"""ELECTRA as specs (Clark et al. 2020, sections 2 and 3, table 6)."""

from __future__ import annotations

from corestone.models.spec import Encoder, GeneratorDiscriminator, Head, Transform
from corestone.nn.spec import Attention, Block, FeedForward, Init, Stack, TokenEmbedding
from corestone.zoo.bert import NORM
from corestone.zoo.entry import Entry


def electra(
    width: int,
    depth: int,
    num_heads: int,
    table_width: int | None = None,
    generator_fraction: tuple[int, int] = (1, 3),
    vocab_size: int = 30522,
    context_length: int = 512,
    dropout: float = 0.1,
) -> GeneratorDiscriminator:
    """A discriminator and a generator of a fraction of its width, heads and hidden values, over shared tables.

    Args:
        table_width: of the tables; None: the discriminator's.
        generator_fraction: as numerator and denominator.
    """
    inner, (over, under) = table_width or width, generator_fraction

    def encoder(width: int, heads: int, finds: bool) -> Encoder:
        block = Block(
            norm=NORM,
            norm_at="after",
            mixer=Attention(num_heads=heads, head_dim=width // heads, dropout=dropout),
            feedforward=FeedForward(hidden_dim=4 * width, activation="gelu"),
            dropout=dropout,
        )
        return Encoder(
            embedding=TokenEmbedding(
                vocab_size=vocab_size,
                context_length=context_length,
                types=2,
                width=None if inner == width else inner,
                project="sum",
                norm=NORM,
                dropout=dropout,
            ),
            stack=Stack(width=width, blocks=(block,) * depth, final_norm=None),
            head=None if finds else Head(bias=True, transform=Transform(norm=NORM)),
            detector=finds,
            init=Init(std=0.02),
        )

    return GeneratorDiscriminator(
        generator=encoder(width * over // under, max(1, num_heads * over // under), finds=False),
        discriminator=encoder(width, num_heads, finds=True),
    )


def entries() -> list[Entry]:
    """Every published size: the discriminator is what is counted."""
    source = "Clark et al. 2020, table 6"
    models = {
        "electra-small": (electra(256, 12, 4, table_width=128, generator_fraction=(1, 4)), 14e6),
        "electra-base": (electra(768, 12, 12, generator_fraction=(1, 3)), 110e6),
        "electra-large": (electra(1024, 24, 16, generator_fraction=(1, 4)), 335e6),
    }
    return [Entry(name, "electra", model.discriminator, count, source) for name, (model, count) in models.items()]
