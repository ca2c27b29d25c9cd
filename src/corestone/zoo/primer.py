"""Primer, Primer-EZ and the Transformer on the same code base as specs (So et al. 2021, sections 3, 4 and code)."""

from __future__ import annotations

from typing import Any

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


def primer(ez: Decoder) -> Decoder:
    """The whole of Primer: queries made of keys, and the feed-forward's norm behind it, as in the authors' code for T5.

    Its norm divides by the root of mean(x * (x - mean(x))), which is the variance, so the layer norm is that norm: they
    differ in rounding alone. The search's 12 times wider bottlenecks and its further scalars are left out, as they are
    in that code.
    """
    return _changed(ez, mixer={"shared_qk": True}, norm_at="in_out")


def vanilla(ez: Decoder) -> Decoder:
    """The baseline of the paper: the same without Primer-EZ's two changes."""
    return _changed(ez, mixer={"conv_width": None}, feedforward={"activation": "relu"})


def _changed(spec: Decoder, **changes: Any) -> Decoder:
    """Every block with other values, those of its parts in a table each."""
    block = spec.stack.blocks[0]
    parts = {name: getattr(block, name).model_copy(update=x) for name, x in changes.items() if isinstance(x, dict)}
    blocks = (block.model_copy(update=changes | parts),) * len(spec.stack.blocks)
    return spec.model_copy(update={"stack": spec.stack.model_copy(update={"blocks": blocks})})


def entries() -> list[Entry]:
    """The two sizes whose shapes are published."""
    sizes = {"110m": (primer_ez(768, 12, 12, 3072), 110e6), "537m": (primer_ez(1024, 24, 16, 8192), 537e6)}
    source = "So et al. 2021, section 4 and code"
    return [
        Entry(f"{name}-{size}", "primer", change(ez), published, source)
        for name, change in {"primer-ez": lambda ez: ez, "primer": primer, "primer-base": vanilla}.items()
        for size, (ez, published) in sizes.items()
    ]
