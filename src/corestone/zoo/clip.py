"""CLIP as specs (Radford et al. 2021, sections 2.4 and 2.5, tables 18 to 20, and code)."""

from __future__ import annotations

from corestone.models.picture_spec import ImageEncoder, ModifiedResNet, Projection, TextTower, TwoTower
from corestone.nn.spec import Attention, Block, FeedForward, Init, Norm, PatchEmbedding, Stack, TokenEmbedding
from corestone.zoo.entry import Entry


def stack(width: int, depth: int) -> Stack:
    """Pre-norm blocks with heads of 64 values."""
    block = Block(
        mixer=Attention(num_heads=width // 64, head_dim=64),
        feedforward=FeedForward(hidden_dim=4 * width, activation="quick_gelu"),
    )
    return Stack(width=width, blocks=(block,) * depth, final_norm=Norm())


def text_tower(width: int, vocab_size: int = 49_408, context_length: int = 77) -> TextTower:
    """A causal stack of twelve layers, read at the end of text. Matrices start with a deviation of 1/sqrt(inputs),
    branches' last ones divided by sqrt(branches); in the code feed-forwards' start 0.7 and 2 times as large."""
    return TextTower(
        embedding=TokenEmbedding(vocab_size=vocab_size, context_length=context_length),
        stack=stack(width, 12),
        init=Init(std=None, token_std=0.02, position_std=0.01, scale_residual=True),
    )


def clip_vit(
    width: int, depth: int, patch_size: int, text_width: int, embed_dim: int, image_size: int = 224
) -> TwoTower:
    """A Vision Transformer with a norm in front of its layers."""
    image = ImageEncoder(
        embedding=PatchEmbedding(image_size=(image_size, image_size), patch_size=patch_size, bias=False, norm=Norm()),
        stack=stack(width, depth),
        init=Init(std=None, position_std=width**-0.5),
    )
    return TwoTower(image=image, text=text_tower(text_width), embed_dim=embed_dim)


def clip_resnet(
    width: int, depths: tuple[int, int, int, int], image_size: int, text_width: int, embed_dim: int
) -> TwoTower:
    """A residual network with attention in place of the mean."""
    init = Init(std=None, position_std=(32 * width) ** -0.5)
    image = ModifiedResNet(image_size=(image_size, image_size), width=width, depths=depths, init=init)
    projection = Projection(bias=True)
    return TwoTower(image=image, text=text_tower(text_width), embed_dim=embed_dim, image_projection=projection)


def entries() -> list[Entry]:
    """The nine published models."""
    models = {
        "clip-rn50": (clip_resnet(64, (3, 4, 6, 3), 224, 512, 1024), 102_007_137),
        "clip-rn101": (clip_resnet(64, (3, 4, 23, 3), 224, 512, 512), 119_688_033),
        "clip-rn50x4": (clip_resnet(80, (4, 6, 10, 6), 288, 640, 640), 178_300_601),
        "clip-rn50x16": (clip_resnet(96, (6, 8, 18, 8), 384, 768, 768), 290_979_217),
        "clip-rn50x64": (clip_resnet(128, (3, 15, 36, 10), 448, 1024, 1024), 623_258_305),
        "clip-vit-b32": (clip_vit(768, 12, 32, 512, 512), 151_277_313),
        "clip-vit-b16": (clip_vit(768, 12, 16, 512, 512), 149_620_737),
        "clip-vit-l14": (clip_vit(1024, 24, 14, 768, 768), 427_616_513),
        "clip-vit-l14-336": (clip_vit(1024, 24, 14, 768, 768, 336), 427_944_193),
    }
    source, doubt = "Radford et al. 2021, code, counted", "the text names 49,152 tokens, table and code 49,408"
    return [Entry(name, "clip", spec, published, source, doubt) for name, (spec, published) in models.items()]
