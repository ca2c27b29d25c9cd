"""CoAtNet as specs (Dai et al. 2021)."""

from __future__ import annotations

from corestone.models.picture_spec import CoAtNet, Stage
from corestone.nn.spec import ConvLayer, GridTransformer, MBConv
from corestone.zoo.entry import Entry


def stem(width: int) -> tuple[ConvLayer, ...]:
    """Two convolutions, of which the first halves the picture; the next block's norm follows the second."""
    first = ConvLayer(channels=width, kernel=3, stride=2, padding=1, activation="gelu")
    return first, ConvLayer(channels=width, kernel=3, padding=1, norm=None, activation=None)


def coatnet(
    stem_width: int, depths: tuple[int, ...], widths: tuple[int, ...], head_dim: int = 32, image_size: int = 224
) -> CoAtNet:
    """Two stages of convolutions, then two of attention."""
    attention = GridTransformer(head_dim=head_dim)
    blocks: tuple[MBConv | GridTransformer, ...] = (MBConv(), MBConv(), attention, attention)
    stages = (Stage(depth=d, width=w, block=b) for d, w, b in zip(depths, widths, blocks, strict=True))
    return CoAtNet(image_size=(image_size, image_size), stem=stem(stem_width), stages=tuple(stages))


def mixed(widths: tuple[int, ...], image_size: int = 224) -> CoAtNet:
    """CoAtNet-6 and 7: most of the second stage's convolutions moved to the third one's map, at twice the width, and
    attention of twice that width behind them."""
    first, second, third, fourth, fifth = widths
    attention = GridTransformer(head_dim=128)
    stages = (
        Stage(depth=2, width=first, block=MBConv()),
        Stage(depth=4, width=second, block=MBConv()),
        Stage(depth=8, width=third, block=MBConv()),
        Stage(depth=42, width=fourth, block=attention, halve=False),
        Stage(depth=2, width=fifth, block=attention),
    )
    return CoAtNet(image_size=(image_size, image_size), stem=stem(192), stages=stages)


_HEAD = "with a hidden layer in the head, by which the published counts are met; the paper names none"
_HEADS = "; heads of 64, as in the paper: timm's count, 419,056 more, is that of heads of 32"
_LAST = "; the printed sizes give 1.35 B; with the last stage as wide as CoAtNet-7's, 3072, it would be 1.47 B"


def sizes() -> dict[str, CoAtNet]:
    """All eight, on pictures of 224 pixels."""
    small, large = (96, 192, 384, 768), (192, 384, 768, 1536)
    return {
        "coatnet-0": coatnet(64, (2, 3, 5, 2), small),
        "coatnet-1": coatnet(64, (2, 6, 14, 2), small),
        "coatnet-2": coatnet(128, (2, 6, 14, 2), (128, 256, 512, 1024)),
        "coatnet-3": coatnet(192, (2, 6, 14, 2), large),
        "coatnet-4": coatnet(192, (2, 12, 28, 2), large),
        "coatnet-5": coatnet(192, (2, 12, 28, 2), (256, 512, 1280, 2048), head_dim=64),
        "coatnet-6": mixed((192, 384, 768, 1536, 2048)),
        "coatnet-7": mixed((256, 512, 1024, 2048, 3072)),
    }


PUBLISHED = {
    "coatnet-0": 25e6,
    "coatnet-1": 42e6,
    "coatnet-2": 75e6,
    "coatnet-3": 168e6,
    "coatnet-4": 275e6,
    "coatnet-5": 688e6,
    "coatnet-6": 1470e6,
    "coatnet-7": 2440e6,
}


def entries() -> list[Entry]:
    """By size."""
    doubts = {"coatnet-5": _HEADS, "coatnet-6": _LAST}
    return [
        Entry(name, "coatnet", spec, PUBLISHED[name], "Dai et al. 2021", _HEAD + doubts.get(name, ""))
        for name, spec in sizes().items()
    ]
