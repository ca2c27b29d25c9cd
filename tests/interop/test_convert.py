"""Pickled checkpoints: only tensors come out, what else is in them is named, and nothing of them is run."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file
from tiny_models import make_decoder
from torch import nn
from typer.testing import CliRunner

from corestone.cli.interop import convert
from corestone.core.errors import CheckpointError
from corestone.interop.convert import convert_pickle
from corestone.interop.incoming import import_huggingface, read_huggingface


def weights() -> dict[str, torch.Tensor]:
    """Several types, a scalar, an empty tensor, and values that are no numbers."""
    torch.manual_seed(0)
    return {
        "a": torch.randn(3, 4),
        "b": torch.randn(5).bfloat16(),
        "c": torch.tensor(7, dtype=torch.int64),
        "d": torch.empty(0, 2),
        "e": torch.tensor([float("nan"), float("-inf"), -0.0]).half(),
        "f": torch.tensor([True, False]),
    }


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    return (first.dtype, first.shape) == (second.dtype, second.shape) and first.numpy(force=True).tobytes() == (
        second.numpy(force=True).tobytes()
    )


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.ckpt"])
def test_every_bit_of_every_tensor(tmp_path: Path, zipped: bool, name: str) -> None:
    given = {key: value for key, value in weights().items() if key != "b"}
    torch.save(given, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(tmp_path / name) == zipped
    done = convert_pickle(tmp_path / name, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == given.keys()
    assert all(same_bits(found[key], given[key]) for key in given)
    assert (done.tensors, done.parameters, done.inside, done.left_out, done.shared) == (5, 18, "", [], [])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out"])


def test_bfloat16_and_parameters(tmp_path: Path) -> None:
    torch.save({"b": weights()["b"], "p": nn.Parameter(torch.ones(2))}, tmp_path / "m.pt")
    convert_pickle(tmp_path / "m.pt", tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(found["b"], weights()["b"])
    assert torch.equal(found["p"], torch.ones(2))


@pytest.mark.parametrize(
    ("keys", "inside"),
    [(["state_dict"], "state_dict"), (["model"], "model"), (["model", "state_dict"], "model.state_dict")],
)
def test_tensors_under_a_trainers_keys(tmp_path: Path, keys: list[str], inside: str) -> None:
    tree: Any = OrderedDict(weights())
    tree["_extra"] = 3
    for key in reversed(keys):
        tree = {"epoch": 4, key: tree, "optimizer": {"state": {0: torch.ones(2)}}}
    torch.save(tree, tmp_path / "last.ckpt")
    done = convert_pickle(tmp_path / "last.ckpt", tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == weights().keys()
    assert done.inside == inside
    outer = [
        f"{'.'.join([*keys[:n], entry])}" for n in range(len(keys)) for entry in ("epoch (int)", "optimizer (dict)")
    ]
    assert sorted(done.left_out) == sorted([*outer, f"{inside}._extra (int)"])


def test_shared_tensors_are_told_and_written_in_full(tmp_path: Path) -> None:
    table = torch.randn(6, 4)
    given = {"wte": table, "head": table, "half": table[:3], "turned": table.T, "own": table.clone()}
    torch.save(given, tmp_path / "m.bin")
    done = convert_pickle(tmp_path / "m.bin", tmp_path / "out")
    assert done.shared == [("half", "head", "turned", "wte")]
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(found[name], given[name]) for name in given)


def test_shards_and_their_index(tmp_path: Path) -> None:
    source = tmp_path / "theirs"
    source.mkdir()
    places = {key: f"pytorch_model-0000{1 + n % 2}-of-00002.bin" for n, key in enumerate(weights())}
    for place in set(places.values()):
        torch.save({key: value for key, value in weights().items() if places[key] == place}, source / place)
    index = source / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    (source / "config.json").write_text("{}")
    done = convert_pickle(index, tmp_path / "out")
    assert (done.tensors, done.copied) == (6, ["config.json"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]  # fmt: skip
    tree = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    for key, place in tree["weight_map"].items():
        assert load_file(tmp_path / "out" / place)[key].shape == weights()[key].shape
    assert tree["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in weights().values())
    index.write_text(json.dumps({"weight_map": {key: place for key, place in places.items() if key != "a"}}))
    with pytest.raises(CheckpointError, match=r"not those that .* lists \(first: 'a'\)"):
        convert_pickle(index, tmp_path / "other")
    index.write_text(json.dumps({"weight_map": {"a": "../m.bin"}}))
    with pytest.raises(CheckpointError, match=r"names the shard .\.\./m\.bin."):
        convert_pickle(index, tmp_path / "other")
    assert not (tmp_path / "other").exists()


class Evil:
    """Runs a command as soon as an ordinary unpickler reads it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["zip", "old", "plain pickle", "inside a shard"])
def test_a_malicious_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # what would open the door elsewhere
    trace = tmp_path / "it-ran"
    tree = {"a": torch.ones(2), "b": Evil(f"touch {trace}")}
    path = tmp_path / "pytorch_model.bin"
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(Evil(f"touch {trace}"), protocol=2))
    else:
        torch.save(tree, path, _use_new_zipfile_serialization=form != "old")
    source = path
    if form == "inside a shard":
        source = tmp_path / "pytorch_model.bin.index.json"
        source.write_text(json.dumps({"weight_map": {"a": path.name}}))
    with pytest.raises(
        CheckpointError, match=r"refused, nothing of it was run: it asks for (posix|nt)\.system,"
    ) as told:
        convert_pickle(source, tmp_path / "out")
    assert "\n" not in str(told.value)
    assert not trace.exists()
    assert not (tmp_path / "out").exists()
    if form == "plain pickle":
        pickle.loads(path.read_bytes())
        assert trace.exists()  # the pickle does what it says


def test_a_pickle_that_torch_did_not_write_does_not_run_either(tmp_path: Path) -> None:
    """Of a newer protocol, whose instructions the restricted interpreter does not know."""
    (tmp_path / "m.bin").write_bytes(pickle.dumps(Evil(f"touch {tmp_path / 'it-ran'}"), protocol=4))
    with pytest.raises(CheckpointError, match=r"can read safely \(Unsupported operand 149\)") as told:
        convert_pickle(tmp_path / "m.bin", tmp_path / "out")
    assert "weights_only" not in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m.bin"]


def test_all_refused_contents_are_named(tmp_path: Path) -> None:
    tree = {"a": torch.ones(1), "hparams": argparse.Namespace(lr=1), "odd": nn.Linear(2, 2), "path": Path("x")}
    torch.save(tree, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match=r"argparse\.Namespace.*torch\.nn\.modules\.linear\.Linear") as told:
        convert_pickle(tmp_path / "m.ckpt", tmp_path / "out")
    assert "pathlib" in str(told.value)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ([torch.ones(1)], "holds list, not tensors by name"),
        ({"epoch": 3, "loss": 0.1}, r"no tensors by name.*epoch \(int\), loss \(float\)"),
        ({}, r"no tensors by name.*it holds nothing"),
        ({"a": torch.eye(2).to_sparse()}, "tensor 'a' is sparse_coo"),
        ({"a": torch.ones(1, dtype=torch.complex128)}, r"cannot hold tensors of type torch.complex128"),
    ],
)
def test_what_is_no_set_of_tensors_is_refused(tmp_path: Path, tree: Any, words: str) -> None:
    torch.save(tree, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=words):
        convert_pickle(tmp_path / "m.pt", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


@pytest.mark.parametrize("keep", [0, 10, 300, -30])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, keep: int, zipped: bool) -> None:
    path = tmp_path / "m.bin"
    torch.save(weights(), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"m\.bin: (is no checkpoint|refused, nothing of it was run)") as told:
        convert_pickle(path, tmp_path / "out")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_what_is_not_there_or_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.bin: no such file"):
        convert_pickle(tmp_path / "none.bin", tmp_path / "out")
    with pytest.raises(CheckpointError, match="is a folder; name the file in it"):
        convert_pickle(tmp_path, tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("")
    torch.save(weights(), tmp_path / "m.bin")
    with pytest.raises(CheckpointError, match="exists already"):
        convert_pickle(tmp_path / "m.bin", tmp_path / "out")


def test_import_refuses_a_pickle_and_names_the_verb_that_makes_it_readable(huggingface, tmp_path: Path) -> None:
    """As a user goes: import, the command that its refusal prints, import."""
    folder = huggingface(make_decoder())
    _, expected, _ = read_huggingface(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="corestone convert") as told:
        import_huggingface(folder, tmp_path / "ours")
    command = str(told.value).split("corestone convert ")[1].split()
    app = typer.Typer()
    app.command()(convert)
    done = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "safe")])
    assert done.exit_code == 0, done.output
    assert "config.json, tokenizer.json" in done.output
    imported = import_huggingface(tmp_path / "safe", tmp_path / "ours")
    assert imported.parameters == sum(tensor.numel() for tensor in expected.values())
