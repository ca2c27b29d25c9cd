"""What preprocessing of `transformers` says and does: preprocessor_config.json of ViT's, CLIP's and SigLIP's kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from corestone.core.errors import CheckpointError
from corestone.data.images.augment_spec import Augmentation
from corestone.interop.family import Tree
from corestone.interop.pictured import (
    CONFIG,
    INTERPOLATIONS,
    Pixels,
    augmentation_of,
    crops,
    grey_note,
    refuse_order,
    refuse_others,
    resize_of,
    size_of,
)

RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
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
_SIGLIP = {**_VIT, "resample": 3}
PROCESSORS: Mapping[str, Tree] = {
    **dict.fromkeys(("ViTImageProcessor", "ViTImageProcessorFast", "ViTFeatureExtractor"), _VIT),
    **dict.fromkeys(("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPFeatureExtractor"), _CLIP),
    **dict.fromkeys(("SiglipImageProcessor", "SiglipImageProcessorFast"), _SIGLIP),
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


def processor_of(seen: Augmentation, kind: str) -> Tree:
    """What preprocessor_config.json says of an augmentation.

    Args:
        kind: the class of the library where nothing is cut out; CLIP's cuts.
    """
    resize, cropped, (height, width) = resize_of(seen), crops(seen.evaluation), seen.size
    whole: Tree = {"height": height, "width": width}
    tree: Tree = {
        "image_processor_type": kind,
        "do_convert_rgb": seen.channels == 3,
        "do_resize": resize is not None,
        "size": whole,
        "resample": RESAMPLING.index("bilinear" if resize is None else resize.interpolation),
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


def _complete(processor: Tree, where: str, kind: str) -> Tree:
    """A processor's settings with what its class takes where the file is silent."""
    kind = processor.get("image_processor_type") or processor.get("feature_extractor_type") or kind
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


def augmentation_in(processor: Tree, image_size: tuple[int, int], channels: int, where: str, kind: str) -> Augmentation:
    """What preprocessor_config.json does to a picture, for a model of such pictures.

    Args:
        kind: the class where the file names none.

    Raises CheckpointError that names what cannot be expressed here, or does not fit the model.
    """
    told = _complete(processor, where, kind)
    refuse_others(told, {"do_rescale": (True,)}, where)
    factor = told["rescale_factor"]
    if not isinstance(factor, float) or abs(factor * 255 - 1) > 1e-6:
        raise CheckpointError(f"{where}: rescale_factor={factor!r} cannot be expressed here (only 1/255 can)")
    steps: list[Tree] = []
    end: tuple[int, int] | None = None
    if told["do_resize"]:
        sides = _sides(told["size"], "size", where)
        end = None if "shortest_edge" in sides else (sides["height"], sides["width"])
        between = _interpolation(told["resample"], where)
        steps.append({"kind": "resize", "shorter": sides.get("shortest_edge"), "interpolation": between})
    if told.get("do_center_crop", False):
        cut = _sides(told.get("crop_size", told["size"]), "crop_size", where)
        end = (cut.get("height", 0), cut.get("width", 0))
        steps.append({"kind": "center_crop"})
    if end is not None and end != image_size:
        raise CheckpointError(
            f"{where}: gives pictures of {end[0]}x{end[1]} (height x width) and the model of {CONFIG} reads "
            f"{image_size[0]}x{image_size[1]}; make size (or crop_size) and image_size agree"
        )
    scaled = told.get("do_normalize", True)
    mean, std = (
        [value] * channels if isinstance(value, int | float) else value
        for value in ((told["image_mean"], told["image_std"]) if scaled else (0.0, 1.0))
    )
    return augmentation_of(image_size, channels, {"evaluation": steps, "mean": mean, "std": std}, where)


def _interpolation(told: Any, where: str) -> str:
    if not isinstance(told, int) or isinstance(told, bool) or not 0 <= told < len(RESAMPLING):
        known = ", ".join(f"{number} {name}" for number, name in enumerate(RESAMPLING))
        raise CheckpointError(f"{where}: resample={told!r} is no resampling known; those of Pillow: {known}")
    if RESAMPLING[told] not in INTERPOLATIONS:
        known = " and ".join(f"{RESAMPLING.index(name)} ({name})" for name in INTERPOLATIONS)
        raise CheckpointError(
            f"{where}: resample={told} ({RESAMPLING[told]}) cannot be expressed here, only {known} can; set resample "
            "to one of them there to resize so, which changes what the model sees a little"
        )
    return RESAMPLING[told]


def pixels_by(told: Tree, pixels: Pixels) -> Tensor:
    """What a processor makes of a picture: float64 (C, H, W).

    As documented of the library's torchvision processors: resize with antialiasing, a crop whose odd pixel stays at
    the bottom and on the right, then values times `rescale_factor`, less the mean, by the deviation."""
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


def lost_in_processor(seen: Augmentation, where: str) -> list[str]:
    """What the library does otherwise for some pictures, as notes; CheckpointError where it cannot do it."""
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
