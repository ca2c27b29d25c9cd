"""GPT-J as a spec (Wang and Komatsuzaki 2021, mesh-transformer-jax)."""

from __future__ import annotations

from corestone.models.spec import Decoder, Head
from corestone.nn.spec import Attention, Block, FeedForward, Rotary, Stack, TokenEmbedding
from corestone.zoo.entry import Entry


def gptj(
    width: int, depth: int, num_heads: int, rotary_dims: int, vocab_size: int = 50400, context_length: int = 2048
) -> Decoder:
    """Parallel branches behind one norm, interleaved rotary positions, an untied head with a bias."""
    mixer = Attention(
        num_heads=num_heads,
        head_dim=width // num_heads,
        bias_in=False,
        bias_out=False,
        position=Rotary(dims=rotary_dims, interleaved=True),
    )
    block = Block(residual="parallel", mixer=mixer, feedforward=FeedForward(hidden_dim=4 * width))
    return Decoder(
        embedding=TokenEmbedding(vocab_size=vocab_size, context_length=context_length, position=None),
        stack=Stack(width=width, blocks=(block,) * depth),
        head=Head(tied=False, bias=True),
    )


def entries() -> list[Entry]:
    """The one published size."""
    source = "Wang and Komatsuzaki 2021, mesh-transformer-jax"
    doubt = "the published count holds 2,498,560 copies of norms and biases, one per shard of the original"
    return [Entry("gptj-6b", "gptj", gptj(4096, 28, 16, rotary_dims=64), 6_053_381_344, source, doubt)]
