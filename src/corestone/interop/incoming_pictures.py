"""Another library's picture classifier becomes a Corestone checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corestone.core.errors import CheckpointError
from corestone.core.spec import plain, to_yaml
from corestone.interop.files import read_json, read_weights
from corestone.interop.huggingface_pictures import HUGGINGFACE_VIT
from corestone.interop.incoming import refuse_existing
from corestone.interop.pictured import CONFIG, PROCESSOR, Format, Pictured, Told
from corestone.interop.timm_pictures import COATNETS, TIMM_COATNET, TIMM_VIT, VITS
from corestone.train.archive import MODEL, PICTURES, WEIGHTS
from corestone.train.checkpoint import write_checkpoint

_EXACT = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class ImportedPictures:
    """What was written where, and what was not taken over on the way."""

    folder: Path
    architecture: str
    spec: Pictured
    classes: int
    parameters: int
    notes: list[str]


def holds_pictures(folder: Path) -> bool:
    """Whether a folder's config.json is that of a picture classifier: of timm's kind, or a ViT of Hugging Face."""
    path = folder / CONFIG
    return path.is_file() and _is_pictures(read_json(path))


def _is_pictures(config: Mapping[str, Any]) -> bool:
    return "architecture" in config or config.get("model_type") == "vit"


def format_of(config: Mapping[str, Any], where: str) -> Format:
    """The model class that a config.json is of; CheckpointError where there is none here."""
    if not _is_pictures(config):
        raise CheckpointError(f"{where}: is not that of a picture classifier known here (a ViT, or a folder of timm's)")
    if "architecture" not in config:
        return HUGGINGFACE_VIT
    name = config["architecture"]
    if isinstance(name, str) and name in VITS:
        return TIMM_VIT
    if isinstance(name, str) and name in COATNETS:
        return TIMM_COATNET
    known = ", ".join((*VITS, *COATNETS))
    raise CheckpointError(f"{where}: architecture {name!r} cannot be expressed here; known: {known}")


def read_pictures_folder(folder: Path) -> tuple[Told, dict[str, Tensor], Format]:
    """What a folder says, its float32 weights under our names, and its model class."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder}: has no {CONFIG}; give a folder that holds it and safetensors")
    files = {name: read_json(folder / name) for name in (CONFIG, PROCESSOR) if (folder / name).is_file()}
    kind = format_of(files[CONFIG], str(path))
    told = kind.read(files, folder)
    return told, _widened(kind.to_ours(told.spec, read_weights(folder), str(folder)), str(folder)), kind


def _widened(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if tensor.dtype not in _EXACT or not bool(torch.isfinite(tensor).all()):
            wrong = f"is {tensor.dtype}" if tensor.dtype not in _EXACT else "holds values that are not finite"
            raise CheckpointError(f"{where}: the tensor that becomes '{name}' {wrong}; save finite floats")
    return {name: tensor.to(torch.float32) for name, tensor in tensors.items()}


def import_pictures(folder: Path, out: Path) -> ImportedPictures:
    """Convert a picture classifier (config.json, safetensors, and of Hugging Face preprocessor_config.json).

    The checkpoint, with class names and evaluation's preprocessing in `pictures.json`, appears whole or not at all.

    Raises CheckpointError where the folder is no such folder or holds something that cannot be expressed here, or `out`
    exists.
    """
    out = refuse_existing(out)
    told, tensors, kind = read_pictures_folder(folder)
    pictures = {"classes": list(told.classes), "augmentation": plain(told.augmentation)}
    texts = {MODEL: to_yaml(told.spec), PICTURES: json.dumps(pictures, indent=1, ensure_ascii=False) + "\n"}
    write_checkpoint(out, {WEIGHTS: tensors}, texts)
    parameters = sum(tensor.numel() for tensor in tensors.values())
    return ImportedPictures(out, kind.architecture, told.spec, len(told.classes), parameters, told.notes)
