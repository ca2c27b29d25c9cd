"""The network of convolutions and attention.

Shape letters: B batch, C channels, H height, W width, D width of the last stage, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corestone.core.batch import ImageBatch
from corestone.core.protocols import Output
from corestone.models.picture_spec import CoAtNet, Stage
from corestone.nn import grid_transformer, mbconv
from corestone.nn.convolution import Convolution
from corestone.nn.grid_transformer import GridTransformerBlock
from corestone.nn.head import TanhHead
from corestone.nn.init import started, without_values
from corestone.nn.mbconv import MBConvBlock
from corestone.nn.norm import at_least_float32, build_norm
from corestone.nn.spec import MBConv


class CoAtNetModel(nn.Module):
    """`model(batch)` gives the mean of a picture's last map (B, D), layer-normed; `model.head(hidden)` gives logits
    (B, K), where the record has classes."""

    generates = "nothing"

    def __init__(self, spec: CoAtNet) -> None:
        super().__init__()
        self.spec = spec
        channels = [spec.channels, *(layer.channels for layer in spec.stem)]
        self.stem = nn.Sequential(*(Convolution(layer, c) for layer, c in zip(spec.stem, channels, strict=False)))
        widths, last = [channels[-1], *(stage.width for stage in spec.stages)], sum(s.depth for s in spec.stages) - 1
        self.stages, done = nn.ModuleList(), 0
        for stage, channels_in, size in zip(spec.stages, widths, spec.maps, strict=False):
            rates = [spec.drop_path * block / max(last, 1) for block in range(done, done + stage.depth)]
            self.stages.append(_stage(stage, channels_in, size, rates))
            done += stage.depth
        self.norm = build_norm(grid_transformer.NORM, widths[-1])
        self.head = TanhHead(widths[-1], spec.classes) if spec.classes is not None else None

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
        dtype = next(self.stem.parameters()).dtype
        map_BCHW: Tensor = at_least_float32(self.stem(batch.images_BCHW.to(dtype)))
        for stage in self.stages:
            map_BCHW = stage(map_BCHW)
        hidden_BD: Tensor = self.norm(map_BCHW.mean((2, 3))).to(dtype)
        return Output(hidden=hidden_BD)

    def training_flops(self) -> float:
        """Floating-point operations of forward and backward per picture: 6 per weight and place that it is used at, but
        4 in the first convolution, since pictures need no gradient, and 12 per pair of places and width of attention.
        Norms, activations and pools are not counted."""
        spec, channels, size, total = self.spec, self.spec.channels, self.spec.image_size, 0.0
        for place, layer in enumerate(spec.stem):
            size = layer.outputs(size)
            total += (6 if place else 4) * size[0] * size[1] * layer.kernel**2 * channels * layer.channels
            channels = layer.channels
        for stage, after in zip(spec.stages, spec.maps, strict=True):
            for block in range(stage.depth):
                before = size[0] * size[1] if block == 0 else after[0] * after[1]
                count = _mbconv_flops if isinstance(stage.block, MBConv) else _transformer_flops
                total += count(stage, channels, before, after[0] * after[1])
                channels = stage.width
            size = after
        return total if spec.classes is None else total + 6 * (channels**2 + channels * spec.classes)


def _stage(stage: Stage, channels: int, size: tuple[int, int], rates: list[float]) -> nn.Sequential:
    """The blocks of a stage, of which the first may halve the map and change the width."""
    blocks: list[nn.Module] = []
    for rate in rates:
        halve = stage.halve and not blocks
        if isinstance(stage.block, MBConv):
            blocks.append(MBConvBlock(stage.block, channels, stage.width, halve, rate))
        else:
            blocks.append(GridTransformerBlock(stage.block, channels, stage.width, size, halve, rate))
        channels = stage.width
    return nn.Sequential(*blocks)


def _mbconv_flops(stage: Stage, channels: int, before: int, after: int) -> float:
    """Of a block that makes `after` places of `before`."""
    inner = mbconv.EXPANSION * stage.width
    expanded = before if isinstance(stage.block, MBConv) and stage.block.stride_at == "depthwise" else after
    places = expanded * channels * inner + after * inner * (mbconv.KERNEL**2 + stage.width)
    shortcut = after * channels * stage.width if channels != stage.width else 0
    return 6.0 * (places + 2 * inner * (stage.width // mbconv.SQUEEZE) + shortcut)


def _transformer_flops(stage: Stage, channels: int, before: int, after: int) -> float:
    """Of a block that makes `after` places of `before`, pooled before any product."""
    width = stage.width
    matrices = 3 * channels * width + width**2 + 2 * grid_transformer.EXPANSION * width**2
    shortcut = channels * width if channels != width else 0
    return 6.0 * after * (matrices + shortcut) + 12.0 * after**2 * width


def build_coatnet(spec: CoAtNet, seed: int = 0, device: torch.device | str = "cpu") -> CoAtNetModel:
    """Build a CoAtNet with initial values; on the meta device, without values and in milliseconds."""
    with without_values():
        model = CoAtNetModel(spec)
    return started(model, device, spec.init, 2 * sum(stage.depth for stage in spec.stages), seed)
