"""The time of a whole command, from its process's start to its report: what is planned of it, and what is measured."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import torch
from tiny_text import write_recipe, write_texts

from corestone.parallel.collectives import World
from corestone.recipes import probe as probing
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.evaluate import evaluate
from corestone.recipes.load import open_data
from corestone.recipes.probe import probe
from corestone.recipes.registry import OBJECTIVES
from corestone.report import figures
from corestone.report.folder import read_run

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def test_a_command_is_timed_to_its_end_and_held_to_its_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path)
    write_recipe(tmp_path / "small.yaml", steps=6, every=3)
    begun = time.time()
    done = subprocess.run([sys.executable, "-m", "corestone", "pretrain", "small.yaml"], capture_output=True, text=True)
    ended = time.time()
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "small"
    told = json.loads((folder / "environment.json").read_text())
    assert begun - 0.1 < told["began"] < told["finished"] < ended  # a process's start is known to a hundredth
    run = read_run(folder)
    found, planned = figures.measured(run), json.loads((folder / "plan.json").read_text())["time"]
    assert found["total_seconds"] == pytest.approx(told["finished"] - told["began"])
    end = run.events.of("end")[-1]["time"]
    assert found["conclusion_seconds"] == pytest.approx(told["finished"] - end)
    assert 0 < found["conclusion_seconds"] < found["total_seconds"]
    assert 0 < planned["conclusion_seconds"] < planned["total_seconds"]
    page = (folder / "report.html").read_text()
    assert "From start to end" in page
    assert "After training" in page
    (folder / "environment.json").write_text(json.dumps({key: told[key] for key in told if key != "finished"}))
    evaluate(folder)  # which is no command of its run
    assert "total_seconds" not in figures.measured(read_run(folder))


@pytest.mark.parametrize("name", ["shakespeare", "shakespeare-bert", "mnist", "coca-emoji"])
def test_what_follows_training_is_counted_on_the_data(name):
    """All that is held out."""
    run = find_recipe(name, [])
    data = open_data(run, ALONE)
    ending = data.ending(run, OBJECTIVES.build(run.objective, data.vocabulary))
    if run.data.kind == "text":
        assert ending.units == sum(held_out.n_tokens for held_out in data.validation)
    else:
        assert ending.units == len(data.sides["test" if "test" in data.sides else "validation"])
    assert ending.captions == (ending.units if name == "coca-emoji" else 0)
    assert ending.seconds > 0


def test_a_probe_times_captions():
    small = ["training.batch_examples=8", "evaluation.batch_size=4", "training.precision=float32"]
    found = probe(find_recipe("coca-emoji", small), "float32", 0.0)
    assert found.steps == probing.STEPS[0] - 1
    assert found.caption_seconds > 0
    assert found.sample_seconds > found.caption_seconds  # eight pictures against one
