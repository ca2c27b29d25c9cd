"""CLIP's residual network.

Shape letters: B batch, C channels, H height, W width, D values of a picture.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from corestone.core.batch import ImageBatch
from corestone.core.errors import SpecError
from corestone.core.protocols import Output
from corestone.models.flops import map_pool_flops
from corestone.models.picture_spec import ModifiedResNet
from corestone.nn.bottleneck import EXPANSION, BottleneckBlock
from corestone.nn.convolution import Convolution
from corestone.nn.norm import at_least_float32
from corestone.nn.pooling import MapPoolLayer
from corestone.nn.spec import ConvLayer


class ModifiedResNetModel(nn.Module):
    """`model(batch)` gives a vector per picture (B, D); the last map (B, D, H, W) is the intermediate value `map`."""

    generates = "nothing"

    def __init__(self, spec: ModifiedResNet) -> None:
        super().__init__()
        self.spec = spec
        channels, layers = spec.channels, []
        for layer in _stem(spec):
            layers.append(Convolution(layer, channels))
            channels = layer.channels
        self.stem, self.stages = nn.Sequential(*layers), nn.ModuleList()
        for stage, depth in enumerate(spec.depths):
            blocks, width = [], spec.width * 2**stage
            for block in range(depth):
                blocks.append(BottleneckBlock(channels, width, halve=stage > 0 and block == 0))
                channels = EXPANSION * width
            self.stages.append(nn.Sequential(*blocks))
        self.pool = MapPoolLayer((spec.image_size[0] // 32) * (spec.image_size[1] // 32), channels, spec.head_dim)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.spec.image_size

    @property
    def channels(self) -> int:
        """Channels of the pictures."""
        return self.spec.channels

    def forward(self, batch: ImageBatch) -> Output:
        """The vectors of a batch of pictures."""
        wanted, found = (self.channels, *self.image_size), tuple(batch.pixels_BCHW.shape[1:])
        if found != wanted:
            raise SpecError(
                f"pictures of {'x'.join(map(str, found))} reach a model for {'x'.join(map(str, wanted))} (channels, "
                "height, width): set the model's image_size and channels, or those of the data, so that they agree"
            )
        map_BCHW: Tensor = self.stem(batch.images_BCHW.to(self.pool.q.weight.dtype))
        map_BCHW = at_least_float32(F.avg_pool2d(map_BCHW, 2))
        for stage in self.stages:
            map_BCHW = stage(map_BCHW)
        return Output(hidden=self.pool(map_BCHW), intermediates={"map": map_BCHW})

    def training_flops(self) -> float:
        """Floating-point operations of forward and backward per picture: 6 per weight and place that it is used at, but
        4 in the first convolution, since pictures need no gradient, and those of attention. Norms, activations and
        means are not counted."""
        spec, channels, size, total = self.spec, self.spec.channels, self.spec.image_size, 0.0
        for place, layer in enumerate(_stem(spec)):
            size = layer.outputs(size)
            total += (6 if place else 4) * size[0] * size[1] * layer.kernel**2 * channels * layer.channels
            channels = layer.channels
        places = size[0] * size[1] // 4
        for stage, depth in enumerate(spec.depths):
            width = spec.width * 2**stage
            for block in range(depth):
                after = places // 4 if stage > 0 and block == 0 else places
                products = places * (channels * width + 9 * width**2) + after * EXPANSION * width**2
                shortcut = after * EXPANSION * width * channels if block == 0 else 0
                total += 6.0 * (products + shortcut)
                channels, places = EXPANSION * width, after
        return total + map_pool_flops(channels, places)


def _stem(spec: ModifiedResNet) -> tuple[ConvLayer, ...]:
    """Three convolutions, of which the first halves the picture."""
    half = ConvLayer(channels=spec.width // 2, kernel=3, padding=1)
    return half.model_copy(update={"stride": 2}), half, ConvLayer(channels=spec.width, kernel=3, padding=1)
