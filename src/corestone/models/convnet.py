"""The plain convolutional classifier.

Shape letters: B batch, C channels, H height, W width, D values of a picture, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corestone.core.batch import ImageBatch
from corestone.core.protocols import Output
from corestone.models.flops import convolution_flops
from corestone.models.picture_spec import ConvNet
from corestone.nn.convolution import convolutions
from corestone.nn.gradients import GradientMaps
from corestone.nn.head import NormedHead
from corestone.nn.init import started, without_values


class ConvNetModel(nn.Module):
    """`model(batch)` gives a picture's last map as one vector (B, D), place after place with the channels of each
    together; `model.head(hidden)` gives logits (B, K), where the record has classes."""

    generates = "nothing"

    def __init__(self, spec: ConvNet) -> None:
        super().__init__()
        self.spec = spec
        self.gradients = GradientMaps(spec.gradients) if spec.gradients is not None else nn.Identity()
        self.layers = convolutions(spec.layers, spec.seen_channels)
        self.head = NormedHead(spec.outputs, spec.classes) if spec.classes is not None else None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.spec.image_size

    @property
    def channels(self) -> int:
        """Channels of the pictures."""
        return self.spec.channels

    @property
    def classes(self) -> int:
        """Kinds of pictures that are told apart; 0 without a head."""
        return self.spec.classes or 0

    def forward(self, batch: ImageBatch) -> Output:
        """Hidden values (B, D)."""
        return Output(hidden=self.map(batch.images_BCHW).permute(0, 2, 3, 1).flatten(1))

    def map(self, images_BCHW: Tensor) -> Tensor:
        """The last map (B, C, H, W)."""
        seen_BCHW = self.gradients(images_BCHW).to(next(self.layers.parameters()).dtype)
        made_BCHW: Tensor = self.layers(seen_BCHW)
        return made_BCHW

    def training_flops(self) -> float:
        """Floating-point operations of forward and backward per picture."""
        total = convolution_flops(self.spec.layers, self.spec.seen_channels, self.spec.seen)
        return total if self.head is None else total + 6 * self.head.weight.numel()


def build_convnet(spec: ConvNet, seed: int = 0, device: torch.device | str = "cpu") -> ConvNetModel:
    """Build a convolutional classifier with initial values; on the meta device, without values and in milliseconds."""
    with without_values():
        model = ConvNetModel(spec)
    return started(model, device, spec.init, len(spec.layers), seed)
