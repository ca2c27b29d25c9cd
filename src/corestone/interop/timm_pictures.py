"""timm's VisionTransformer and MaxxVit (as CoAtNet): config.json as in its folders, and what it means here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from corestone.core.errors import CheckpointError
from corestone.core.spec import parse
from corestone.data.images.augment_spec import Augmentation, Resize
from corestone.interop.convolutional import coatnet_from_timm, coatnet_to_timm
from corestone.interop.family import Tree
from corestone.interop.pictured import (
    CONFIG,
    INTERPOLATIONS,
    Format,
    Pictured,
    Pixels,
    Told,
    augmentation_of,
    crops,
    grey_note,
    heads_fit,
    names_of,
    of_evaluation,
    one_of,
    pair_of,
    refuse_order,
    refuse_others,
    resize_of,
    share_of,
    size_of,
    stack_of,
)
from corestone.interop.vision import TIMM
from corestone.interop.weights import to_ours, to_theirs
from corestone.models.picture_spec import CoAtNet, ImageEncoder
from corestone.zoo.coatnet import stem

EPS = 1e-6
"""Of the library's layer norms, which config.json has no word for."""

_ACTIVATIONS = {"gelu": ("gelu",), "gelu_tanh": ("gelu_tanh",), "relu": ("relu",), "silu": ("silu", "swish")}
_POOLS = {"class_token": ("token",), "mean": ("avg",), "attention": ("map",)}
_STRIDES = {"depthwise": ("dw",), "expand": ("1x1",)}


def _vit(width: int, depth: int, num_heads: int, patch_size: int, mlp_ratio: float = 4.0) -> Tree:
    sizes = {"patch_size": patch_size, "embed_dim": width, "depth": depth, "num_heads": num_heads}
    return {**sizes, "mlp_ratio": mlp_ratio}


def _coatnet(stem_width: int, depths: list[int], widths: list[int]) -> Tree:
    return {"stem_width": stem_width, "depths": depths, "embed_dim": widths, "head_hidden_size": widths[-1]}


VITS: Mapping[str, Tree] = {
    "vit_base_patch16_224": _vit(768, 12, 12, 16),
    "vit_base_patch32_224": _vit(768, 12, 12, 32),
    "vit_tiny_patch16_224": _vit(192, 12, 3, 16),
    "vit_small_patch16_224": _vit(384, 12, 6, 16),
    "vit_small_patch32_224": _vit(384, 12, 6, 32),
    "vit_large_patch16_224": _vit(1024, 24, 16, 16),
    "vit_large_patch32_224": _vit(1024, 24, 16, 32),
    "vit_huge_patch14_224": _vit(1280, 32, 16, 14),
    "vit_giant_patch14_224": _vit(1408, 40, 16, 14, 48 / 11),
    "vit_gigantic_patch14_224": _vit(1664, 48, 16, 14, 64 / 13),
}
COATNETS: Mapping[str, Tree] = {
    "coatnet_0_224": _coatnet(64, [2, 3, 5, 2], [96, 192, 384, 768]),
    "coatnet_1_224": _coatnet(64, [2, 6, 14, 2], [96, 192, 384, 768]),
    "coatnet_2_224": _coatnet(128, [2, 6, 14, 2], [128, 256, 512, 1024]),
    "coatnet_3_224": _coatnet(192, [2, 6, 14, 2], [192, 384, 768, 1536]),
    "coatnet_4_224": _coatnet(192, [2, 12, 28, 2], [192, 384, 768, 1536]),
    "coatnet_5_224": _coatnet(192, [2, 12, 28, 2], [256, 512, 1280, 2048]),
}
"""Entry points of the library and the sizes that they stand for. A folder of other sizes names the first and tells all
its sizes in `model_args`."""

_VIT_ONLY: Mapping[str, tuple[Any, ...]] = {
    "qk_norm": (False,), "scale_attn_norm": (False,), "scale_mlp_norm": (False,), "init_values": (None,),
    "no_embed_class": (False,), "reg_tokens": (0,), "pre_norm": (False,), "pool_include_prefix": (False,),
    "dynamic_img_size": (False,), "dynamic_img_pad": (False,), "norm_layer": (None,), "embed_norm_layer": (None,),
    "qkv_bias": (True, False), "proj_bias": (True, False), "class_token": (True, False), "final_norm": (True, False),
    "pos_embed": ("learn", "none", ""),
}  # fmt: skip
_VIT_READ = (
    "img_size", "patch_size", "in_chans", "num_classes", "global_pool", "embed_dim", "depth", "num_heads", "mlp_ratio",
    "fc_norm", "act_layer", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate",
)  # fmt: skip
_COATNET_ONLY: Mapping[str, tuple[Any, ...]] = {
    "block_type": (["C", "C", "T", "T"],), "stem_bias": (False,), "conv_pool_type": ("max2",),
    "transformer_pool_type": ("max2",), "global_pool": ("avg",),
}  # fmt: skip
_COATNET_READ = (
    "img_size", "in_chans", "num_classes", "stem_width", "depths", "embed_dim", "head_hidden_size", "conv_stride_mode",
    "transformer_dim_head", "drop_path_rate",
)  # fmt: skip
_TRAINING = ("drop_rate", "patch_drop_rate", "drop_path_rate", "weight_init", "fix_init")
"""Arguments that matter in training alone."""


def _vit_files(spec: ImageEncoder, classes: Sequence[str], seen: Augmentation) -> dict[str, Tree]:
    block, mixer, embedding = spec.stack.blocks[0], spec.stack.attention[0], spec.embedding
    sizes = {
        "patch_size": embedding.patch_size,
        "embed_dim": spec.stack.width,
        "depth": len(spec.stack.blocks),
        "num_heads": mixer.num_heads,
        "mlp_ratio": _ratio(spec.stack.width, block.feedforward.hidden_dim),
    }
    pool = _POOLS[spec.pool.kind][0]
    args = {
        **sizes,
        "img_size": list(embedding.image_size),
        "global_pool": pool,
        "fc_norm": False,
        "class_token": embedding.class_token,
        "pos_embed": "none" if embedding.position is None else "learn",
        "final_norm": spec.stack.final_norm is not None,
        "qkv_bias": mixer.bias_in,
        "proj_bias": mixer.bias_out,
        "act_layer": _ACTIVATIONS.get(block.feedforward.activation, ("gelu",))[0],
        "pos_drop_rate": embedding.dropout,
        "proj_drop_rate": block.dropout,
        "attn_drop_rate": mixer.dropout,
    }
    place = {"first_conv": "patch_embed.proj", "classifier": "head"}
    return {CONFIG: _config(_entry(VITS, args), args, classes, seen, place)}


def _ratio(width: int, hidden_dim: int) -> float:
    """A factor that gives the hidden width when it is cut to a whole number."""
    ratio = hidden_dim / width
    return ratio if int(width * ratio) == hidden_dim else (hidden_dim + 0.5) / width


def _coatnet_files(spec: CoAtNet, classes: Sequence[str], seen: Augmentation) -> dict[str, Tree]:
    mbconv = next((stage.block for stage in spec.stages if stage.block.kind == "mbconv"), None)
    attention = next((stage.block for stage in spec.stages if stage.block.kind == "transformer"), None)
    widths = [stage.width for stage in spec.stages]
    args = {
        "stem_width": spec.stem[0].channels,
        "depths": [stage.depth for stage in spec.stages],
        "embed_dim": widths,
        "head_hidden_size": widths[-1],
        "block_type": ["C" if stage.block.kind == "mbconv" else "T" for stage in spec.stages],
        "conv_stride_mode": _STRIDES["depthwise" if mbconv is None else mbconv.stride_at][0],
        "conv_pool_type": "max2",
        "transformer_pool_type": "max2",
        "transformer_dim_head": 32 if attention is None else attention.head_dim,
        "drop_path_rate": spec.drop_path,
    }
    place = {"first_conv": "stem.conv1", "classifier": "head.fc"}
    return {CONFIG: _config(_entry(COATNETS, args), args, classes, seen, place)}


def _entry(entries: Mapping[str, Tree], args: Tree) -> str:
    """The entry point of these sizes, or the first."""
    same = (name for name, sizes in entries.items() if sizes.items() <= args.items())
    return next(same, next(iter(entries)))


def _config(architecture: str, args: Tree, classes: Sequence[str], seen: Augmentation, place: Tree) -> Tree:
    resize = resize_of(seen)
    centred = resize is not None and resize.shorter is not None
    return {
        "architecture": architecture,
        "num_classes": len(classes),
        "label_names": list(classes),
        "model_args": args,
        "pretrained_cfg": {
            "input_size": [seen.channels, *seen.size],
            "fixed_input_size": True,
            "interpolation": "bilinear" if resize is None else resize.interpolation,
            "crop_mode": "center" if centred else "squash",
            "crop_pct": _share(seen.size[0], resize.shorter or 0) if centred and resize is not None else 1.0,
            "mean": list(seen.mean),
            "std": list(seen.std),
            "num_classes": len(classes),
            **place,
        },
    }


def _share(size: int, shorter: int) -> float:
    """The `crop_pct` of which the library makes this length of the shorter side: it cuts size / crop_pct to a whole
    number."""
    share = size / shorter
    return share if math.floor(size / share) == shorter else size / (shorter + 0.5)


def _read_vit(files: Mapping[str, Tree], folder: Path) -> Told:
    return _read(files[CONFIG], f"{folder / CONFIG}", VITS, (*_VIT_READ, *_VIT_ONLY), _vit_spec)


def _read_coatnet(files: Mapping[str, Tree], folder: Path) -> Told:
    return _read(files[CONFIG], f"{folder / CONFIG}", COATNETS, (*_COATNET_READ, *_COATNET_ONLY), _coatnet_spec)


def _read(
    config: Tree,
    where: str,
    entries: Mapping[str, Tree],
    known: Sequence[str],
    make: Callable[[Tree, str], Pictured],
) -> Told:
    given, args = config.get("pretrained_cfg"), config.get("model_args", {})
    if not isinstance(given, dict) or not isinstance(args, dict):
        raise CheckpointError(f"{where}: 'pretrained_cfg' (and 'model_args', where there is one) must be JSON objects")
    told = entries[config["architecture"]] | {k: given[k] for k in ("num_classes", "global_pool") if k in given}
    shape = given.get("input_size", [3, 224, 224])
    if not isinstance(shape, list) or len(shape) != 3:
        raise CheckpointError(f"{where}: 'input_size' must be [channels, height, width] (got {shape!r})")
    told |= {"in_chans": shape[0], "img_size": shape[1:]}
    told |= {"num_classes": config["num_classes"]} if "num_classes" in config else {}
    told |= args
    unknown = [key for key in told if key not in known and key not in _TRAINING]
    if unknown:
        raise CheckpointError(f"{where}: model_args.{unknown[0]}={told[unknown[0]]!r} cannot be expressed here")
    unkept = [key for key in told if key in _TRAINING and key not in known and told[key]]
    notes = [f"{CONFIG}: {key}={told[key]!r} is not kept; it matters only in training" for key in unkept]
    spec = make(told, where)
    names = config.get("label_names", given.get("label_names"))
    count = size_of(told, "num_classes", where)
    classes = names_of(names, "label_names", where) if names is not None else tuple(map(str, range(count)))
    if len(classes) != count:
        raise CheckpointError(f"{where}: label_names holds {len(classes)} names and num_classes={count}")
    size, channels = pair_of(told, "img_size", where), size_of(told, "in_chans", where)
    return Told(spec, classes, _augmentation(given, size, channels, where), notes)


def _vit_spec(told: Tree, where: str) -> ImageEncoder:
    refuse_others(told, _VIT_ONLY, where)
    width, heads = size_of(told, "embed_dim", where), size_of(told, "num_heads", where)
    heads_fit(width, heads, ("embed_dim", "num_heads"), where)
    pool = one_of(told.get("global_pool", "token"), "global_pool", _POOLS, where)
    if told.get("fc_norm", None) not in ((False,) if pool == "mean" else (False, None)):
        raise CheckpointError(
            f"{where}: fc_norm={told.get('fc_norm')!r} cannot be expressed here (only fc_norm=False can)"
        )
    norm, proj_bias, dropout = {"eps": EPS}, told.get("proj_bias", True), share_of(told, "proj_drop_rate", where)
    feedforward = {
        "hidden_dim": int(width * share_of(told, "mlp_ratio", where, 4.0)),
        "activation": one_of(told.get("act_layer") or "gelu", "act_layer", _ACTIVATIONS, where),
    }
    kept = {"bias_in": told.get("qkv_bias", True), "bias_out": proj_bias}
    stack = stack_of(
        width,
        heads,
        size_of(told, "depth", where),
        norm,
        {**feedforward, "bias": proj_bias, "dropout": dropout},
        {**kept, "dropout": share_of(told, "attn_drop_rate", where)},
        dropout,
    )
    if not told.get("final_norm", True):
        stack["final_norm"] = None
    looking = {"kind": "attention", "num_heads": heads, "head_dim": width // heads}
    looks = {"attention": looking, "norm": norm, "feedforward": feedforward} if pool == "attention" else {}
    tree = {
        "embedding": {
            "image_size": pair_of(told, "img_size", where),
            "channels": size_of(told, "in_chans", where),
            "patch_size": size_of(told, "patch_size", where),
            "class_token": told.get("class_token", True),
            "position": {} if told.get("pos_embed", "learn") == "learn" else None,
            "dropout": share_of(told, "pos_drop_rate", where),
        },
        "stack": stack,
        "pool": {"kind": pool, **looks},
        "head": {"classes": size_of(told, "num_classes", where)},
    }
    return parse(ImageEncoder, tree, where)


def _coatnet_spec(told: Tree, where: str) -> CoAtNet:
    # Where a folder is silent, the library pools by means.
    told = {"conv_pool_type": "avg2", "transformer_pool_type": "avg2", **told}
    refuse_others(told, _COATNET_ONLY, where)
    widths, depths = told["embed_dim"], told["depths"]
    if not all(isinstance(sizes, list) and len(sizes) == 4 for sizes in (widths, depths)):
        raise CheckpointError(
            f"{where}: 'embed_dim' and 'depths' must be lists of four (got {widths!r} and {depths!r})"
        )
    if told["head_hidden_size"] != widths[-1]:
        raise CheckpointError(
            f"{where}: head_hidden_size={told['head_hidden_size']!r} cannot be expressed here (only that of the last "
            f"stage, {widths[-1]}, can)"
        )
    stride = one_of(told.get("conv_stride_mode", "dw"), "conv_stride_mode", _STRIDES, where)
    attention = {"kind": "transformer", "head_dim": size_of(told, "transformer_dim_head", where, 32)}
    blocks = [{"kind": "mbconv", "stride_at": stride}] * 2 + [attention] * 2
    tree = {
        "image_size": pair_of(told, "img_size", where),
        "channels": size_of(told, "in_chans", where),
        "classes": size_of(told, "num_classes", where),
        "stem": stem(size_of(told, "stem_width", where)),
        "stages": [{"depth": d, "width": w, "block": b} for d, w, b in zip(depths, widths, blocks, strict=True)],
        "drop_path": share_of(told, "drop_path_rate", where),
    }
    return parse(CoAtNet, tree, where)


def _augmentation(given: Tree, size: tuple[int, int], channels: int, where: str) -> Augmentation:
    mode, share = given.get("crop_mode") or "center", share_of(given, "crop_pct", where, 0.875)
    resampling = given.get("interpolation", "bicubic")
    if resampling not in INTERPOLATIONS:
        raise CheckpointError(
            f"{where}: interpolation={resampling!r} cannot be expressed here, only {' and '.join(INTERPOLATIONS)} can; "
            "set it to one of them there to resize so, which changes what the model sees a little"
        )
    if mode not in ("center", "squash") or not share > 0 or (mode == "squash" and share != 1):
        raise CheckpointError(
            f"{where}: crop_mode={mode!r} with crop_pct={share:g} cannot be expressed here (only center, or squash "
            "with crop_pct=1, can)"
        )
    steps: list[Tree] = [{"kind": "resize", "interpolation": resampling}]
    if mode == "center":
        if size[0] != size[1]:
            raise CheckpointError(
                f"{where}: crop_mode='center' cannot be expressed here for {size[0]}x{size[1]} pixels"
            )
        steps = [{**steps[0], "shorter": math.floor(size[0] / share)}, {"kind": "center_crop"}]
    mean, std = given.get("mean", [0.485, 0.456, 0.406]), given.get("std", [0.229, 0.224, 0.225])
    return augmentation_of(size, channels, {"evaluation": steps, "mean": mean, "std": std}, where)


def _pixels(files: Mapping[str, Tree], pixels: Pixels) -> Tensor:
    """As documented of the library's transform for evaluation: Pillow resizes, by the shorter side or to the whole
    size, the middle is cut out, and values by 255, less the mean, are divided by the deviation."""
    told = files[CONFIG]["pretrained_cfg"]
    channels, height, width = told["input_size"]
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert(
        "L" if channels == 1 else "RGB"
    )
    new = [math.floor(side / told["crop_pct"]) for side in (height, width)]
    if told["crop_mode"] == "center":
        shorter, sides = new[0], (picture.height, picture.width)
        longer = int(shorter * max(sides) / min(sides))
        new = [shorter, longer] if picture.height <= picture.width else [longer, shorter]
    picture = picture.resize((new[1], new[0]), Image.Resampling[told["interpolation"].upper()])
    top, left = round((new[0] - height) / 2), round((new[1] - width) / 2)
    cut = np.asarray(picture).reshape(*new, channels)[top : top + height, left : left + width]
    mean, std = (torch.tensor(told[key], dtype=torch.float64)[:, None, None] for key in ("mean", "std"))
    scaled: Tensor = (torch.from_numpy(cut.copy()).permute(2, 0, 1).double() / 255 - mean) / std
    return scaled


def _lost(seen: Augmentation, where: str) -> list[str]:
    refuse_order(seen, "timm", where)
    resize, cropped = resize_of(seen), crops(seen.evaluation)
    beyond = cropped and resize is None
    if resize is not None and resize.shorter is not None:
        beyond = not cropped or seen.size[0] != seen.size[1]
    if beyond:
        kinds = ", ".join(step.kind for step in seen.evaluation)
        raise CheckpointError(
            f"{where}: refused, nothing was written: timm cannot do data.augmentation.evaluation ({kinds}; size "
            f"{seen.size[0]}x{seen.size[1]}); it resizes the shorter side and cuts a square out, or resizes to the size"
        )
    notes = grey_note(seen, "timm")
    if resize is None:
        notes.append("timm resizes pictures of another size than the model's, which the run refuses")
    return notes


def _said(seen: Augmentation) -> Augmentation:
    """What its folders say of an augmentation: every picture is resized, if only to the size that it has."""
    resize, seen = resize_of(seen), of_evaluation(seen)
    whole = resize is None or resize.shorter is None
    return seen.model_copy(update={"evaluation": (resize or Resize(),)}) if whole else seen


TIMM_VIT = Format(
    library="timm",
    architecture=TIMM.architecture,
    record=ImageEncoder,
    loading="timm.create_model('local-dir:FOLDER', pretrained=True)",
    files=_vit_files,
    read=_read_vit,
    to_theirs=lambda spec, ours: to_theirs(TIMM, spec, ours, spec.head.classes),
    to_ours=lambda spec, theirs, where: to_ours(TIMM, spec, theirs, where),
    pixels=_pixels,
    lost=_lost,
    said=_said,
)

TIMM_COATNET = Format(
    library="timm",
    architecture="MaxxVit",
    record=CoAtNet,
    loading="timm.create_model('local-dir:FOLDER', pretrained=True)",
    files=_coatnet_files,
    read=_read_coatnet,
    to_theirs=coatnet_to_timm,
    to_ours=coatnet_from_timm,
    pixels=_pixels,
    lost=_lost,
    said=_said,
)
