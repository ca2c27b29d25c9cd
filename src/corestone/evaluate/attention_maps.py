"""Where in a picture a model looks: the attention behind its vector, as maps over the picture.

Shape letters: B pictures, N heads, T tokens or queries, S tokens that are looked at, H and W places from top to bottom
and from left to right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from corestone.core.batch import ImageBatch
from corestone.models.captioner import CaptionerModel
from corestone.models.coatnet import CoAtNetModel
from corestone.models.image_encoder import ImageEncoderModel
from corestone.models.resnet import ModifiedResNetModel
from corestone.models.two_tower import TwoTowerModel
from corestone.nn.grid_transformer import GridTransformerBlock
from corestone.nn.pooling import AttentionPoolLayer, ClassTokenPoolLayer
from corestone.nn.stack import StackLayer


@dataclass(frozen=True)
class AttentionMaps:
    """Where a model looks in each of B pictures.

    Attributes:
        looks: what looks, in words.
        layers: how many layers of attention `rollout_BHW` follows.
        last_BHW: the share of its attention at each place in the last step before the vector, mean over heads. What
            it gives to tokens that are no places is missing from a sum of one.
        rollout_BHW: the same followed down through the layers (`rollout`); None where there are none below.
        seen: height and width in pixels, from the top left, that the maps lie over.
    """

    looks: str
    layers: int
    last_BHW: Tensor
    rollout_BHW: Tensor | None
    seen: tuple[int, int]


def attention_maps(model: Any, batch: ImageBatch) -> AttentionMaps | None:
    """The maps of a model in evaluation mode; None of one that attends to no places (convolutions alone)."""
    tower = model.image_tower if isinstance(model, TwoTowerModel) else model
    if isinstance(tower, ImageEncoderModel):
        return _of_encoder(tower, batch)
    if isinstance(tower, CaptionerModel):
        return _of_captioner(tower, batch)
    if isinstance(tower, CoAtNetModel):
        return _of_coatnet(tower, batch)
    if isinstance(tower, ModifiedResNetModel):
        (found_BTS,) = mean_weights([tower.pool], lambda: tower(batch))
        grid = (tower.image_size[0] // 32, tower.image_size[1] // 32)
        looks = "the query of the last map's attention"
        return AttentionMaps(looks, 1, found_BTS[:, 0, 1:].unflatten(-1, grid), None, tower.image_size)
    return None


def _of_encoder(model: ImageEncoderModel, batch: ImageBatch) -> AttentionMaps:
    layers, pool, embedding = _mixers(model.stack), model.pool, model.spec.embedding
    if isinstance(pool, AttentionPoolLayer):
        *within, found_BTS = mean_weights([*layers, pool.attention], lambda: model(batch))
        last_BT = nn.functional.pad(found_BTS[:, 0], (model.before, 0))
        spread_BT, looks = last_BT, "the pool's query"
    else:
        within = mean_weights(layers, lambda: model(batch))
        who_BT = torch.zeros_like(within[-1][:, 0])
        if isinstance(pool, ClassTokenPoolLayer):
            who_BT[:, 0], looks = 1.0, "the class token"
        else:
            who_BT[:, model.before :], looks = 1 / embedding.patches, "the mean of all patches"
        last_BT, spread_BT = through(who_BT, within[-1]), who_BT
    rolled_BT = through(spread_BT, rollout(within))
    seen = (embedding.grid[0] * embedding.patch_size, embedding.grid[1] * embedding.patch_size)
    last_BHW, rollout_BHW = (x[:, model.before :].unflatten(-1, embedding.grid) for x in (last_BT, rolled_BT))
    return AttentionMaps(looks, len(layers), last_BHW, rollout_BHW, seen)


def _of_captioner(model: CaptionerModel, batch: ImageBatch) -> AttentionMaps:
    """The one query of the contrastive pool looks at what the captions' pool found, and that at the patches."""
    layers, embedding, before = _mixers(model.image_stack), model.spec.cut, model.caption_pool.before
    pools = [model.caption_pool.attention, model.contrast_pool.attention]
    *within, found_BQS, chosen_B1Q = mean_weights([*layers, *pools], lambda: model.image(batch))
    last_BT = nn.functional.pad(through(chosen_B1Q[:, 0], found_BQS), (before, 0))
    whole = (embedding.grid[0] * embedding.patch_size, embedding.grid[1] * embedding.patch_size)
    seen = whole if model.stem is None else model.image_size  # a place of a map sees beyond its own square
    both = (last_BT, through(last_BT, rollout(within)))
    last_BHW, rollout_BHW = (x[:, before:].unflatten(-1, embedding.grid) for x in both)
    return AttentionMaps("the picture's query, by way of the captions'", len(layers), last_BHW, rollout_BHW, seen)


def _of_coatnet(model: CoAtNetModel, batch: ImageBatch) -> AttentionMaps | None:
    """Where the last stage is one of attention: its blocks all see maps of one size."""
    blocks = [block for block in model.stages[-1].children() if isinstance(block, GridTransformerBlock)]
    if not blocks:
        return None
    within, grid = mean_weights([block.mixer for block in blocks], lambda: model(batch)), model.spec.maps[-1]
    who_BT = torch.full_like(within[-1][:, 0], 1 / (grid[0] * grid[1]))
    both = (through(who_BT, within[-1]), through(who_BT, rollout(within)))
    last_BHW, rollout_BHW = (x.unflatten(-1, grid) for x in both)
    return AttentionMaps("the mean of the last map", len(blocks), last_BHW, rollout_BHW, model.image_size)


def _mixers(stack: StackLayer) -> list[nn.Module]:
    return [block.get_submodule("mixer") for block in stack.blocks]


@torch.inference_mode()
def mean_weights(layers: Sequence[nn.Module], run: Callable[[], Any]) -> list[Tensor]:
    """What each layer looks at (B, T, S) while `run` runs: float32, the mean over its heads. A layer's `weights` make
    it of what comes into the layer, beside its own computation, which stays as it is."""
    found: dict[int, Tensor] = {}

    def keep(layer: Any, inputs: tuple[Any, ...]) -> None:
        found[id(layer)] = layer.weights(*inputs[:2]).float().mean(dim=1)

    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return [found[id(layer)] for layer in layers]


def through(who_BT: Tensor, weights_BTS: Tensor) -> Tensor:
    """Where those look (B, S) who have these shares of T queries."""
    return (who_BT[:, None] @ weights_BTS)[:, 0]


def rollout(weights: Iterable[Tensor]) -> Tensor:
    """How much of each token at the bottom reaches each one at the top, (B, T, T): the product of the layers' weights
    (B, T, T), each averaged with the identity for the residual stream (Abnar and Zuidema 2020, section 3, attention
    rollout). Rows sum to one."""
    first, *others = ((x + torch.eye(x.shape[-1], device=x.device)) / 2 for x in weights)
    for one in others:
        first = one @ first
    return first
