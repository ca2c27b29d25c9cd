"""A run that failed before its first step keeps its folder from nobody."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from corestone.core.errors import CheckpointError, DataError
from corestone.core.runlog import read_events
from corestone.core.spec import plain
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.load import open_run
from corestone.recipes.pretrain import check_folder, pretrain
from corestone.recipes.spec import Run
from corestone.zoo.mnist_cnn import mnist_cnn

SHORT = [
    "training.length=2 steps",
    "schedule.warmup=1 steps",
    "training.batch_examples=16",
    "evaluation.pictures_while_training=20",
    "rhythm.evaluate=2 steps",
]


def recipe(side: int, precision: str) -> Run:
    """Digits are 28 pixels wide: no batch can be made where they should be of another size."""
    model = plain(mnist_cnn(7, (8, 8, 8, 8))) | {"image_size": [side, side]}
    seen = f"data.augmentation={{size: [{side}, {side}], channels: 1, mean: [0.5], std: [0.5]}}"
    return find_recipe("mnist", [f"model={json.dumps(model)}", seen, f"training.precision={precision}", *SHORT])


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("failed") / "run"
    with pytest.raises(DataError, match="32"):
        pretrain(recipe(32, "bfloat16"), folder, console=Console(quiet=True))
    assert open_run(folder) == recipe(32, "bfloat16")
    assert not read_events(folder).rows
    return folder


def test_a_mended_recipe_takes_the_folder_over_and_says_so(failed: Path, tmp_path: Path) -> None:
    """Nothing of the first attempt stays: neither its recipe nor its number format, its plan or its certificate."""
    folder, said = tmp_path / "run", io.StringIO()
    shutil.copytree(failed, folder)
    (folder / "plan.json").write_text('{"parameters": {}}')
    (folder / "check.json").write_text('{"checks": []}')
    console = Console(file=said, width=300)
    pretrain(recipe(28, "float32"), folder, resume="never", console=console)
    assert said.getvalue().splitlines()[0] == f"taken over {folder} held another recipe, of which no step was taken"
    assert open_run(folder) == recipe(28, "float32")
    assert json.loads((folder / "environment.json").read_text())["precision"] == "float32"
    assert json.loads((folder / "plan.json").read_text())["parameters"]["total"] > 0
    assert not (folder / "check.json").exists()
    assert (folder / "report.html").is_file()
    with pytest.raises(CheckpointError, match=r"holds a run of another recipe \(it differs in .*training\.precision"):
        check_folder(recipe(28, "bfloat16"), folder, "auto")  # from now on it is this run's


@pytest.mark.parametrize("what", ["a line", "a torn line", "a checkpoint"])
def test_what_has_begun_is_not_taken_over(failed: Path, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(failed, folder)
    check_folder(recipe(28, "float32"), folder, "auto")
    if what == "a checkpoint":
        (folder / "checkpoints" / "step-0000000").mkdir(parents=True)
    else:
        line = '{"event": "train", "step": 1, "time": 1.0, "pictures": 16}\n'
        (folder / "metrics.jsonl").write_text(line if what == "a line" else line[:20])
    with pytest.raises(CheckpointError, match="another recipe"):
        check_folder(recipe(28, "float32"), folder, "auto")
    with pytest.raises(CheckpointError, match="already holds a run"):
        check_folder(recipe(32, "bfloat16"), folder, "never")


def test_the_same_recipe_again_is_no_takeover(failed: Path, tmp_path: Path) -> None:
    folder, said = tmp_path / "run", io.StringIO()
    shutil.copytree(failed, folder)
    with pytest.raises(DataError, match="32"):
        pretrain(recipe(32, "bfloat16"), folder, console=Console(file=said, width=300))
    assert "taken over" not in said.getvalue()
