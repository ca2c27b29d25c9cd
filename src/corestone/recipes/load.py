"""Open what a run or an import left behind: its recipe, its model, its data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from corestone.core.errors import CheckpointError
from corestone.core.spec import read_yaml
from corestone.data.images.spec import Images, Pairs
from corestone.data.prepare.pipeline import Progress
from corestone.data.spec import Data
from corestone.data.tokenizer import Tokenizer, load_tokenizer
from corestone.data.tokens import TokenSet
from corestone.interop.incoming import check_vocabulary
from corestone.parallel.collectives import World, join_world
from corestone.parallel.precision import Precision, compute_dtype
from corestone.recipes.build import build_model, kept_buffers, load_weights, read_model_spec
from corestone.recipes.images import open_images
from corestone.recipes.pairs import open_pairs
from corestone.recipes.run_data import EpochLoader, RunData
from corestone.recipes.spec import Run
from corestone.recipes.text import batch_examples, open_text
from corestone.train.archive import read_model_files
from corestone.train.checkpoint import MANIFEST, newest_whole


def load_model(
    path: Path, precision: Precision = "auto", suited: Callable[[Precision, torch.device], torch.dtype] = compute_dtype
) -> tuple[Any, Tokenizer]:
    """The model and tokenizer of a run folder (its newest whole checkpoint) or a checkpoint folder.

    Args:
        suited: chooses the format: `compute_dtype` for whole rows, `decoding_dtype` for token after token.

    Returns:
        The model in that format, in evaluation mode, and its tokenizer.
    """
    world = join_world()
    text, tensors, folder = read_model_files(path)
    model = build_model(read_model_spec(text, f"{path}: model.yaml"), 0, world.device)
    load_weights({**dict(model.named_parameters()), **kept_buffers(model)}, tensors, str(path))
    model, tokenizer = model.to(suited(precision, world.device)).eval(), load_tokenizer(folder)
    check_vocabulary(model.vocab_size, tokenizer, str(path))
    return model, tokenizer


def open_data(run: Run, world: World, progress: Progress | None = None) -> RunData:
    """Prepare a run's data where that was not done yet, and open it."""
    if isinstance(run.data, Pairs):
        return open_pairs(run, world)
    return open_images(run, world) if isinstance(run.data, Images) else open_text(run, world, progress)


def is_run(path: Path) -> bool:
    """Whether a folder is a run's, not one of its checkpoints, which hold the recipe too."""
    return (path / "recipe.yaml").is_file() and not (path / MANIFEST).exists()


def open_run(path: Path) -> Run:
    """The recipe of a run folder; CheckpointError where the folder is no run."""
    recipe = path / "recipe.yaml"
    if not recipe.is_file():
        raise CheckpointError(f"{path}: no run folder (it has no recipe.yaml)")
    return read_yaml(Run, recipe)


def open_run_loader(path: Path) -> tuple[EpochLoader, int, int]:
    """The loader of a run on pictures, pictures per step, and steps done."""
    run, world = open_run(path), World(rank=0, size=1, device=torch.device("cpu"))
    data = open_data(run, world)
    rows, _ = data.batch(run)
    return data.loader(run, rows, world), rows, _steps_done(path)


def _steps_done(path: Path) -> int:
    newest, _ = newest_whole(path)
    return int(newest.name.split("-")[1]) if newest else 0


def open_run_data(path: Path) -> tuple[list[TokenSet], Data, int, int, int]:
    """What a run drew its batches from: training sets, data record, seed, samples per step, steps done."""
    run = open_run(path)
    data = open_text(run, World(rank=0, size=1, device=torch.device("cpu")))
    return data.train, data.spec, run.seed, batch_examples(run), _steps_done(path)
