"""PaLM as specs (Chowdhery et al. 2022, section 2 and table 1)."""

from __future__ import annotations

from corestone.models.spec import Decoder, Head
from corestone.nn.spec import Attention, Block, FeedForward, Init, Norm, Rotary, Stack, TokenEmbedding
from corestone.zoo.entry import Entry

NORM = Norm(bias=False)
"""A gain alone; its eps is an assumption, since the paper gives none."""


def palm(
    width: int, depth: int, num_heads: int, head_dim: int = 256, vocab_size: int = 256_000, context_length: int = 2048
) -> Decoder:
    """Parallel branches, SwiGLU, one head of keys and values, rotary positions, no biases, scaled tied logits."""
    mixer = Attention(
        num_heads=num_heads,
        num_kv_heads=1,
        head_dim=head_dim,
        bias_in=False,
        bias_out=False,
        position=Rotary(dims=head_dim),
    )
    feedforward = FeedForward(hidden_dim=4 * width, activation="silu", gated=True, bias=False)
    block = Block(norm=NORM, residual="parallel", mixer=mixer, feedforward=feedforward)
    return Decoder(
        embedding=TokenEmbedding(vocab_size=vocab_size, context_length=context_length, position=None),
        stack=Stack(width=width, blocks=(block,) * depth, final_norm=NORM),
        head=Head(scale=width**-0.5),
        init=Init(std=None, token_std=1.0),
    )


def entries() -> list[Entry]:
    """Every published size."""
    shapes = {
        "palm-8b": (4096, 32, 16, 8.63e9),
        "palm-62b": (8192, 64, 32, 62.50e9),
        "palm-540b": (18432, 118, 48, 540.35e9),
    }
    source = "Chowdhery et al. 2022, table 1"
    return [Entry(name, "palm", palm(*shape[:3]), shape[3], source) for name, shape in shapes.items()]
