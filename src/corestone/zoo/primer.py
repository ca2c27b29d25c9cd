"""Primer-EZ as specs (So et al. 2021, sections 3 and 4), and the Transformer on the same code base."""

from __future__ import annotations

from corestone.models.spec import Decoder, Head
from corestone.nn.spec import Attention, Block, Buckets, FeedForward, Init, Norm, Stack, TokenEmbedding
from corestone.zoo.entry import Entry

NORM = Norm(eps=1e-6)


def primer_ez(
    width: int,
    depth: int,
    num_heads: int,
    hidden_dim: int,
    vocab_size: int = 32128,
    context_length: int = 512,
) -> Decoder:
    """A decoder on T5's code base with squared ReLU and a convolution of width 3 behind queries, keys and values.

    From T5: learned biases by bucketed distance, no biases and no scaling in attention, scaled tied logits.
    """
    mixer = Attention(
        num_heads=num_heads,
        head_dim=width // num_heads,
        bias_in=False,
        bias_out=False,
        position=Buckets(),
        scale=1.0,
        conv_width=3,
    )
    block = Block(norm=NORM, mixer=mixer, feedforward=FeedForward(hidden_dim=hidden_dim, activation="relu_squared"))
    return Decoder(
        embedding=TokenEmbedding(vocab_size=vocab_size, context_length=context_length, position=None),
        stack=Stack(width=width, blocks=(block,) * depth, final_norm=NORM),
        head=Head(scale=width**-0.5),
        init=Init(std=None, token_std=1.0, position_std=width**-0.5),
    )


def vanilla(spec: Decoder) -> Decoder:
    """The baseline of the paper: the same without Primer-EZ's two changes."""
    changes = {"mixer": {"conv_width": None}, "feedforward": {"activation": "relu"}}
    blocks = tuple(
        block.model_copy(
            update={part: getattr(block, part).model_copy(update=change) for part, change in changes.items()}
        )
        for block in spec.stack.blocks
    )
    return spec.model_copy(update={"stack": spec.stack.model_copy(update={"blocks": blocks})})


def entries() -> list[Entry]:
    """The two sizes whose shapes are published."""
    medium, large = primer_ez(768, 12, 12, 3072), primer_ez(1024, 24, 16, 8192)
    source = "So et al. 2021, section 4 and code"
    return [
        Entry("primer-ez-110m", "primer", medium, 110e6, source),
        Entry("primer-ez-537m", "primer", large, 537e6, source),
        Entry("primer-base-110m", "primer", vanilla(medium), 110e6, source),
        Entry("primer-base-537m", "primer", vanilla(large), 537e6, source),
    ]
