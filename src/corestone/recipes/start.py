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
from corestone.core.paths import expanded
from corestone.core.spec import Spec, parse
from corestone.data.tokenizer import MANIFEST_FILE, TokenizerManifest, check_same, load_tokenizer
from corestone.models.picture_spec import Captioner, CoAtNet, ConvNet, ImageEncoder, TwoTower
from corestone.nn.patches import resized_positions
from corestone.nn.position import resized_offsets
from corestone.nn.spec import MeanPool, PatchEmbedding
from corestone.recipes.spec import ModelFile, Start
from corestone.train.archive import PICTURES, identity, read_model_files

START = "start.json"
"""In each checkpoint of such a run: what it began with."""
HEAD = "head."
"""What the names of a head's tensors begin with: every model has its head under this name (`core.protocols.Model`)."""
TOWER = "image_tower."
"""What the names of a two-tower model's tensors begin with that are its image tower's."""
STEM = "stem."
"""What the names of a captioner's tensors begin with that are the convolutions in front of its patches."""
POOL = "pool."
"""What the names of an image encoder's pool begin with. A captioner's own pools stand on each other and serve captions
and pairs, so another task gets one of its own."""
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
            zero; of a two-tower model that takes its image tower alone, the other parts.
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
    path = expanded(start.path)
    if not path.exists():
        raise CheckpointError(
            f"start.path={start.path}: no such folder; first train the run that this one begins with, or name its "
            "folder by start.path=FOLDER"
        )
    found = read_model_files(path, (PICTURES,) if PICTURES in files else tuple(files))
    folder, tensors = found.tokenizer_folder, dict(found.tensors)
    record = parse(ModelFile, {"model": yaml.safe_load(found.model_yaml)}, f"{start.path}: model.yaml").model
    if isinstance(model, TwoTower) and isinstance(record, ImageEncoder | CoAtNet | ConvNet):
        return _tower(start, model, record, parameters, folder, tensors)
    if isinstance(model, Captioner) and model.stem is not None and isinstance(record, TwoTower | ConvNet):
        return _stem(start, record, parameters, folder, tensors)
    if MANIFEST_FILE in files:
        if not (folder / MANIFEST_FILE).is_file():
            raise CheckpointError(f"{folder}: holds no {MANIFEST_FILE}, and this run reads text; name another start")
        manifest = parse(TokenizerManifest, json.loads(files[MANIFEST_FILE]), MANIFEST_FILE)
        check_same(load_tokenizer(folder).manifest, manifest, f"start.path={start.path}")
    if PICTURES in files:
        _refuse_other_rows((folder / PICTURES).read_text(encoding="utf-8"), files[PICTURES], start.path)
    tensors, others, tower = _picture_part(tensors, record, model)
    changed, interpolated = _interpolate(tensors, tower, model)
    why = "start.zero_head" if start.zero_head else _differs(parameters, tensors)
    if not why and PICTURES in files:
        why = _named_otherwise((folder / PICTURES).read_text(encoding="utf-8"), files[PICTURES])
    left_out, fresh = (sorted(_head(names)) if why else [] for names in (tensors, parameters))
    if isinstance(record, Captioner) and isinstance(model, ImageEncoder):
        fresh = sorted({*fresh, *(name for name in parameters if name.startswith(POOL))})
    wanted = {name: tensor for name, tensor in parameters.items() if name not in fresh}
    _take(wanted, {name: tensor for name, tensor in tensors.items() if name not in left_out}, start.path)
    if start.zero_head:
        for name in ("head.weight", "head.bias"):
            parameters[name].zero_()
    return Beginning(_named(start, folder), len(wanted) - changed, interpolated, why, left_out, fresh, others)


def _tower(
    start: Start,
    model: TwoTower,
    record: ImageEncoder | CoAtNet | ConvNet,
    parameters: Mapping[str, Tensor],
    folder: Path,
    tensors: dict[str, Tensor],
) -> Beginning:
    """Copy a model of pictures, without its head, into the image tower (Pham et al. 2021)."""
    changed, interpolated = _interpolate(tensors, record, model.image)
    left_out = sorted(_head(tensors))
    wanted = {name: tensor for name, tensor in parameters.items() if name.startswith(TOWER)}
    _take(wanted, {TOWER + name: tensor for name, tensor in tensors.items() if name not in left_out}, start.path)
    fresh = sorted({name.split(".")[0] + ".*" for name in parameters.keys() - wanted.keys()})
    return Beginning(
        _named(start, folder), len(wanted) - changed, interpolated, "an image tower has none", left_out, fresh
    )


def _stem(
    start: Start,
    record: TwoTower | ConvNet,
    parameters: Mapping[str, Tensor],
    folder: Path,
    tensors: Mapping[str, Tensor],
) -> Beginning:
    """Copy a convolutional network, or the image tower of a two-tower model, in front of a captioner's patches."""
    tower = TOWER if isinstance(record, TwoTower) else ""
    left_out = sorted(_head(tensors))
    found = {
        STEM + name.removeprefix(tower): tensor
        for name, tensor in tensors.items()
        if name.startswith(tower) and name not in left_out
    }
    wanted = {name: tensor for name, tensor in parameters.items() if name.startswith(STEM)}
    _take(wanted, found, start.path)
    fresh = sorted({name.split(".")[0] + ".*" for name in parameters.keys() - wanted.keys()})
    others = len(tensors) - len(found) - len(left_out)
    return Beginning(_named(start, folder), len(wanted), "", "a stem has none", left_out, fresh, others)


def _named(start: Start, folder: Path) -> dict[str, str]:
    return {"path": start.path, "checkpoint": folder.name, "weights": identity(folder)[1]}


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


def _refuse_other_rows(theirs: str, ours: str, path: str) -> None:
    """CheckpointError where captions became rows in another way there. Checkpoints of before say nothing of it."""
    there, here = (json.loads(text).get("rows") for text in (theirs, ours))
    if there is not None and here is not None and there != here:
        told = ", ".join(f"data.rows.{name}={json.dumps(value)}" for name, value in there.items())
        raise CheckpointError(f"start.path={path}: reads captions in rows of another kind; set {told}")


def _picture_part(tensors: dict[str, Tensor], record: Spec, model: Spec) -> tuple[dict[str, Tensor], int, Spec]:
    """Of a start that reads texts too, the tensors of what sees pictures, under the names of a model that sees nothing
    else; how many others there are; and that tower's record (of a captioner's encoder, without a pool of its own)."""
    if not isinstance(model, ImageEncoder | CoAtNet | ConvNet) or not isinstance(record, TwoTower | Captioner):
        return tensors, 0, record
    prefixes: dict[str, str] = {TOWER: ""}
    tower: Spec
    if isinstance(record, TwoTower):
        tower = record.image
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


def _interpolate(tensors: dict[str, Tensor], old: Spec, new: Spec, prefix: str = "") -> tuple[int, str]:
    """Bring learned positions to the size of the run's pictures, in place.

    Args:
        old, new: the start's record, and the run's.
        prefix: what their tensors' names begin with.

    Returns:
        How many tensors were changed, and that in words.
    """
    if isinstance(old, TwoTower) and isinstance(new, TwoTower):
        return _interpolate(tensors, old.image, new.image, TOWER)
    if isinstance(old, ImageEncoder) and isinstance(new, ImageEncoder):
        return _patches(tensors, old.embedding, new.embedding, f"{prefix}embedding.position.weight")
    if isinstance(old, Captioner) and isinstance(new, Captioner):
        return _patches(tensors, old.cut, new.cut, "image_embedding.position.weight")
    if isinstance(old, CoAtNet) and isinstance(new, CoAtNet):
        return _offsets(tensors, old, new, prefix)
    return 0, ""


def _patches(tensors: dict[str, Tensor], old: PatchEmbedding, new: PatchEmbedding, name: str) -> tuple[int, str]:
    """The positions of a grid of patches."""
    if name not in tensors or new.position is None or old.class_token != new.class_token or old.grid == new.grid:
        return 0, ""
    tensors[name] = resized_positions(tensors[name], old.grid, new.grid, old.class_token)
    return 1, f"{name} interpolated from {_size(old.grid)} to {_size(new.grid)} patches"


def _offsets(tensors: dict[str, Tensor], old: CoAtNet, new: CoAtNet, prefix: str) -> tuple[int, str]:
    """The tables of offsets on a CoAtNet's maps."""
    changed, told = 0, []
    for stage, (before, after) in enumerate(zip(old.maps, new.maps, strict=False)):
        start = f"{prefix}stages.{stage}."
        names = [name for name in tensors if name.startswith(start) and name.endswith(".mixer.position.weight")]
        if before != after and names:
            tensors.update({name: resized_offsets(tensors[name], before, after) for name in names})
            changed += len(names)
            told.append(f"{len(names)} tables of offsets of {start[:-1]} from {_size(before)} to {_size(after)} places")
    return changed, f"interpolated {', '.join(told)}" if told else ""


def _size(grid: tuple[int, int]) -> str:
    return f"{grid[0]}x{grid[1]}"


def _take(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], path: str) -> None:
    """Copy what is given into what is wanted; CheckpointError where they are not the same names and shapes."""
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
    for name, parameter in wanted.items():
        parameter.copy_(given[name])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
