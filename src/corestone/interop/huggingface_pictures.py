"""`ViTForImageClassification` of `transformers`: config.json, preprocessor_config.json, and what they mean here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from corestone.core.errors import CheckpointError
from corestone.core.spec import parse
from corestone.data.images.augment_spec import Augmentation
from corestone.interop.family import ACTIVATIONS, ANY_FAMILY, Tree
from corestone.interop.pictured import (
    BILINEAR,
    CONFIG,
    PROCESSOR,
    Format,
    Pixels,
    Told,
    augmentation_of,
    crops,
    grey_note,
    heads_fit,
    of_evaluation,
    one_of,
    pair_of,
    refuse_order,
    refuse_others,
    resize_of,
    share_of,
    size_of,
    square,
)
from corestone.interop.vision import HUGGINGFACE
from corestone.interop.weights import to_ours, to_theirs
from corestone.models.picture_spec import ImageEncoder

_ACTIVATIONS = {"gelu": ("gelu",), **ACTIVATIONS}

_SILENT = (
    "_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "encoder_stride", "finetuning_task",
    "id2label", "initializer_range", "label2id", "model_type", "num_labels", "output_attentions",
    "output_hidden_states", "pooler_act", "pooler_output_size", "problem_type", "return_dict", "torch_dtype",
    "transformers_version",
)  # fmt: skip
"""Settings of config.json that change nothing that a classifier computes."""

_READ = (
    "attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size", "image_size",
    "intermediate_size", "layer_norm_eps", "num_attention_heads", "num_channels", "num_hidden_layers", "patch_size",
    "qkv_bias",
)  # fmt: skip

RESAMPLING = ("nearest", "lanczos", BILINEAR, "bicubic", "box", "hamming")
"""Pillow's, by the number that the files have."""

_VIT = {"do_resize": True, "size": 224, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_CLIP = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": 224,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
PROCESSORS: Mapping[str, Tree] = {
    **dict.fromkeys(("ViTImageProcessor", "ViTImageProcessorFast", "ViTFeatureExtractor"), _VIT),
    **dict.fromkeys(("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPFeatureExtractor"), _CLIP),
}
"""What each class of the library does where preprocessor_config.json is silent. The second kind is that which crops in
every release."""

_PROCESSOR_SILENT = (
    "data_format", "device", "disable_grouping", "do_convert_rgb", "feature_extractor_type", "image_processor_type",
    "input_data_format", "processor_class", "return_tensors",
)  # fmt: skip

_PROCESSOR_READ = (
    "crop_size", "do_center_crop", "do_normalize", "do_rescale", "do_resize", "image_mean", "image_std", "resample",
    "rescale_factor", "size",
)  # fmt: skip


def _files(spec: ImageEncoder, classes: Sequence[str], seen: Augmentation) -> dict[str, Tree]:
    return {CONFIG: _config(spec, classes), PROCESSOR: _processor(seen)}


def _config(spec: ImageEncoder, classes: Sequence[str]) -> Tree:
    """What it cannot say is left out; the reader then gives another record."""
    block, mixer, embedding = spec.stack.blocks[0], spec.stack.attention[0], spec.embedding
    return {
        "model_type": "vit",
        "architectures": [HUGGINGFACE.architecture],
        "hidden_size": spec.stack.width,
        "num_hidden_layers": len(spec.stack.blocks),
        "num_attention_heads": mixer.num_heads,
        "intermediate_size": block.feedforward.hidden_dim,
        "hidden_act": _ACTIVATIONS.get(block.feedforward.activation, ("gelu",))[0],
        "hidden_dropout_prob": block.dropout,
        "attention_probs_dropout_prob": mixer.dropout,
        "initializer_range": 0.02 if spec.init.std is None else spec.init.std,
        "layer_norm_eps": block.norm.eps,
        "image_size": square(embedding.image_size),
        "patch_size": embedding.patch_size,
        "num_channels": embedding.channels,
        "qkv_bias": mixer.bias_in,
        "id2label": {str(number): name for number, name in enumerate(classes)},
        "label2id": {name: number for number, name in enumerate(classes)},
        "dtype": "float32",
    }


def _processor(seen: Augmentation) -> Tree:
    resize, cropped, (height, width) = resize_of(seen), crops(seen.evaluation), seen.size
    whole: Tree = {"height": height, "width": width}
    tree: Tree = {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": seen.channels == 3,
        "do_resize": resize is not None,
        "size": whole,
        "resample": RESAMPLING.index(BILINEAR),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(seen.mean),
        "image_std": list(seen.std),
    }
    if resize is not None and resize.shorter is not None:
        tree["size"] = {"shortest_edge": resize.shorter}
    if cropped or "shortest_edge" in tree["size"]:
        crop = {"do_center_crop": cropped, "crop_size": whole}
        tree = {**tree, "image_processor_type": "CLIPImageProcessor", **crop}
    return tree


def _read(files: Mapping[str, Tree], folder: Path) -> Told:
    config, where = files[CONFIG], f"{folder / CONFIG}"
    told = config.get("architectures")
    if told and HUGGINGFACE.architecture not in told:
        raise CheckpointError(
            f"{where}: architectures={told!r} cannot be expressed here; known for vit: {HUGGINGFACE.architecture}"
        )
    classes = _classes(config, where)
    spec = _spec(config, len(classes), where)
    path = folder / PROCESSOR
    if PROCESSOR not in files:
        raise CheckpointError(f"{path}: no such file; without it nothing says how pictures are resized and scaled")
    seen = _augmentation(files[PROCESSOR], spec, f"{path}")
    notes = [
        f"{CONFIG}: {key}={config[key]!r} is not known here and was not taken over"
        for key in config
        if key not in (*_SILENT, *_READ, *ANY_FAMILY)
    ]
    return Told(spec, classes, seen, notes)


def _classes(config: Tree, where: str) -> tuple[str, ...]:
    """Names in the order of the logits; numbers where the folder names none, which are two then as in the library."""
    told = config.get("id2label")
    if told is None:
        return tuple(str(number) for number in range(size_of(config, "num_labels", where, 2)))
    numbers = sorted(int(key) for key in told if str(key).isdigit()) if isinstance(told, dict) else []
    if not numbers or numbers != list(range(len(told))) or not all(isinstance(name, str) for name in told.values()):
        raise CheckpointError(f"{where}: 'id2label' must name the classes 0, 1, 2 and so on (got {str(told)[:60]})")
    return tuple(told[str(number)] for number in numbers)


def _spec(config: Tree, classes: int, where: str) -> ImageEncoder:
    refuse_others(config, {**ANY_FAMILY, "qkv_bias": (True, False)}, where)
    width, heads = size_of(config, "hidden_size", where), size_of(config, "num_attention_heads", where)
    heads_fit(width, heads, ("hidden_size", "num_attention_heads"), where)
    patch = pair_of(config, "patch_size", where, 16)
    if patch[0] != patch[1]:
        raise CheckpointError(f"{where}: patch_size={list(patch)} cannot be expressed here, only square patches can")
    dropout, norm = share_of(config, "hidden_dropout_prob", where), {"eps": config.get("layer_norm_eps", 1e-12)}
    block = {
        "norm": norm,
        "mixer": {
            "kind": "attention",
            "num_heads": heads,
            "head_dim": width // heads,
            "bias_in": config.get("qkv_bias", True),
            "dropout": share_of(config, "attention_probs_dropout_prob", where),
        },
        "feedforward": {
            "hidden_dim": size_of(config, "intermediate_size", where),
            "activation": one_of(config.get("hidden_act", "gelu"), "hidden_act", _ACTIVATIONS, where),
        },
        "dropout": dropout,
    }
    std = config.get("initializer_range", 0.02)
    tree = {
        "embedding": {
            "image_size": pair_of(config, "image_size", where, 224),
            "channels": size_of(config, "num_channels", where, 3),
            "patch_size": patch[0],
            "dropout": dropout,
        },
        "stack": {
            "width": width,
            "blocks": [block] * size_of(config, "num_hidden_layers", where),
            "final_norm": norm,
        },
        "head": {"classes": classes},
        "init": {"std": std, "position_std": std},
    }
    return parse(ImageEncoder, tree, where)


def _complete(processor: Tree, where: str) -> Tree:
    """A processor's settings with what its class takes where the file is silent."""
    kind = processor.get("image_processor_type") or processor.get("feature_extractor_type") or "ViTImageProcessor"
    if not isinstance(kind, str) or kind not in PROCESSORS:
        known = ", ".join(name for name in PROCESSORS if name.endswith("Processor"))
        raise CheckpointError(f"{where}: image_processor_type={kind!r} cannot be expressed here; known: {known}")
    unknown = [key for key in processor if key not in (*_PROCESSOR_SILENT, *_PROCESSOR_READ)]
    doing = [key for key in unknown if processor[key] not in (None, False)]
    if doing:
        raise CheckpointError(f"{where}: {doing[0]}={processor[doing[0]]!r} cannot be expressed here")
    return {"rescale_factor": 1 / 255, **PROCESSORS[kind], **{k: v for k, v in processor.items() if v is not None}}


def _sides(told: Any, key: str, where: str) -> Tree:
    """`size` or `crop_size`: {"height", "width"} or {"shortest_edge"}; a number stands for a square in old files."""
    if isinstance(told, int):
        told = {"height": told, "width": told}
    wanted = {"height", "width"} if isinstance(told, dict) and "shortest_edge" not in told else {"shortest_edge"}
    if not isinstance(told, dict) or {name for name, value in told.items() if value is not None} != wanted:
        raise CheckpointError(f"{where}: {key}={told!r} cannot be expressed here (height and width, or shortest_edge)")
    return {name: size_of(told, name, f"{where}: {key}") for name in wanted}


def _augmentation(processor: Tree, spec: ImageEncoder, where: str) -> Augmentation:
    told, image_size = _complete(processor, where), spec.embedding.image_size
    refuse_others(told, {"do_rescale": (True,)}, where)
    factor = told["rescale_factor"]
    if not isinstance(factor, float) or abs(factor * 255 - 1) > 1e-6:
        raise CheckpointError(f"{where}: rescale_factor={factor!r} cannot be expressed here (only 1/255 can)")
    steps: list[Tree] = []
    end: tuple[int, int] | None = None
    if told["do_resize"]:
        _refuse_resampling(told["resample"], where)
        sides = _sides(told["size"], "size", where)
        end = None if "shortest_edge" in sides else (sides["height"], sides["width"])
        steps.append({"kind": "resize", "shorter": sides.get("shortest_edge")})
    if told.get("do_center_crop", False):
        cut = _sides(told.get("crop_size", told["size"]), "crop_size", where)
        end = (cut.get("height", 0), cut.get("width", 0))
        steps.append({"kind": "center_crop"})
    if end is not None and end != image_size:
        raise CheckpointError(
            f"{where}: gives pictures of {end[0]}x{end[1]} (height x width) and the model of {CONFIG} reads "
            f"{image_size[0]}x{image_size[1]}; make size (or crop_size) and image_size agree"
        )
    channels, scaled = spec.embedding.channels, told.get("do_normalize", True)
    mean, std = (
        [value] * channels if isinstance(value, int | float) else value
        for value in ((told["image_mean"], told["image_std"]) if scaled else (0.0, 1.0))
    )
    return augmentation_of(image_size, channels, {"evaluation": steps, "mean": mean, "std": std}, where)


def _refuse_resampling(told: Any, where: str) -> None:
    if not isinstance(told, int) or isinstance(told, bool) or not 0 <= told < len(RESAMPLING):
        known = ", ".join(f"{number} {name}" for number, name in enumerate(RESAMPLING))
        raise CheckpointError(f"{where}: resample={told!r} is no resampling known; those of Pillow: {known}")
    if RESAMPLING[told] != BILINEAR:
        raise CheckpointError(
            f"{where}: resample={told} ({RESAMPLING[told]}) cannot be expressed here, only 2 ({BILINEAR}) can; set "
            "resample to 2 there to resize so, which changes what the model sees a little"
        )


def _pixels(files: Mapping[str, Tree], pixels: Pixels) -> Tensor:
    """As documented of the library's torchvision processors: resize with antialiasing, a crop whose odd pixel stays at
    the bottom and on the right, then values times `rescale_factor`, less the mean, by the deviation."""
    told = files[PROCESSOR]
    picture = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    if told["do_convert_rgb"] and len(picture) == 1:
        picture = picture.expand(3, -1, -1)
    if told["do_resize"]:
        side = told["size"]
        height, width = picture.shape[-2:]
        if "shortest_edge" in side:
            shorter, longer = (
                side["shortest_edge"],
                int(side["shortest_edge"] * max(height, width) / min(height, width)),
            )
            new = [shorter, longer] if height <= width else [longer, shorter]
        else:
            new = [side["height"], side["width"]]
        picture = F.resize(picture, new, InterpolationMode(RESAMPLING[told["resample"]]), antialias=True)
    if told.get("do_center_crop", False):
        h, w = told["crop_size"]["height"], told["crop_size"]["width"]
        top, left = (picture.shape[-2] - h) // 2, (picture.shape[-1] - w) // 2
        picture = picture[:, top : top + h, left : left + w]
    mean, std = (torch.tensor(told[key], dtype=torch.float64)[:, None, None] for key in ("image_mean", "image_std"))
    scaled: Tensor = (picture.double() * told["rescale_factor"] - mean) / std
    return scaled


def _lost(seen: Augmentation, where: str) -> list[str]:
    refuse_order(seen, "transformers", where)
    notes = grey_note(seen, "transformers")
    if not crops(seen.evaluation):
        return notes
    resize = resize_of(seen)
    if resize is not None and resize.shorter is None:
        return notes  # nothing is left to cut off
    if resize is not None and seen.size[0] == seen.size[1] and ((resize.shorter or 0) - seen.size[0]) % 4 == 3:
        raise CheckpointError(
            f"{where}: refused, nothing was written: of {resize.shorter} pixels transformers cuts {seen.size[0]} "
            "out, one pixel further up or left than the run does"
        )
    cut = "where 3, 7, 11, ... pixels are cut off, transformers cuts one pixel further up or left than the run does"
    return [*notes, cut]


HUGGINGFACE_VIT = Format(
    library="huggingface",
    architecture=HUGGINGFACE.architecture,
    record=ImageEncoder,
    loading="AutoModelForImageClassification.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)",
    files=_files,
    read=_read,
    to_theirs=lambda spec, ours: to_theirs(HUGGINGFACE, spec, ours, spec.head.classes),
    to_ours=lambda spec, theirs, where: to_ours(HUGGINGFACE, spec, theirs, where),
    pixels=_pixels,
    lost=_lost,
    said=of_evaluation,
)
