"""A run that begins with the weights of another: what is taken, what is not, and that both are known ever after."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

from corestone.core.errors import CheckpointError
from corestone.core.spec import Spec, parse
from corestone.data.tokenizer import MANIFEST_FILE, TokenizerManifest, check_same, load_tokenizer
from corestone.models.picture_spec import Captioner, ImageEncoder, TwoTower
from corestone.nn.patches import resized_positions
from corestone.nn.spec import MeanPool
from corestone.recipes.spec import ModelFile, Start
from corestone.train.archive import PICTURES, identity, read_model_files

START = "start.json"
"""In each checkpoint of such a run: what it began with."""
HEAD = "head."
"""What the names of a head's tensors begin with: every model has its head under this name (`core.protocols.Model`)."""
POOL = "pool."
"""What the names of an image encoder's pool begin with. A captioner's own pools stand on each other and serve captions
and pairs, so another task gets one of its own."""
POSITIONS = "embedding.position.weight"
LISTED = 8
"""Names of tensors that a message lists."""


@dataclass(frozen=True)
class Beginning:
    """What a run began with.

    Attributes:
        identity: JSON: path, checkpoint (its folder's name) and weights (16 hex digits of their sha256).
        taken: how many tensors were taken as they are.
        interpolated: what was done to positions; "" where nothing was.
        why: why the head is not the start's; "" where it is.
        left_out: tensors of the start's head that were not taken.
        fresh: tensors of the model's own head, and of its pool behind a captioner's encoder, that begin by chance or at
            zero.
        others: how many tensors the start has besides those of its picture tower, where that alone is taken.
    """

    identity: Mapping[str, str]
    taken: int
    interpolated: str
    why: str
    left_out: Sequence[str]
    fresh: Sequence[str]
    others: int = 0

    def told(self) -> str:
        """In one line, with the name of everything that was not taken."""
        parts = [
            f"begins with {self.taken} tensors of {self.identity['path']} ({self.identity['checkpoint']}, weights "
            f"{self.identity['weights']})",
            f"of its picture tower alone ({self.others} others left out)" if self.others else "",
            self.interpolated,
        ]
        if self.why:
            parts.append(
                f"head not taken ({self.why}): left out {', '.join(self.left_out) or 'nothing'}; begun anew "
                f"{', '.join(self.fresh) or 'nothing'}"
            )
        return "; ".join(filter(None, parts))


@torch.no_grad()
def begin(start: Start, model: Spec, parameters: Mapping[str, Tensor], files: Mapping[str, str]) -> Beginning:
    """Copy the start's weights into a model's parameters and buffers, in place.

    Args:
        model: the record of the run's model.
        parameters: by name, as they begin by chance.
        files: what travels with the run's checkpoints, and must with the start's: tokenizer, classes of pictures.

    Raises:
        CheckpointError: no whole checkpoint, one for other data, or tensors that do not fit; all are named or counted.
        DataError: the start has another tokenizer.
    """
    found = read_model_files(Path(start.path).expanduser(), tuple(files))
    folder, tensors = found.tokenizer_folder, dict(found.tensors)
    record = parse(ModelFile, {"model": yaml.safe_load(found.model_yaml)}, f"{start.path}: model.yaml").model
    if MANIFEST_FILE in files:
        manifest = parse(TokenizerManifest, json.loads(files[MANIFEST_FILE]), MANIFEST_FILE)
        check_same(load_tokenizer(folder).manifest, manifest, f"start.path={start.path}")
    tensors, others, tower = _picture_part(tensors, record, model)
    interpolated = _interpolate(tensors, tower, model)
    why = "start.zero_head" if start.zero_head else _differs(parameters, tensors)
    if not why and PICTURES in files:
        why = _named_otherwise((folder / PICTURES).read_text(encoding="utf-8"), files[PICTURES])
    left_out, fresh = (sorted(_head(names)) if why else [] for names in (tensors, parameters))
    if isinstance(record, Captioner) and isinstance(model, ImageEncoder):
        fresh = sorted({*fresh, *(name for name in parameters if name.startswith(POOL))})
    wanted = {name: tensor for name, tensor in parameters.items() if name not in fresh}
    _refuse(wanted, {name: tensor for name, tensor in tensors.items() if name not in left_out}, start.path)
    for name, parameter in wanted.items():
        parameter.copy_(tensors[name])
    if start.zero_head:
        for name in ("head.weight", "head.bias"):
            parameters[name].zero_()
    told = {"path": start.path, "checkpoint": folder.name, "weights": identity(folder)[1]}
    return Beginning(told, len(wanted) - bool(interpolated), interpolated, why, left_out, fresh, others)


def check_start(now: Beginning, checkpoint: Path) -> None:
    """Refuse to go on where the start is no longer what the run began with. Raises CheckpointError."""
    try:
        begun = json.loads((checkpoint / START).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint / START}: cannot be read ({error}); go on from another checkpoint"
        ) from None
    if begun.get("weights") != now.identity["weights"]:
        raise CheckpointError(
            f"{checkpoint}: this run began with weights {begun.get('weights')} ({begun.get('checkpoint')}), and "
            f"start.path={now.identity['path']} now holds {now.identity['weights']} ({now.identity['checkpoint']}); "
            "put the old ones back, or begin another run with --run"
        )


def _head(names: Mapping[str, Tensor]) -> set[str]:
    return {name for name in names if name.startswith(HEAD)}


def _differs(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """How the two heads differ, in words; "" where they do not."""
    ours, theirs = ({name: tuple(found[name].shape) for name in _head(found)} for found in (parameters, tensors))
    if ours == theirs:
        return ""
    if not theirs:
        return "there is none there"
    rows = [shapes.get("head.weight", (0,))[0] for shapes in (theirs, ours)]
    if rows[0] != rows[1] and all(rows):
        return f"{rows[0]:,} classes there, {rows[1]:,} here"
    return "it is built otherwise there"


def _named_otherwise(theirs: str, ours: str) -> str:
    same = json.loads(theirs).get("classes") == json.loads(ours).get("classes")
    return "" if same else "other classes there"


def _picture_part(tensors: dict[str, Tensor], record: Spec, model: Spec) -> tuple[dict[str, Tensor], int, Spec]:
    """Of a start that reads texts too, the tensors of what sees pictures, under the names of a model that sees nothing
    else; how many others there are; and that tower's record (of a captioner's encoder, without a pool of its own)."""
    if not isinstance(model, ImageEncoder) or not isinstance(record, TwoTower | Captioner):
        return tensors, 0, record
    if isinstance(record, TwoTower):
        prefixes, tower = {"image_tower.": ""}, record.image
    else:
        prefixes = {"image_embedding.": "embedding.", "image_stack.": "stack."}
        tower = ImageEncoder(embedding=record.image_embedding, stack=record.image_stack, pool=MeanPool())
    found = {
        new + name.removeprefix(old): tensor
        for name, tensor in tensors.items()
        for old, new in prefixes.items()
        if name.startswith(old)
    }
    return found, len(tensors) - len(found), tower


def _interpolate(tensors: dict[str, Tensor], record: Spec, model: Spec) -> str:
    """Bring the positions of a ViT to the grid of the run's model, in place; what was done, in words."""
    if not isinstance(record, ImageEncoder) or not isinstance(model, ImageEncoder) or POSITIONS not in tensors:
        return ""
    old, new = record.embedding, model.embedding
    if new.position is None or old.class_token != new.class_token or old.grid == new.grid:
        return ""
    tensors[POSITIONS] = resized_positions(tensors[POSITIONS], old.grid, new.grid, old.class_token)
    return f"{POSITIONS} interpolated from {old.grid[0]}x{old.grid[1]} to {new.grid[0]}x{new.grid[1]} patches"


def _refuse(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], path: str) -> None:
    shared = sorted(wanted.keys() & given.keys())
    problems = {
        "missing": sorted(wanted.keys() - given.keys()),
        "left over": sorted(given.keys() - wanted.keys()),
        "of another shape": [name for name in shared if wanted[name].shape != given[name].shape],
    }
    if any(problems.values()):
        told = "; ".join(f"{what}: {_listed(names)}" for what, names in problems.items() if names)
        raise CheckpointError(
            f"start.path={path}: does not fit the model ({told}); make the model the start's but for head and "
            "resolution, or name another start"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
