"""A Hugging Face folder becomes a Corestone checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from corestone.core.errors import CheckpointError, DataError
from corestone.core.spec import to_yaml
from corestone.core.vocabulary import Vocabulary
from corestone.data.tokenizer import Tokenizer
from corestone.interop.family import Exchanged, Family
from corestone.interop.files import read_json, read_weights
from corestone.interop.settings import families_of_config, to_spec
from corestone.interop.vocabulary import read_tokenizer
from corestone.interop.weights import nearest, to_ours
from corestone.models.spec import EncoderDecoder
from corestone.train.archive import MODEL, WEIGHTS
from corestone.train.checkpoint import write_checkpoint

CONFIG, GENERATION = "config.json", "generation_config.json"


@dataclass(frozen=True)
class Imported:
    """What was written where, and what had to be decided on the way."""

    folder: Path
    architecture: str
    spec: Exchanged
    parameters: int
    notes: list[str]


def import_huggingface(folder: Path, out: Path) -> Imported:
    """Convert a folder written by `save_pretrained` (config.json, safetensors, tokenizer) to a checkpoint.

    The vocabulary keeps exactly the given size. The checkpoint appears whole or not at all.

    Raises:
        CheckpointError: the folder is no such folder, or holds something that cannot be expressed here; `out` exists.
        DataError: no usable tokenizer, or one with more tokens than the model's table has rows.
    """
    out = refuse_existing(out)
    spec, tensors, family = read_huggingface(folder)
    config = read_json(folder / CONFIG)
    tokenizer, notes = read_tokenizer(folder, family, config)
    told = config.get("architectures")
    if told and family.architecture not in told:
        notes = [*notes, f"{CONFIG} says {', '.join(told)}; the weights are those of {family.architecture}"]
    unkept = {key: value for key, value in family.settings.afresh.items() if config.get(key, value) != value}
    notes = [*notes, *(f"{key}={config[key]} is not kept; it matters only to new weights" for key in unkept)]
    check_vocabulary(spec.embedding.vocab_size, tokenizer, str(folder))
    if isinstance(spec, EncoderDecoder):
        _check_ends(folder, config, tokenizer.vocabulary)
    write_checkpoint(out, {WEIGHTS: tensors}, {MODEL: to_yaml(spec), **tokenizer.files()})
    parameters = sum(tensor.numel() for tensor in tensors.values())
    return Imported(folder=out, architecture=family.architecture, spec=spec, parameters=parameters, notes=notes)


def _check_ends(folder: Path, config: dict[str, Any], vocabulary: Vocabulary) -> None:
    """DataError where answers would begin or end with other tokens than the tokenizer's."""
    path = folder / GENERATION
    told = {**config, **(read_json(path) if path.is_file() else {})}
    for key, wanted, role in (
        ("decoder_start_token_id", vocabulary.start, "padding token, which answers begin with here"),
        ("eos_token_id", vocabulary.separator, "end-of-text token"),
    ):
        if told.get(key, wanted) not in (wanted, [wanted], None):
            raise DataError(
                f"{folder}: {key}={told[key]!r} cannot be expressed here: {wanted} is the tokenizer's {role}; take the "
                "tokenizer that belongs to the model"
            )


def read_huggingface(folder: Path) -> tuple[Exchanged, dict[str, Tensor], Family]:
    """The model of a Hugging Face folder: its record, its float32 weights under our names, and its class.

    Of the classes of its model_type it is the one whose heads the tensors are those of: published folders hold more
    than the class that their config.json names.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give one that holds {CONFIG}, safetensors and a tokenizer")
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder}: has no {CONFIG}, so it is not a Hugging Face model folder")
    config = read_json(path)
    families = families_of_config(config, str(path))
    theirs = read_weights(folder)
    family = nearest(families, theirs)
    spec = to_spec(family, config, str(path), theirs.keys())
    return spec, to_ours(family, spec, theirs, str(folder)), family


def check_vocabulary(rows: int, tokenizer: Tokenizer, where: str) -> None:
    """DataError where the tokenizer can give an id that the model's table has no row for."""
    if tokenizer.manifest.vocab_size > rows:
        raise DataError(
            f"{where}: the tokenizer has {tokenizer.manifest.vocab_size} tokens, the model's table {rows} rows; "
            "take the tokenizer that belongs to the model, or resize the table "
            "(model.resize_token_embeddings) and save it again"
        )


def refuse_existing(out: Path) -> Path:
    """The absolute path of a folder to write; CheckpointError where something is there already."""
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out}: exists already; give --out a folder that does not exist yet")
    return out
