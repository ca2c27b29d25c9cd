"""BASIC as specs (Pham et al. 2021)."""

from __future__ import annotations

from corestone.models.picture_spec import CoAtNet, TextTower, TwoTower
from corestone.nn.spec import Attention, Block, FeedForward, Init, MeanPool, Norm, Stack, TokenEmbedding
from corestone.zoo import coatnet
from corestone.zoo.entry import Entry

NORM = Norm(eps=1e-6)


def text_tower(width: int, depth: int, head_dim: int = 64, vocab_size: int = 32_000, length: int = 64) -> TextTower:
    """Pre-norm blocks that see the whole text, whose vector is the mean of its tokens."""
    block = Block(
        norm=NORM,
        mixer=Attention(num_heads=width // head_dim, head_dim=head_dim),
        feedforward=FeedForward(hidden_dim=4 * width, activation="gelu"),
    )
    return TextTower(
        embedding=TokenEmbedding(vocab_size=vocab_size, context_length=length),
        stack=Stack(width=width, blocks=(block,) * depth, final_norm=NORM),
        causal=False,
        pool=MeanPool(),
        init=Init(std=None, token_std=0.02, position_std=0.02),
    )


def basic(image: CoAtNet, text: TextTower) -> TwoTower:
    """A CoAtNet without its head, whose mean is mapped linearly to the width of the text tower, the width of the shared
    space. The temperature is learned, within CLIP's bound."""
    return TwoTower(
        image=image.model_copy(update={"classes": None}),
        text=text,
        embed_dim=text.stack.width,
        text_projection=None,
    )


_UNVERIFIED = (
    "published: the sum of both towers as they are cited; that S and M have CoAtNet-0 and 3, the text towers' sizes "
    "(108 M, 184 M, 670 M), their 32,000 entries, 64 tokens and mean could not be checked in the paper, but layers of "
    "these widths have those sizes"
)
_ASSUMED = (
    "; assumed: heads of 64, tokens that see later ones, the shared space, of the width of the text tower, CLIP's "
    "bound of the scale"
)
_HEAD = "; CoAtNet's published count includes the head's hidden layer, which a tower has not"
_LARGE = "; the abstract rounds to 3 B"


def entries() -> list[Entry]:
    """All three sizes, on pictures of 224 pixels."""
    rows = [
        ("basic-s", "coatnet-0", (1024, 6), 108e6, ""),
        ("basic-m", "coatnet-3", (1024, 12), 184e6, ""),
        ("basic-l", "coatnet-7", (2048, 12), 670e6, _LARGE),
    ]
    source, doubt, images = "Pham et al. 2021", _UNVERIFIED + _ASSUMED + _HEAD, coatnet.sizes()
    return [
        Entry(
            name,
            "basic",
            basic(images[image], text_tower(*size)),
            coatnet.PUBLISHED[image] + text,
            source,
            doubt + more,
        )
        for name, image, size, text, more in rows
    ]
