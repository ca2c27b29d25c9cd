"""The simple networks for MNIST whose votes make an ensemble (An et al. 2020; sizes and head by the authors' code)."""

from __future__ import annotations

from collections.abc import Sequence

from corestone.models.picture_spec import ConvNet
from corestone.nn.spec import ConvLayer
from corestone.zoo.entry import Entry


def mnist_cnn(kernel: int, channels: Sequence[int]) -> ConvNet:
    """Convolutions of one kernel without padding, stride or pooling, so that the map shrinks at every layer."""
    layers = tuple(ConvLayer(channels=c, kernel=kernel) for c in channels)
    return ConvNet(image_size=(28, 28), channels=1, classes=10, layers=layers)


def m3() -> ConvNet:
    """Ten layers of 3 x 3."""
    return mnist_cnn(3, range(32, 177, 16))


def m5() -> ConvNet:
    """Five layers of 5 x 5."""
    return mnist_cnn(5, range(32, 161, 32))


def m7() -> ConvNet:
    """Four layers of 7 x 7."""
    return mnist_cnn(7, range(48, 193, 48))


def entries() -> list[Entry]:
    """The three kinds of members."""
    source, doubt = "An et al. 2020 and its code", "no count is printed; this is the code's"
    shapes = {"mnist-m3": (m3(), 1_124_180), "mnist-m5": (m5(), 1_128_180), "mnist-m7": (m7(), 2_291_972)}
    return [Entry(name, "mnist", spec, published, source, doubt) for name, (spec, published) in shapes.items()]
