"""SigLIP as specs (Zhai et al. 2023, and code; SigLIP 2: Tschannen et al. 2025)."""

from __future__ import annotations

from corestone.models.picture_spec import ImageEncoder, Projection, Similarity, TextTower, TwoTower
from corestone.nn.spec import (
    Attention,
    AttentionPool,
    Block,
    FeedForward,
    Init,
    Norm,
    PatchEmbedding,
    Stack,
    TokenEmbedding,
)
from corestone.zoo.entry import Entry

NORM = Norm(eps=1e-6)
INIT = Init(std=None, token_std=0.02, position_std=0.02)


def siglip(
    width: int,
    depth: int,
    num_heads: int,
    patch_size: int,
    image_size: int,
    hidden_dim: int | None = None,
    vocab_size: int = 32_000,
    context_length: int = 64,
) -> TwoTower:
    """Towers of one shape. Pictures are read by attention of a learned query; texts, which are filled up to the whole
    context without telling the model, at their last token.

    Args:
        hidden_dim: None: four times the width.
    """
    attention = Attention(num_heads=num_heads, head_dim=width // num_heads)
    feedforward = FeedForward(hidden_dim=hidden_dim or 4 * width, activation="gelu_tanh")
    block = Block(norm=NORM, mixer=attention, feedforward=feedforward)
    stack = Stack(width=width, blocks=(block,) * depth, final_norm=NORM)
    image = ImageEncoder(
        embedding=PatchEmbedding(image_size=(image_size, image_size), patch_size=patch_size, class_token=False),
        stack=stack,
        pool=AttentionPool(attention=attention, norm=NORM, feedforward=feedforward),
        init=INIT,
    )
    embedding = TokenEmbedding(vocab_size=vocab_size, context_length=context_length)
    return TwoTower(
        image=image,
        text=TextTower(embedding=embedding, stack=stack, causal=False, init=INIT),
        embed_dim=width,
        image_projection=None,
        text_projection=Projection(bias=True),
        similarity=Similarity(scale=10.0, scale_most=None, bias=-10.0),
    )


def entries() -> list[Entry]:
    """By size and pixels."""
    models = {
        "siglip-b16-224": (siglip(768, 12, 12, 16, 224), 203_155_970),
        "siglip-b16-256": (siglip(768, 12, 12, 16, 256), 203_202_050),
        "siglip-b16-384": (siglip(768, 12, 12, 16, 384), 203_447_810),
        "siglip-b16-512": (siglip(768, 12, 12, 16, 512), 203_791_874),
        "siglip-l16-256": (siglip(1024, 24, 16, 16, 256), 652_150_786),
        "siglip-l16-384": (siglip(1024, 24, 16, 16, 384), 652_478_466),
        "siglip-so400m14-224": (siglip(1152, 27, 16, 14, 224, 4304, context_length=16), 877_360_306),
        "siglip-so400m14-384": (siglip(1152, 27, 16, 14, 384, 4304), 877_960_498),
        "siglip2-b16-224": (siglip(768, 12, 12, 16, 224, vocab_size=256_000), 375_187_970),
    }
    source = "Zhai et al. 2023, code, counted"
    return [Entry(name, "siglip", spec, published, source) for name, (spec, published) in models.items()]
