"""Runs and checkpoints read back: the newest whole one, verified; everything else refused in one clear line."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import make_decoder, random_tensors

from corestone.core.errors import CheckpointError
from corestone.train.archive import MODEL, WEIGHTS, locate, read_model_files
from corestone.train.checkpoint import checkpoint_folder

Write = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path, checkpoint: Write) -> Path:
    """A run folder with checkpoints of the steps 1 and 2."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "recipe.yaml").write_text("name: test\n")
    for step in (1, 2):
        shutil.copytree(checkpoint(make_decoder(), name=f"made-{step}"), checkpoint_folder(folder, step))
    return folder


def cut(path: Path) -> None:
    """Lose a file's last byte."""
    path.write_bytes(path.read_bytes()[:-1])


def test_a_checkpoint_gives_back_what_was_written(checkpoint: Write) -> None:
    folder = checkpoint(make_decoder())
    text, tensors, tokenizer_folder = read_model_files(folder)
    assert text == (folder / MODEL).read_text()
    assert tokenizer_folder == folder
    assert all(torch.equal(tensors[name], tensor) for name, tensor in random_tensors(make_decoder()).items())


def test_a_run_means_its_newest_whole_checkpoint(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert locate(run) == checkpoint_folder(run, 2)
    cut(checkpoint_folder(run, 2) / WEIGHTS)
    with caplog.at_level(logging.WARNING):
        assert locate(run) == checkpoint_folder(run, 1)
    assert "step-0000002" in caplog.text
    assert "going back" in caplog.text


def test_a_run_without_a_whole_checkpoint_is_refused(run: Path) -> None:
    for step in (1, 2):
        cut(checkpoint_folder(run, step) / MODEL)
    with pytest.raises(CheckpointError, match=r"all 2 checkpoints are damaged.*bytes of model.yaml"):
        read_model_files(run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        read_model_files(run)


@pytest.mark.parametrize("name", ["model.safetensors", "model.yaml", "tokenizer.json", "tokenizer-manifest.json"])
@pytest.mark.parametrize("harm", [Path.unlink, cut])
def test_a_damaged_checkpoint_is_refused_naming_the_file(
    checkpoint: Write, name: str, harm: Callable[[Path], None]
) -> None:
    folder = checkpoint(make_decoder())
    harm(folder / name)
    with pytest.raises(CheckpointError, match=name):
        read_model_files(folder)


def test_what_is_neither_run_nor_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        locate(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file"):
        locate(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="neither a run folder"):
        locate(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").touch()
    with pytest.raises(CheckpointError, match="corestone import"):
        locate(tmp_path / "empty")
