"""H3 and its hybrids with attention as specs (Fu et al. 2023; layers as in the released checkpoints)."""

from __future__ import annotations

from collections.abc import Collection

from corestone.models.spec import Decoder
from corestone.nn.spec import H3, Attention, Block, FeedForward, Init, Rotary, Stack, TokenEmbedding
from corestone.zoo.entry import Entry

VOCAB_SIZE, CONTEXT_LENGTH = 50264, 2048


def h3(
    width: int,
    depth: int,
    num_heads: int,
    attention: Collection[int],
    rotary_dims: int | None = None,
    vocab_size: int = VOCAB_SIZE,
    context_length: int = CONTEXT_LENGTH,
) -> Decoder:
    """Pre-norm decoder without positions, whose layers mix tokens by H3 and, in a few of them, by attention.

    The released code misspells a name and so leaves the H3 layers' last matrices out of the depth-scaled
    initialisation; here they are scaled as the others are.

    Args:
        attention: layers that attend, counted from 0.
        rotary_dims: of their heads; None: no positions at all.
    """
    position = None if rotary_dims is None else Rotary(dims=rotary_dims)
    attend = Attention(num_heads=num_heads, head_dim=width // num_heads, position=position)
    feedforward = FeedForward(hidden_dim=4 * width)
    blocks = (Block(mixer=attend if layer in attention else H3(), feedforward=feedforward) for layer in range(depth))
    return Decoder(
        embedding=TokenEmbedding(vocab_size=vocab_size, context_length=context_length, position=None, dropout=0.1),
        stack=Stack(width=width, blocks=tuple(blocks)),
        init=Init(scale_residual=True),
    )


def entries() -> list[Entry]:
    """Every released size."""
    shapes = {
        "h3-125m": (h3(768, 12, 12, {6}), 125e6),
        "h3-355m": (h3(1024, 24, 16, {8, 16}), 355e6),
        "h3-1.3b": (h3(2048, 24, 16, {8, 16}), 1.3e9),
        "h3-2.7b": (h3(2560, 32, 20, {8, 16, 24}), 2.7e9),
        "h3-2.7b-rotary": (h3(2560, 32, 20, {10, 21}, rotary_dims=64), 2.7e9),
    }
    source = "Fu et al. 2023; layers of the released checkpoints"
    doubt = "the paper puts two attention layers at 2 and 2 + depth/2; the checkpoints have them elsewhere"
    return [Entry(name, "h3", spec, published, source, doubt) for name, (spec, published) in shapes.items()]
