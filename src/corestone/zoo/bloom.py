"""BLOOM as specs (BigScience 2022, table 3)."""

from __future__ import annotations

from corestone.models.spec import Decoder
from corestone.nn.spec import Alibi, Attention, Block, FeedForward, Norm, Stack, TokenEmbedding
from corestone.zoo.entry import Entry


def bloom(width: int, depth: int, num_heads: int, vocab_size: int = 250880, context_length: int = 2048) -> Decoder:
    """Pre-norm decoder with linear position biases and a norm behind the token table (section 3.2)."""
    mixer = Attention(num_heads=num_heads, head_dim=width // num_heads, position=Alibi())
    return Decoder(
        embedding=TokenEmbedding(vocab_size=vocab_size, context_length=context_length, position=None, norm=Norm()),
        stack=Stack(width=width, blocks=(Block(mixer=mixer, feedforward=FeedForward(hidden_dim=4 * width)),) * depth),
    )


def entries() -> list[Entry]:
    """Every published size."""
    shapes = {
        "bloom-560m": (1024, 24, 16, 559e6),
        "bloom-1.1b": (1536, 24, 16, 1065e6),
        "bloom-1.7b": (2048, 24, 16, 1722e6),
        "bloom-3b": (2560, 30, 32, 3003e6),
        "bloom-7.1b": (4096, 30, 32, 7069e6),
        "bloom-176b": (14336, 70, 112, 176_247e6),
    }
    source = "BigScience 2022, table 3"
    return [Entry(name, "bloom", bloom(*shape[:3]), shape[3], source) for name, shape in shapes.items()]
