"""What Corestone and the timm library call the same things in convolutional networks.

The names are data; the code that uses them knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from corestone.core.errors import CheckpointError
from corestone.models.coatnet import build_coatnet
from corestone.models.picture_spec import CoAtNet
from corestone.nn.spec import GridTransformer


@dataclass(frozen=True)
class TensorName:
    """A parameter or a running statistic on both sides; `{stage}` and `{block}` stand for their numbers.

    Attributes:
        layout: "plain" where values stand in the same order (a 1 x 1 convolution may be a linear map on the other
            side); "by_head" where the queries', keys' and values' rows of one head are together, here all queries come
            first.
        kind: of the stage that has it; None: it is in no stage.
        halved: the block halves the map, or does not; None: both.
    """

    ours: str
    theirs: str
    layout: Literal["plain", "by_head"] = "plain"
    kind: Literal["mbconv", "transformer"] | None = None
    halved: bool | None = None


def _both(ours: str, theirs: str) -> tuple[TensorName, ...]:
    """The weight and the bias of a layer."""
    return tuple(TensorName(f"{ours}.{part}", f"{theirs}.{part}") for part in ("weight", "bias"))


def _batch_norm(ours: str, theirs: str) -> tuple[TensorName, ...]:
    statistics = (("mean", "running_mean"), ("variance", "running_var"))
    return (*_both(ours, theirs), *(TensorName(f"{ours}.{a}", f"{theirs}.{b}") for a, b in statistics))


def _blocks(kind: Literal["mbconv", "transformer"], *names: TensorName) -> tuple[TensorName, ...]:
    ours, theirs = "stages.{stage}.{block}.", "stages.{stage}.blocks.{block}."
    return tuple(replace(name, ours=ours + name.ours, theirs=theirs + name.theirs, kind=kind) for name in names)


COATNET = (
    TensorName("stem.0.convolution.weight", "stem.conv1.weight"),
    *_batch_norm("stem.0.norm", "stem.norm1"),
    TensorName("stem.1.convolution.weight", "stem.conv2.weight"),
    *_blocks(
        "mbconv",
        *_batch_norm("norm", "pre_norm"),
        TensorName("expand.weight", "conv1_1x1.weight"),
        *_batch_norm("expand_norm", "norm1"),
        TensorName("depthwise.weight", "conv2_kxk.weight"),
        *_batch_norm("depthwise_norm", "norm2"),
        *_both("squeeze.down", "se.fc1"),
        *_both("squeeze.up", "se.fc2"),
        *_both("project", "conv3_1x1"),
        *_both("shortcut", "shortcut.expand"),
    ),
    *_blocks(
        "transformer",
        *(replace(name, halved=True) for name in _both("mixer_norm", "norm1.norm")),
        *(replace(name, halved=False) for name in _both("mixer_norm", "norm1")),
        *(replace(name, layout="by_head") for name in _both("mixer.qkv", "attn.qkv")),
        TensorName("mixer.position.weight", "attn.rel_pos.relative_position_bias_table"),
        *_both("mixer.out", "attn.proj"),
        *_both("feedforward_norm", "norm2"),
        *_both("feedforward.up", "mlp.fc1"),
        *_both("feedforward.down", "mlp.fc2"),
        *_both("shortcut", "shortcut.expand"),
    ),
    *_both("norm", "head.norm"),
    *_both("head.dense", "head.pre_logits.fc"),
    *_both("head", "head.fc"),
)
"""The library's MaxxVit of blocks "C" and "T", with a hidden layer in the head."""

COUNTERS = ".num_batches_tracked"
"""Ending of tensors of theirs that say nothing a model computes with."""


def coatnet_from_timm(spec: CoAtNet, theirs: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Parameters and running statistics under our names, for `load_state_dict`.

    Raises CheckpointError where a tensor is missing, left over or misshaped.
    """
    rest = {name: tensor for name, tensor in theirs.items() if not name.endswith(COUNTERS)}
    shapes = {name: tensor.shape for name, tensor in build_coatnet(spec, device="meta").state_dict().items()}
    ours: dict[str, Tensor] = {}
    for name, heads in _renamed(spec, shapes):
        if name.theirs not in rest:
            raise CheckpointError(f"{where}: has no tensor '{name.theirs}', which the model of this record needs")
        tensor, shape = rest.pop(name.theirs), shapes[name.ours]
        if _squeezed(tensor.shape) != _squeezed(shape):
            raise CheckpointError(
                f"{where}: tensor '{name.theirs}' has shape {list(tensor.shape)}, the record asks for {list(shape)}"
            )
        tensor = tensor.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2) if heads else tensor
        ours[name.ours] = tensor.reshape(shape).contiguous()
    if rest:
        raise CheckpointError(f"{where}: tensor '{min(rest)}' belongs to no part of the model of this record")
    return ours


def coatnet_to_timm(spec: CoAtNet, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters and running statistics under the library's names and in its shapes; gradients too, by parameter."""
    theirs = {}
    for name, heads in _renamed(spec, ours):
        tensor = ours[name.ours]
        tensor = tensor.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2) if heads else tensor
        pointwise = tensor.ndim == 2 and name.kind is not None and "position" not in name.ours
        theirs[name.theirs] = tensor[:, :, None, None] if pointwise else tensor
    if len(theirs) != len(ours):
        known = {name.ours for name, _ in _renamed(spec, ours)}
        raise CheckpointError(f"tensor '{min(ours.keys() - known)}' has no name in the library; give a CoAtNet's alone")
    return theirs


def _renamed(spec: CoAtNet, present: Mapping[str, object]) -> Iterator[tuple[TensorName, int]]:
    """Every tensor of a model under both names, and the heads where rows are rearranged (else 0)."""
    for name in COATNET:
        if name.kind is None and name.ours in present:
            yield name, 0
        for place, stage in enumerate(spec.stages):
            heads = stage.width // stage.block.head_dim if isinstance(stage.block, GridTransformer) else 0
            for block in range(stage.depth):
                numbered = name.ours.format(stage=place, block=block)
                halved = stage.halve and block == 0
                if stage.block.kind == name.kind and numbered in present and name.halved in (None, halved):
                    theirs = name.theirs.format(stage=place, block=block)
                    yield replace(name, ours=numbered, theirs=theirs), heads if name.layout == "by_head" else 0


def _squeezed(shape: torch.Size) -> tuple[int, ...]:
    """Without the 1 x 1 of a pointwise convolution's kernel."""
    return tuple(shape[:2]) if len(shape) == 4 and shape[2:] == (1, 1) else tuple(shape)
