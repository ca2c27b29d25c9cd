"""What the formats of picture classifiers have in common: one record per model class of another library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from corestone.core.errors import CheckpointError, SpecError
from corestone.core.spec import parse
from corestone.data.images.augment_spec import Augmentation, CenterCrop, FixedStep, Resize
from corestone.interop.family import Tree
from corestone.models.picture_spec import CoAtNet, ImageEncoder

Pictured = ImageEncoder | CoAtNet
"""The shapes of computation that other libraries have as picture classifiers."""

Pixels = NDArray[np.uint8]
"""(H, W, C)."""

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"

INTERPOLATIONS: tuple[str, ...] = get_args(Resize.model_fields["interpolation"].annotation)
"""Those of a Resize; of no other is there a word here."""


@dataclass(frozen=True)
class Told:
    """What a folder says of its model.

    Attributes:
        classes: their names, in the order of the logits.
        augmentation: how a picture becomes what the model sees; of the steps of training a folder says nothing.
        notes: what it says that is not taken over.
    """

    spec: Pictured
    classes: tuple[str, ...]
    augmentation: Augmentation
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Format:
    """A model class of another library and how its folders say what a record and an augmentation say.

    Attributes:
        library: its name, on the command line too.
        architecture: the class.
        record: the shape of computation that it is here.
        loading: the calls that load an exported folder, as users write them.
        files: the JSON files of a folder, by name, given record, class names and augmentation.
        read: what those files say, given the folder's name for errors.
        to_theirs, to_ours: the weights under their names, and back.
        pixels: what the library documents to do to a picture, from the same files: float64 (C, H, W).
        lost: what of an augmentation the library does otherwise for some pictures, as notes; CheckpointError where it
            cannot do it.
        said: the augmentation that an exported folder tells.
    """

    library: str
    architecture: str
    record: type[Pictured]
    loading: str
    files: Callable[[Any, Sequence[str], Augmentation], dict[str, Tree]]
    read: Callable[[Mapping[str, Tree], Path], Told]
    to_theirs: Callable[[Any, Mapping[str, Tensor]], dict[str, Tensor]]
    to_ours: Callable[[Any, Mapping[str, Tensor], str], dict[str, Tensor]]
    pixels: Callable[[Mapping[str, Tree], Pixels], Tensor]
    lost: Callable[[Augmentation, str], list[str]]
    said: Callable[[Augmentation], Augmentation]


def size_of(config: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    """A setting that must be a positive whole number; CheckpointError names it."""
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{where}: '{key}' must be a positive whole number (got {value!r})")
    return value


def pair_of(config: Mapping[str, Any], key: str, where: str, default: int | None = None) -> tuple[int, int]:
    """A height and a width, which may be told as one number."""
    value = config.get(key, default)
    height, width = value if isinstance(value, list) and len(value) == 2 else (value, value)
    told = {"height": height, "width": width}
    try:
        return size_of(told, "height", where), size_of(told, "width", where)
    except CheckpointError:
        raise CheckpointError(
            f"{where}: '{key}' must be a positive whole number or two of them (got {value!r})"
        ) from None


def square(size: tuple[int, int]) -> int | list[int]:
    """One number where height and width are the same."""
    return size[0] if size[0] == size[1] else list(size)


def refuse_others(config: Mapping[str, Any], only: Mapping[str, tuple[Any, ...]], where: str) -> None:
    """CheckpointError where a setting has a value that cannot be expressed here."""
    for key, allowed in only.items():
        if key in config and config[key] not in allowed:
            raise CheckpointError(
                f"{where}: {key}={config[key]!r} cannot be expressed here (only {key}={allowed[0]!r} can)"
            )


def one_of(told: Any, key: str, words: Mapping[str, tuple[str, ...]], where: str) -> str:
    """Our word for one of theirs."""
    for ours, theirs in words.items():
        if told in theirs:
            return ours
    known = ", ".join(name for theirs in words.values() for name in theirs)
    raise CheckpointError(f"{where}: {key}={told!r} cannot be expressed here; known: {known}")


def heads_fit(width: int, heads: int, keys: tuple[str, str], where: str) -> None:
    """CheckpointError where heads do not share a width evenly."""
    if width % heads:
        raise CheckpointError(f"{where}: {keys[0]}={width} is no multiple of {keys[1]}={heads}")


def share_of(config: Mapping[str, Any], key: str, where: str, default: float = 0.0) -> float:
    """A setting that must be a number."""
    value = config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CheckpointError(f"{where}: '{key}' must be a number (got {value!r})")
    return float(value)


def names_of(value: Any, key: str, where: str) -> tuple[str, ...]:
    """A list of class names."""
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise CheckpointError(f"{where}: '{key}' must be a list of names (got {str(value)[:60]})")
    return tuple(value)


def stack_of(
    width: int, heads: int, depth: int, norm: Tree, feedforward: Tree, mixer: Tree | None = None, dropout: float = 0.0
) -> Tree:
    """A stack of blocks that are alike, a norm at its end, as a tree: what a Vision Transformer is in every library.

    Args:
        norm: of the blocks, and the one at the end.
        mixer: of the attention beside its heads.
        dropout: of the branches.
    """
    attention = {"kind": "attention", "num_heads": heads, "head_dim": width // heads, **(mixer or {})}
    block = {"norm": norm, "mixer": attention, "feedforward": feedforward, "dropout": dropout}
    return {"width": width, "blocks": [block] * depth, "final_norm": norm}


def augmentation_of(size: tuple[int, int], channels: int, tree: Tree, where: str) -> Augmentation:
    """An augmentation for a model's pictures from the scale of values and the steps of evaluation that a folder
    tells."""
    if channels not in (1, 3):
        raise CheckpointError(f"{where}: pictures of {channels} channels cannot be read here, only of 1 or 3")
    for key in ("mean", "std"):
        values = tree[key]
        if not isinstance(values, list) or not all(isinstance(one, int | float) for one in values):
            raise CheckpointError(f"{where}: the {key} of the pixels must be one number per channel (got {values!r})")
    try:
        return parse(Augmentation, {"size": size, "channels": channels, **tree}, where)
    except SpecError as error:
        raise CheckpointError(str(error)) from None


def of_evaluation(seen: Augmentation) -> Augmentation:
    """An augmentation without what it does in training."""
    return seen.model_copy(update={"steps": (), "mix": ()})


def crops(steps: Iterable[FixedStep]) -> bool:
    """Whether a crop is among the steps of evaluation."""
    return any(isinstance(step, CenterCrop) for step in steps)


def resize_of(seen: Augmentation) -> Resize | None:
    """The resize of evaluation, if there is one."""
    return next((step for step in seen.evaluation if isinstance(step, Resize)), None)


def refuse_order(seen: Augmentation, library: str, where: str) -> None:
    """CheckpointError where evaluation is more than at most a resize and then at most a crop."""
    kinds = [step.kind for step in seen.evaluation]
    if kinds not in ([], ["resize"], ["center_crop"], ["resize", "center_crop"]):
        raise CheckpointError(
            f"{where}: refused, nothing was written: {library} can resize once and then cut out the middle, and "
            f"data.augmentation.evaluation is {', '.join(kinds)}"
        )


def grey_note(seen: Augmentation, library: str) -> list[str]:
    """What must be known of models that see grey pictures."""
    grey = f"the model sees grey pictures, and {library} does not turn coloured ones grey: give it grey ones"
    return [grey] if seen.channels == 1 else []
