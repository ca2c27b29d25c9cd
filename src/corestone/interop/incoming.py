"""A Hugging Face folder becomes a Corestone checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from corestone.core.errors import CheckpointError, DataError
from corestone.core.spec import to_yaml
from corestone.data.tokenizer import Tokenizer
from corestone.interop.files import read_json, read_weights
from corestone.interop.settings import family_of_config, to_spec
from corestone.interop.vocabulary import read_tokenizer
from corestone.interop.weights import to_ours
from corestone.models.spec import Decoder
from corestone.train.archive import MODEL, WEIGHTS
from corestone.train.checkpoint import write_checkpoint

CONFIG = "config.json"


@dataclass(frozen=True)
class Imported:
    """What was written where, and what had to be decided on the way."""

    folder: Path
    model_type: str
    spec: Decoder
    parameters: int
    notes: list[str]


def import_huggingface(folder: Path, out: Path) -> Imported:
    """Convert a folder written by `save_pretrained` (config.json, safetensors, tokenizer) to a checkpoint.

    The vocabulary keeps exactly the given size. The checkpoint appears whole or not at all.

    Raises:
        CheckpointError: the folder is no such folder, or holds something that a Decoder cannot express; `out` exists.
        DataError: no usable tokenizer, or one with more tokens than the model's table has rows.
    """
    out = refuse_existing(out)
    spec, tensors, model_type = read_huggingface(folder)
    config = read_json(folder / CONFIG)
    tokenizer, notes = read_tokenizer(folder, family_of_config(config, str(folder / CONFIG)), config)
    check_vocabulary(spec, tokenizer, str(folder))
    write_checkpoint(out, {WEIGHTS: tensors}, {MODEL: to_yaml(spec), **tokenizer.files()})
    parameters = sum(tensor.numel() for tensor in tensors.values())
    return Imported(folder=out, model_type=model_type, spec=spec, parameters=parameters, notes=notes)


def read_huggingface(folder: Path) -> tuple[Decoder, dict[str, Tensor], str]:
    """The model of a Hugging Face folder: its record, its float32 weights under our names, its model_type."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give one that holds {CONFIG}, safetensors and a tokenizer")
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder}: has no {CONFIG}, so it is not a Hugging Face model folder")
    config = read_json(path)
    family = family_of_config(config, str(path))
    spec = to_spec(family, config, str(path))
    return spec, to_ours(family, spec, read_weights(folder), str(folder)), family.model_type


def check_vocabulary(spec: Decoder, tokenizer: Tokenizer, where: str) -> None:
    """DataError where the tokenizer can give an id that the model's table has no row for."""
    if tokenizer.manifest.vocab_size > spec.embedding.vocab_size:
        raise DataError(
            f"{where}: the tokenizer has {tokenizer.manifest.vocab_size} tokens, the model's table "
            f"{spec.embedding.vocab_size} rows; take the tokenizer that belongs to the model, or resize the table "
            "(model.resize_token_embeddings) and save it again"
        )


def refuse_existing(out: Path) -> Path:
    """The absolute path of a folder to write; CheckpointError where something is there already."""
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out}: exists already; give --out a folder that does not exist yet")
    return out
