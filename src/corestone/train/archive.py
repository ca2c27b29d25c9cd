"""Reading a trained model back as text and tensors: this module knows folders and hashes, not models or tokenizers."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from corestone.core.errors import CheckpointError
from corestone.train.checkpoint import MANIFEST, checkpoints, damage, newest_whole, read_tensors, step_of

MODEL = "model.yaml"
WEIGHTS = "model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer-manifest.json")
PICTURES = "pictures.json"

_log = logging.getLogger(__name__)


class ModelFiles(NamedTuple):
    """What a checkpoint holds of its model.

    Attributes:
        model_yaml: the model's record as YAML.
        tensors: float32 weights by parameter name; a tied head stands once, under the token table's name.
        tokenizer_folder: where tokenizer.json and its manifest lie; the checkpoint's own folder.
    """

    model_yaml: str
    tensors: dict[str, Tensor]
    tokenizer_folder: Path


def locate(path: Path) -> Path:
    """The checkpoint folder that a path means: a run's newest whole checkpoint, or the checkpoint itself, verified.

    A damaged checkpoint of a run is passed over with a warning on this module's logger, which Python shows on standard
    error unless told otherwise.

    Raises:
        CheckpointError: the path is neither a run nor a checkpoint, the run has no whole checkpoint, or the checkpoint
            is damaged (the message says which file and how).
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such folder; give a run folder or a checkpoint folder")
    if not path.is_dir():
        raise CheckpointError(f"{path}: is a file; give the run folder or the checkpoint folder that holds it")
    if (path / MANIFEST).exists() or (path / MODEL).exists():
        return _verified(path)
    if (path / "checkpoints").is_dir() or (path / "recipe.yaml").exists():
        return _newest(path)
    if (path / "config.json").exists():
        raise CheckpointError(f"{path}: is a Hugging Face folder; bring it in first: corestone import {path} --out DIR")
    raise CheckpointError(
        f"{path}: neither a run folder (recipe.yaml, checkpoints/) nor a checkpoint folder ({MANIFEST}, {MODEL})"
    )


def read_model_files(path: Path, companions: Sequence[str] = TOKENIZER_FILES) -> ModelFiles:
    """The model's record, weights and tokenizer folder of a run (its newest whole checkpoint) or a checkpoint.

    Args:
        companions: what the checkpoint must hold beside the model: of text a tokenizer, of pictures `pictures.json`.

    Every file is checked against its hash first. Raises CheckpointError as `locate` does, and where a file that every
    checkpoint must hold is missing.
    """
    folder = locate(path)
    found = "pictures" if (folder / PICTURES).is_file() else "text"
    if found != ("pictures" if PICTURES in companions else "text") and (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder}: this model reads {found}, and what was asked is not for that")
    for name in (MODEL, WEIGHTS, *companions):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: holds no {name}, so it is not a whole model checkpoint")
    return ModelFiles(
        model_yaml=(folder / MODEL).read_text(encoding="utf-8"),
        tensors=read_tensors(folder / WEIGHTS),
        tokenizer_folder=folder,
    )


def identity(checkpoint: Path) -> tuple[int | None, str]:
    """The step that a checkpoint is named after (None: it is no run's), and 16 hex digits of its weights' sha256."""
    files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
    return step_of(checkpoint), str(files[WEIGHTS]["sha256"])[:16]


def _verified(folder: Path) -> Path:
    problem = damage(folder)
    if problem is not None:
        raise CheckpointError(f"{folder}: this checkpoint {problem}; use another one, or write it again")
    return folder


def _newest(run: Path) -> Path:
    folder, messages = newest_whole(run)
    for message in messages if folder is not None else ():
        _log.warning(message)
    if folder is not None:
        return folder
    if not checkpoints(run):
        raise CheckpointError(
            f"{run}: has no checkpoint yet; start or resume the run first (corestone pretrain {run / 'recipe.yaml'} "
            f"--run {run})"
        )
    newest = checkpoints(run)[-1][1]
    raise CheckpointError(f"{run}: all {len(messages)} checkpoints are damaged; the newest, {newest}, {damage(newest)}")
