"""Reading a Hugging Face folder's files. Nothing here loads a pickle (`corestone convert` does, when told to)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from corestone.core.errors import CheckpointError
from corestone.train.checkpoint import read_tensors

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "*.bin", "*.pt", "*.pth", "*.ckpt")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; CheckpointError names the file and the line of what is wrong."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(tree).__name__}")
    return tree


def read_weights(folder: Path, names: Sequence[str] = (WEIGHTS,)) -> dict[str, Tensor]:
    """All tensors of a folder, from one safetensors file or from the shards that its index lists.

    Args:
        names: what the one file may be called.

    Raises:
        CheckpointError: no safetensors (a pickle beside it is named, never opened), a missing or damaged file, or a
            shard that does not hold what the index says.
    """
    for name in names:
        if (folder / name).is_file():
            return read_tensors(folder / name)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    pickles = [path.name for pattern in PICKLES for path in sorted(folder.glob(pattern))]
    if pickles:
        raise CheckpointError(
            f"{folder}: holds only {pickles[0]}, a pickle, which is not loaded here; turn it into safetensors first: "
            f"corestone convert {folder / pickles[0]} --out DIR"
        )
    raise CheckpointError(f"{folder}: has no weights (looked for {', '.join(names)} and {INDEX})")


def _read_shards(folder: Path) -> dict[str, Tensor]:
    index = folder / INDEX
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index}: has no 'weight_map' from tensor names to file names")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"{index}: names the shard '{name}', which is not in the folder")
        shard = read_tensors(folder / name)
        listed = {tensor for tensor, place in places.items() if place == name}
        if shard.keys() != listed:
            odd = sorted(shard.keys() ^ listed)
            raise CheckpointError(f"{folder / name}: its tensors are not those that {INDEX} lists (first: '{odd[0]}')")
        tensors.update(shard)
    return tensors
