"""CoCa as specs (Yu et al. 2022, section 3 and table 1)."""

from __future__ import annotations

from corestone.models.picture_spec import Captioner
from corestone.models.spec import Head
from corestone.nn.spec import Attention, AttentionPool, Block, FeedForward, Norm, PatchEmbedding, Stack, TokenEmbedding
from corestone.zoo.entry import Entry

NORM = Norm(eps=1e-6)


def coca(
    width: int,
    num_heads: int,
    image: tuple[int, int],
    text: tuple[int, int],
    vocab_size: int = 64_000,
    tied: bool = False,
    picture: PatchEmbedding | None = None,
    queries: int = 256,
) -> Captioner:
    """Pre-norm encoder of patches and pre-norm decoder of one width.

    Args:
        image: blocks of the encoder, hidden values of each.
        text: blocks of each half of the decoder, hidden values of each.
        picture: None: 288 pixels a side in patches of 18, which are 256 tokens (section 4.1).
        queries: of what captions are written from.
    """
    attention = Attention(num_heads=num_heads, head_dim=width // num_heads)
    depth, hidden_dim = text
    seeing = Block(norm=NORM, mixer=attention, feedforward=FeedForward(hidden_dim=image[1], activation="gelu"))
    reading = Block(norm=NORM, mixer=attention, feedforward=FeedForward(hidden_dim=hidden_dim, activation="gelu"))
    writing = reading.model_copy(update={"cross": attention})
    pool = AttentionPool(attention=attention, norm=NORM, feedforward=None)
    return Captioner(
        image_embedding=picture or PatchEmbedding(image_size=(288, 288), patch_size=18, class_token=False),
        image_stack=Stack(width=width, blocks=(seeing,) * image[0], final_norm=NORM),
        caption_pool=pool.model_copy(update={"queries": queries}),
        contrast_pool=pool,
        embedding=TokenEmbedding(vocab_size=vocab_size, context_length=64),
        decoder=Stack(width=width, blocks=(reading,) * depth + (writing,) * depth, final_norm=NORM),
        shared_width=width,
        head=Head(tied=tied),
    )


_POOLS = (
    "the published counts are those of encoder and decoder without both pools and projections; norms behind the pools, "
    "the width of the shared space and room for 64 tokens are assumed"
)
_UNTIED = "; a head of its own, by which the published count of the decoder is met; the paper does not say"
_TIED = "; a tied head: the decoder is then nearest to its published 1.1 B, with a head of its own 1.18 B"


def entries() -> list[Entry]:
    """All three sizes."""
    rows = [
        ("coca-base", coca(768, 12, (12, 3072), (12, 3072)), 383e6, _UNTIED),
        ("coca-large", coca(1024, 16, (24, 4096), (12, 4096)), 787e6, _UNTIED),
        ("coca-2.1b", coca(1408, 16, (40, 6144), (18, 5632), tied=True), 2.1e9, _TIED),
    ]
    source = "Yu et al. 2022, table 1"
    return [Entry(name, "coca", spec, published, source, _POOLS + more) for name, spec, published, more in rows]
