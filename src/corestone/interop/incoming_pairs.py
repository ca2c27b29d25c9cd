"""Another library's model of pictures and texts becomes a Corestone checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from corestone.core.errors import CheckpointError
from corestone.core.spec import plain, to_yaml
from corestone.data.tokenizer import Tokenizer
from corestone.interop.files import INDEX, read_json, read_weights
from corestone.interop.huggingface_pairs import HUGGINGFACE_CLIP_MODEL, HUGGINGFACE_SIGLIP_MODEL
from corestone.interop.incoming import check_vocabulary, refuse_existing
from corestone.interop.open_clip_pairs import OPEN_CLIP_CONFIG, OPEN_CLIP_MODEL, refuse_captioner
from corestone.interop.pair_tokenizer import read_pair_tokenizer
from corestone.interop.paired import PairFormat, PairTold
from corestone.interop.pictured import CONFIG, PROCESSOR
from corestone.interop.two_tower import two_tower_from
from corestone.models.picture_spec import TwoTower
from corestone.train.archive import MODEL, PICTURES, WEIGHTS
from corestone.train.checkpoint import write_checkpoint

_BY_TYPE = {"clip": HUGGINGFACE_CLIP_MODEL, "siglip": HUGGINGFACE_SIGLIP_MODEL}

PROCESSORS = "processor_config.json"
"""Where newer releases of `transformers` keep what is done to pictures, under `image_processor`."""


@dataclass(frozen=True)
class ImportedPairs:
    """What was written where, and what was not taken over on the way."""

    folder: Path
    library: str
    architecture: str
    spec: TwoTower
    parameters: int
    notes: list[str]


def holds_pairs(folder: Path) -> bool:
    """Whether a folder is that of a model of pictures and texts: CLIP or SigLIP of Hugging Face, or open_clip's."""
    return _format(folder) is not None


def _format(folder: Path) -> PairFormat | None:
    """Of a folder that holds both libraries' files, as many published ones do, Hugging Face's where the tensors in
    model.safetensors have its names."""
    other = OPEN_CLIP_MODEL if (folder / OPEN_CLIP_CONFIG).is_file() else None
    if (folder / CONFIG).is_file():
        found = read_json(folder / CONFIG).get("model_type")
        if isinstance(found, str) and found in _BY_TYPE and (other is None or not _of_open_clip(folder)):
            return _BY_TYPE[found]
    return other


def _of_open_clip(folder: Path) -> bool:
    """Whether there is no model.safetensors, or one whose tensors have open_clip's names."""
    kept = not (folder / WEIGHTS).is_file() and not (folder / INDEX).is_file()
    return kept or any("visual." in name for name in read_weights(folder))


def _open_clips(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what CustomTextCLIP puts before names of the text tower, and before that a model on several devices."""
    return {name.removeprefix("module.").removeprefix("text."): tensor for name, tensor in theirs.items()}


def read_pairs_folder(folder: Path) -> tuple[PairTold, dict[str, Tensor], Tokenizer, PairFormat]:
    """What a folder says, its float32 weights under our names, its tokenizer and its model class.

    Raises:
        CheckpointError: the folder is no such folder, or holds something that cannot be expressed here; it is named.
        DataError: no usable tokenizer, or one with more tokens than the model's table has rows.
    """
    kind = _format(folder)
    if kind is None:
        raise CheckpointError(
            f"{folder}: is no folder of a model of pictures and texts known here (config.json of a CLIP or SigLIP, or "
            f"{OPEN_CLIP_CONFIG})"
        )
    files = {name: read_json(folder / name) for name in (kind.config, PROCESSOR) if (folder / name).is_file()}
    if PROCESSOR not in files and (folder / PROCESSORS).is_file():
        nested = read_json(folder / PROCESSORS).get("image_processor")
        files |= {PROCESSOR: nested} if isinstance(nested, dict) else {}
    if kind is OPEN_CLIP_MODEL:
        refuse_captioner(files[kind.config], str(folder / kind.config))
    tokenizer, template = read_pair_tokenizer(folder)
    told = kind.read(files, folder, template)
    check_vocabulary(told.spec.text.embedding.vocab_size, tokenizer, str(folder))
    theirs = read_weights(folder, kind.weights)
    theirs = _open_clips(theirs) if kind is OPEN_CLIP_MODEL else theirs
    return told, two_tower_from(kind.names(told.spec), told.spec, theirs, str(folder)), tokenizer, kind


def import_pairs(folder: Path, out: Path) -> ImportedPairs:
    """Convert a CLIP or SigLIP of Hugging Face, or a CLIP of open_clip: config, safetensors, tokenizer, preprocessing.

    The checkpoint, with the tokenizer, and in `pictures.json` evaluation's preprocessing, the most tokens of a text and
    what stands around it, appears whole or not at all. Raises as `read_pairs_folder` does, and where `out` exists.
    """
    out = refuse_existing(out)
    told, tensors, tokenizer, kind = read_pairs_folder(folder)
    write_checkpoint(
        out, {WEIGHTS: tensors}, {MODEL: to_yaml(told.spec), PICTURES: pairs_json(told), **tokenizer.files()}
    )
    parameters = sum(tensor.numel() for tensor in tensors.values())
    return ImportedPairs(out, kind.library, kind.architecture, told.spec, parameters, told.notes)


def pairs_json(told: PairTold) -> str:
    """The text of a checkpoint's pictures.json."""
    tree: Mapping[str, Any] = {
        "augmentation": plain(told.augmentation),
        "context_length": told.context_length,
        "rows": plain(told.rows),
    }
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"
