"""A pickled torch checkpoint becomes safetensors: the one place that opens a pickle, and only when told to.

A pickle is a program. Here it is run by torch's restricted interpreter (`weights_only=True`), which builds tensors and
plain containers and refuses all else before it runs; what it refused is named.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from corestone.core.errors import CheckpointError
from corestone.interop.files import INDEX, WEIGHTS, read_json
from corestone.interop.incoming import refuse_existing

STATE_KEYS = ("state_dict", "model_state_dict", "model", "module")
"""Under which trainers keep a model's tensors, the likeliest first."""

BESIDE = ("*.json", "*.txt", "*.model")
"""Files beside the weights that describe the model and its tokenizer; they are copied."""


@dataclass
class Converted:
    """What was written where.

    Attributes:
        tensors: how many.
        parameters: values in all tensors.
        inside: the key under which the tensors were found, dots between levels; empty: at the top.
        left_out: entries that are no tensors of the model, as `name (type)`.
        shared: names that stood for the same memory; each is written in full.
        copied: files copied from beside the weights.
    """

    folder: Path
    tensors: int = 0
    parameters: int = 0
    inside: str = ""
    left_out: list[str] = field(default_factory=list)
    shared: list[tuple[str, ...]] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)


def convert_pickle(source: Path, out: Path) -> Converted:
    """Write the tensors of a pickled checkpoint as safetensors, with the files that lie beside it.

    Args:
        source: a file that `torch.save` wrote, or the index (`pytorch_model.bin.index.json`) of several.
        out: the folder to make; it appears whole or not at all.

    Raises:
        CheckpointError: no such file, no pickle of tensors, contents that are refused (each is named), tensors that
            safetensors cannot hold, shards that are not what the index says, `out` exists, or the disk is full.
    """
    out = refuse_existing(out)
    if not source.is_file():
        what = "is a folder; name the file in it that holds the weights" if source.is_dir() else "no such file"
        raise CheckpointError(f"{source}: {what}")
    done = Converted(out)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        if source.name.endswith(".index.json"):
            _convert_shards(source, partial, done)
        else:
            _write(_tensors_of(source, done), partial / WEIGHTS, done)
        for path in _beside(source):
            shutil.copyfile(path, partial / path.name)
            done.copied.append(path.name)
        os.rename(partial, out)
    except OSError as error:
        cause = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise CheckpointError(f"{out}: could not be written ({cause})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return done


def _convert_shards(index: Path, partial: Path, done: Converted) -> None:
    """One shard after the other, each under its own number, and their index."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index}: has no 'weight_map' from tensor names to file names")
    shards = sorted(set(places.values()))
    renamed = {name: f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n, name in enumerate(shards, 1)}
    size = 0
    for name in shards:
        path = index.parent / name
        if Path(name).name != name or not path.is_file():
            raise CheckpointError(f"{index}: names the shard '{name}', which is not in the folder")
        tensors = _tensors_of(path, done)
        listed = {tensor for tensor, place in places.items() if place == name}
        if tensors.keys() != listed:
            odd = sorted(tensors.keys() ^ listed)
            raise CheckpointError(f"{path}: its tensors are not those that {index.name} lists (first: '{odd[0]}')")
        size += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        _write(tensors, partial / renamed[name], done)
    tree = {"metadata": {"total_size": size}, "weight_map": {name: renamed[place] for name, place in places.items()}}
    (partial / INDEX).write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def _tensors_of(path: Path, done: Converted) -> dict[str, Tensor]:
    """The model's tensors of one file; what else it holds is noted in `done`."""
    tree = _load(path)
    inside: list[str] = []
    while isinstance(tree, Mapping) and not any(isinstance(value, Tensor) for value in tree.values()):
        key = next((key for key in STATE_KEYS if isinstance(tree.get(key), Mapping)), None)
        if key is None:
            break
        _leave_out({name: value for name, value in tree.items() if name != key}, inside, done)
        inside.append(key)
        tree = tree[key]
    if not isinstance(tree, Mapping):
        raise CheckpointError(f"{path}: holds {_type(tree)}, not tensors by name; save model.state_dict() instead")
    done.inside = ".".join(inside)
    tensors = {str(name): value.detach() for name, value in tree.items() if isinstance(value, Tensor)}
    _leave_out({name: value for name, value in tree.items() if not isinstance(value, Tensor)}, inside, done)
    if not tensors:
        raise CheckpointError(
            f"{path}: no tensors by name, neither at the top nor under {', '.join(STATE_KEYS)} (it holds "
            f"{', '.join(done.left_out[:8]) or 'nothing'}); save model.state_dict() instead"
        )
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            kind = "quantized" if tensor.is_quantized else str(tensor.layout if tensor.is_cpu else tensor.device)
            raise CheckpointError(
                f"{path}: tensor '{name}' is {kind.removeprefix('torch.')}; make it dense and save again"
            )
    return tensors


def _load(path: Path) -> Any:
    """What the restricted interpreter makes of a file; large ones are mapped, not read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it will refuse anyway
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged or hostile pickle may end in any error
        refused = _refused(path, str(error))
        if refused:
            raise CheckpointError(
                f"{path}: refused, nothing of it was run: it asks for {', '.join(refused)}, and only tensors and plain "
                "containers are taken; where it comes from a source you trust, save model.state_dict() alone there"
            ) from None
        raise CheckpointError(
            f"{path}: is no checkpoint that torch can read safely ({_reason(error)}); take another copy of it, or "
            "write it with torch.save(model.state_dict(), ...)"
        ) from None


def _refused(path: Path, message: str) -> list[str]:
    """The functions and classes that a file asks for and the restricted interpreter does not know."""
    found = set(re.findall(r"GLOBAL (\S+)", message))
    with suppress(Exception):  # not of the newer format, or damaged: the message says what there is to say
        found |= set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    return sorted(found)


def _reason(error: Exception) -> str:
    """What was wrong, without the library's advice to load everything."""
    told = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    return told[0].strip() if told else type(error).__name__


def _leave_out(entries: Mapping[Any, Any], inside: list[str], done: Converted) -> None:
    done.left_out += [f"{'.'.join([*inside, str(name)])} ({_type(value)})" for name, value in entries.items()]


def _type(value: Any) -> str:
    return type(value).__name__


def _write(tensors: dict[str, Tensor], path: Path, done: Converted) -> None:
    """Write a file and read it back: the same bits under the same names."""
    done.tensors += len(tensors)
    done.parameters += sum(tensor.numel() for tensor in tensors.values())
    done.shared += _shared(tensors)
    try:
        # Shared and strided memory is written out; older readers want to be told whose tensors these are.
        whole = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        save_file(whole, path, metadata={"format": "pt"})
    except KeyError as error:  # a type that it has no name for
        raise CheckpointError(f"safetensors cannot hold tensors of type {error}; save them in another type") from None
    except SafetensorError as error:  # its I/O errors do not derive from OSError
        raise OSError(errno.ENOSPC if "space" in str(error).lower() else errno.EIO, str(error)) from None
    again = load_file(path)
    if again.keys() != tensors.keys() or not all(_same_bits(again[name], tensor) for name, tensor in whole.items()):
        raise CheckpointError(f"{path.name}: what was written is not what was read; try another disk")


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal in type, shape and every bit, of values that are no numbers too."""
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
    )


def _shared(tensors: Mapping[str, Tensor]) -> list[tuple[str, ...]]:
    """Groups of names whose tensors lie in the same memory."""
    groups: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            groups.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    return [tuple(sorted(names)) for names in groups.values() if len(names) > 1]


def _beside(source: Path) -> Iterator[Path]:
    """The files that belong to the model, indices of weights aside."""
    for pattern in BESIDE:
        for path in sorted(source.parent.glob(pattern)):
            if path.is_file() and not path.name.endswith(".index.json"):
                yield path
