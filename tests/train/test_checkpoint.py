"""A checkpoint is complete or invisible (design, promise 7)."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corestone.core.errors import CheckpointError
from corestone.train import checkpoint
from corestone.train.checkpoint import (
    checkpoint_folder,
    checkpoints,
    damage,
    forget_old,
    newest_whole,
    read_tensors,
    write_checkpoint,
)

TENSORS = {"model.safetensors": {"a": torch.arange(1000.0), "b": torch.ones(3, 4)}}
TEXTS = {"state.json": '{"step": 1}'}


def write(run, step):
    write_checkpoint(checkpoint_folder(run, step), TENSORS, TEXTS)


def test_what_is_written_is_read(tmp_path):
    write(tmp_path, 5)
    folder = checkpoint_folder(tmp_path, 5)
    assert damage(folder) is None
    tensors = read_tensors(folder / "model.safetensors")
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS["model.safetensors"].items())
    assert newest_whole(tmp_path) == (folder, [])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_checkpoint_cut_or_changed_at_any_byte_is_passed_over(tmp_path_factory, data):
    run = tmp_path_factory.mktemp("run")
    write(run, 1)
    write(run, 2)
    folder = checkpoint_folder(run, 2)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(content[:place])
    else:
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
    found, messages = newest_whole(run)
    if found == folder:  # only a change of the manifest's white space can be harmless
        assert path.name == "manifest.json"
    else:
        assert found == checkpoint_folder(run, 1)
        assert str(folder) in messages[0]
    shutil.rmtree(run)


def test_a_full_disk_is_noticed_before_the_write(tmp_path, monkeypatch):
    write(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(CheckpointError, match="the disk has 1 kB free"):
        write(tmp_path, 2)
    assert [step for step, _ in checkpoints(tmp_path)] == [1]


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
def test_a_disk_that_fills_up_while_writing_leaves_nothing_behind(tmp_path, monkeypatch, name):
    write(tmp_path, 1)
    flush = checkpoint._flush

    def full(path):
        if path.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(path)

    monkeypatch.setattr(checkpoint, "_flush", full)
    with pytest.raises(CheckpointError, match="the disk is full"):
        write(tmp_path, 2)
    assert os.listdir(tmp_path / "checkpoints") == ["step-0000001"]


def test_kept_are_the_newest_and_the_best(tmp_path):
    for step in (10, 20, 30, 40):
        write(tmp_path, step)
    (tmp_path / "checkpoints" / ".step-0000050.99.partial").mkdir()
    forget_old(tmp_path, keep_last=2, best_step=10)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-0000010", "step-0000030", "step-0000040"]


WRITER = """
import sys, torch, pathlib
from corestone.train.checkpoint import write_checkpoint, checkpoint_folder
for step in range(1, 10_000):
    write_checkpoint(checkpoint_folder(pathlib.Path(sys.argv[1]), step),
                     {"model.safetensors": {"a": torch.full((300_000,), float(step))}}, {"state.json": "{}"})
    print(step, flush=True)
"""


def test_a_killed_writer_leaves_only_whole_checkpoints(tmp_path):
    for round_ in range(4):
        run = tmp_path / str(round_)
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(run)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.003 + 0.0171 * round_)
        writer.kill()
        said = [1, *(int(line) for line in writer.stdout.read().split())]
        writer.wait()
        found, messages = newest_whole(run)
        assert messages == []
        assert found is not None
        step = int(found.name.split("-")[1])
        assert said[-1] <= step <= said[-1] + 1
        assert read_tensors(found / "model.safetensors")["a"][0] == step
