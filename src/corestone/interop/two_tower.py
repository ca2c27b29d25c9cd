"""Models of pictures and texts in other libraries that a TwoTower can express: the names of their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from corestone.interop.family import Name, Named, Tensors
from corestone.interop.weights import to_ours, to_theirs
from corestone.models.picture_spec import ModifiedResNet, TwoTower


@dataclass(frozen=True)
class NamedTowers(Named):
    """A class of models of pictures and texts in another library.

    Attributes:
        packed: beginnings of names of tensors that hold queries', keys' and values' rows one above the other where we
            have two parameters; `names` calls the parts by that beginning and `q.`, `k.` or `v.`.
    """

    packed: tuple[str, ...] = ()


def two_tower_from(family: NamedTowers, spec: TwoTower, theirs: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Parameters and running statistics under our names; errors are those of `interop.weights.to_ours`."""
    parts = dict(theirs)
    for name, tensor in theirs.items():
        for start in family.packed:
            if name.startswith(start):
                del parts[name]
                kind = name.removeprefix(start)
                parts |= {f"{start}{part}.{kind}": rows for part, rows in zip("qkv", tensor.chunk(3), strict=True)}
    return to_ours(family, spec, parts, where)


def two_tower_to(family: NamedTowers, spec: TwoTower, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters and running statistics under the library's names."""
    theirs = to_theirs(family, spec, ours, spec.text.embedding.vocab_size)
    for start in family.packed:
        for kind in ("weight", "bias"):
            parts = [f"{start}{part}.{kind}" for part in "qkv"]
            if parts[0] in theirs:
                theirs[start + kind] = torch.cat([theirs.pop(part) for part in parts])
    return theirs


def _both(ours: str, *theirs: str) -> tuple[Name, ...]:
    """The weight and the bias of a layer."""
    return tuple(Name(f"{ours}.{kind}", tuple(f"{part}.{kind}" for part in theirs)) for kind in ("weight", "bias"))


def _normed(ours: str, convolution: str, norm: str) -> tuple[Name, ...]:
    """A convolution and the batch norm behind it."""
    kinds = {"weight": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}
    statistics = (Name(f"{ours}.norm.{mine}", f"{norm}.{other}") for mine, other in kinds.items())
    return Name(f"{ours}.convolution.weight", f"{convolution}.weight"), *statistics


def _open_clip_stack(ours: str, theirs: str) -> tuple[Name, ...]:
    ours, theirs = ours + ".stack.blocks.{layer}.", theirs + ".resblocks.{layer}."
    return (
        *_both(ours + "mixer_norm", theirs + "ln_1"),
        Name(ours + "mixer.qkv.weight", theirs + "attn.in_proj_weight"),
        Name(ours + "mixer.qkv.bias", theirs + "attn.in_proj_bias"),
        *_both(ours + "mixer.out", theirs + "attn.out_proj"),
        *_both(ours + "feedforward_norm", theirs + "ln_2"),
        *_both(ours + "feedforward.up", theirs + "mlp.c_fc"),
        *_both(ours + "feedforward.down", theirs + "mlp.c_proj"),
    )


def _huggingface_stack(ours: str, theirs: str) -> tuple[Name, ...]:
    ours, theirs = ours + ".stack.blocks.{layer}.", theirs + ".encoder.layers.{layer}."
    return (
        *_both(ours + "mixer_norm", theirs + "layer_norm1"),
        *_both(ours + "mixer.qkv", *(f"{theirs}self_attn.{part}_proj" for part in "qkv")),
        *_both(ours + "mixer.out", theirs + "self_attn.out_proj"),
        *_both(ours + "feedforward_norm", theirs + "layer_norm2"),
        *_both(ours + "feedforward.up", theirs + "mlp.fc1"),
        *_both(ours + "feedforward.down", theirs + "mlp.fc2"),
    )


_PLAIN = (Name("text_projection.weight", "text_projection", layout="transposed"),)
_BIASED = _both("text_projection", "text_projection")
"""A text's projection, a matrix or a linear map with a bias."""

_OPEN_CLIP_TEXT = (
    Name("text_tower.embedding.token.weight", "token_embedding.weight"),
    Name("text_tower.embedding.position.weight", "positional_embedding"),
    *_open_clip_stack("text_tower", "transformer"),
    *_both("text_tower.stack.final_norm", "ln_final"),
    Name("similarity.log_scale", "logit_scale"),
    Name("similarity.bias", "logit_bias"),
)

OPEN_CLIP = NamedTowers(
    architecture="CLIP",
    tensors=Tensors(
        prefixes=("",),
        names=(
            *_OPEN_CLIP_TEXT,
            *_PLAIN,
            Name("image_tower.embedding.patch.weight", "visual.conv1.weight", layout="kernel"),
            Name("image_tower.embedding.class_token.weight", "visual.class_embedding", layout="single"),
            Name("image_tower.embedding.position.weight", "visual.positional_embedding"),
            *_both("image_tower.embedding.norm", "visual.ln_pre"),
            *_open_clip_stack("image_tower", "visual.transformer"),
            *_both("image_tower.stack.final_norm", "visual.ln_post"),
            Name("image_projection.weight", "visual.proj", layout="transposed"),
        ),
    ),
)
"""Of open_clip, and of the authors' code, with a Vision Transformer."""

_STEM = tuple(
    name
    for number in range(3)
    for name in _normed(f"image_tower.stem.{number}", f"visual.conv{number + 1}", f"visual.bn{number + 1}")
)

_STAGES = tuple(
    name
    for stage in range(4)
    for ours, convolution, norm in (
        ("first", "conv1", "bn1"),
        ("second", "conv2", "bn2"),
        ("third", "conv3", "bn3"),
        ("shortcut", "downsample.0", "downsample.1"),
    )
    for name in _normed(
        f"image_tower.stages.{stage}.{{layer}}.{ours}",
        f"visual.layer{stage + 1}.{{layer}}.{convolution}",
        f"visual.layer{stage + 1}.{{layer}}.{norm}",
    )
)

OPEN_CLIP_RESNET = NamedTowers(
    architecture="CLIP",
    tensors=Tensors(
        prefixes=("",),
        names=(
            *_OPEN_CLIP_TEXT,
            *_PLAIN,
            *_STEM,
            *_STAGES,
            Name("image_tower.pool.position.weight", "visual.attnpool.positional_embedding"),
            *_both("image_tower.pool.q", "visual.attnpool.q_proj"),
            *_both("image_tower.pool.kv", "visual.attnpool.k_proj", "visual.attnpool.v_proj"),
            *_both("image_projection", "visual.attnpool.c_proj"),
        ),
        buffers=tuple(
            name.parts[0].replace("running_var", "num_batches_tracked")
            for name in (*_STEM, *_STAGES)
            if name.parts[0].endswith("running_var")
        ),
    ),
)
"""Of open_clip, and of the authors' code, with a residual network."""


def open_clip_names(spec: TwoTower) -> NamedTowers:
    """Those of open_clip's CLIP for a model like this one."""
    family = OPEN_CLIP_RESNET if isinstance(spec.image, ModifiedResNet) else OPEN_CLIP
    if spec.text_projection is None or not spec.text_projection.bias:
        return family
    names = tuple(name for name in family.tensors.names if name not in _PLAIN)
    return replace(family, tensors=replace(family.tensors, names=(*names, *_BIASED)))


_HUGGINGFACE_TEXT = (
    Name("text_tower.embedding.token.weight", "text_model.embeddings.token_embedding.weight"),
    Name("text_tower.embedding.position.weight", "text_model.embeddings.position_embedding.weight"),
    *_huggingface_stack("text_tower", "text_model"),
    *_both("text_tower.stack.final_norm", "text_model.final_layer_norm"),
)

_HUGGINGFACE_IMAGE = (
    Name("image_tower.embedding.patch.weight", "vision_model.embeddings.patch_embedding.weight", layout="kernel"),
    Name("image_tower.embedding.position.weight", "vision_model.embeddings.position_embedding.weight"),
    *_huggingface_stack("image_tower", "vision_model"),
    *_both("image_tower.stack.final_norm", "vision_model.post_layernorm"),
)

HUGGINGFACE_CLIP = NamedTowers(
    architecture="CLIPModel",
    tensors=Tensors(
        prefixes=("",),
        names=(
            *_HUGGINGFACE_TEXT,
            *_HUGGINGFACE_IMAGE,
            Name("image_tower.embedding.class_token.weight", "vision_model.embeddings.class_embedding", "single"),
            *_both("image_tower.embedding.norm", "vision_model.pre_layrnorm"),
            Name("image_projection.weight", "visual_projection.weight"),
            Name("text_projection.weight", "text_projection.weight"),
            Name("similarity.log_scale", "logit_scale"),
        ),
        buffers=("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"),
    ),
)
"""Of `transformers`."""

_PROBED = "vision_model.head.attention.in_proj_"

HUGGINGFACE_SIGLIP = NamedTowers(
    architecture="SiglipModel",
    tensors=Tensors(
        prefixes=("",),
        names=(
            *_HUGGINGFACE_TEXT,
            *_HUGGINGFACE_IMAGE,
            Name("image_tower.embedding.patch.bias", "vision_model.embeddings.patch_embedding.bias"),
            Name("image_tower.pool.probe.weight", "vision_model.head.probe", layout="batched"),
            *_both("image_tower.pool.attention.q", _PROBED + "q"),
            *_both("image_tower.pool.attention.kv", _PROBED + "k", _PROBED + "v"),
            *_both("image_tower.pool.attention.out", "vision_model.head.attention.out_proj"),
            *_both("image_tower.pool.norm", "vision_model.head.layernorm"),
            *_both("image_tower.pool.feedforward.up", "vision_model.head.mlp.fc1"),
            *_both("image_tower.pool.feedforward.down", "vision_model.head.mlp.fc2"),
            *_both("text_projection", "text_model.head"),
            Name("similarity.log_scale", "logit_scale", layout="batched"),
            Name("similarity.bias", "logit_bias", layout="batched"),
        ),
    ),
    packed=(_PROBED,),
)
"""Of `transformers`."""
