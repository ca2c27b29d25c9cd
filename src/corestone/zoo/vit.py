"""Vision Transformers as specs (Dosovitskiy et al. 2021, sections 3 and 4.1, table 1; Ti and S: Touvron et al. 2021;
g and G: Zhai et al. 2022)."""

from __future__ import annotations

from corestone.models.picture_spec import ClassHead, ImageEncoder
from corestone.nn.spec import Attention, Block, FeedForward, Init, Norm, PatchEmbedding, Stack
from corestone.zoo.entry import Entry

NORM = Norm(eps=1e-6)
IMAGENET = ClassHead(classes=1000)


def vit(
    width: int,
    depth: int,
    num_heads: int,
    patch_size: int,
    hidden_dim: int | None = None,
    image_size: tuple[int, int] = (224, 224),
    head: ClassHead | None = IMAGENET,
    dropout: float = 0.0,
) -> ImageEncoder:
    """Pre-norm encoder of patches with a class token.

    Args:
        hidden_dim: None: four times the width.
        head: the fine-tuned models' by default; a pretrained one has hidden=true.
        dropout: behind every dense map but the queries', keys' and values', and behind the positions (appendix B.1).
    """
    block = Block(
        norm=NORM,
        mixer=Attention(num_heads=num_heads, head_dim=width // num_heads),
        feedforward=FeedForward(hidden_dim=hidden_dim or 4 * width, activation="gelu", dropout=dropout),
        dropout=dropout,
    )
    return ImageEncoder(
        embedding=PatchEmbedding(image_size=image_size, patch_size=patch_size, dropout=dropout),
        stack=Stack(width=width, blocks=(block,) * depth, final_norm=NORM),
        head=head,
        init=Init(std=0.02, position_std=0.02),
    )


def entries() -> list[Entry]:
    """Every size, for 1,000 classes at 224 pixels."""
    paper, timm = "Dosovitskiy et al. 2021, table 1", "timm, counted"
    base = "the paper gives one number for patches of 16 and of 32, which have fewer positions and wider maps"
    large = "the paper's 307M fits patches of 32, not of 16"
    shapes: dict[str, tuple[ImageEncoder, float, str, str]] = {
        "vit-ti16": (vit(192, 12, 3, 16), 5.717e6, timm, ""),
        "vit-s16": (vit(384, 12, 6, 16), 22.05e6, timm, ""),
        "vit-b32": (vit(768, 12, 12, 32), 86e6, paper, base),
        "vit-b16": (vit(768, 12, 12, 16), 86e6, paper, ""),
        "vit-l32": (vit(1024, 24, 16, 32), 307e6, paper, ""),
        "vit-l16": (vit(1024, 24, 16, 16), 307e6, paper, large),
        "vit-h14": (vit(1280, 32, 16, 14), 632e6, paper, ""),
        "vit-g14": (vit(1408, 40, 16, 14, 6144), 1012.6e6, timm, ""),
        "vit-gigantic14": (vit(1664, 48, 16, 14, 8192), 1844.4e6, timm, ""),
    }
    return [Entry(name, "vit", *shape) for name, shape in shapes.items()]
