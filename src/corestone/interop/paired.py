"""What the formats of models of pictures and texts have in common: one record per model class of another library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from corestone.data.images.augment_spec import Augmentation
from corestone.data.images.spec import CaptionRows
from corestone.interop.family import Tree
from corestone.interop.pair_tokenizer import Template
from corestone.interop.pictured import Pixels
from corestone.interop.two_tower import NamedTowers
from corestone.models.picture_spec import TwoTower


@dataclass(frozen=True)
class PairTold:
    """What a folder says of its model of pictures and texts.

    Attributes:
        augmentation: how a picture becomes what the model sees; of the steps of training a folder says nothing.
        rows: how a text's ids become what the model reads,
        context_length: and how many they may be, what stands around them included.
        notes: what it says that is not taken over.
    """

    spec: TwoTower
    augmentation: Augmentation
    rows: CaptionRows
    context_length: int
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PairFormat:
    """A model class of another library and how its folders say what our records say.

    Attributes:
        library: its name, on the command line too.
        architecture: the class.
        config: the file that says what the model is,
        weights: and the names that the one of its tensors may have, the first of which is written.
        loading: the calls that load an exported folder, as users write them.
        names: the table of its tensors, given the record.
        files: the JSON files of a folder but the tokenizer's, by name.
        read: what those files say, given the folder's name for errors and what its tokenizer puts around a text.
        pixels: what the library documents to do to a picture, from the same files: float64 (C, H, W).
        lost: what of an augmentation and of texts the library does otherwise for some, as notes; CheckpointError where
            it cannot do it.
        said: the augmentation that an exported folder tells.
        inputs: what the tokenizer gives the model, as `transformers` names it.
    """

    library: str
    architecture: str
    config: str
    weights: tuple[str, ...]
    loading: str
    names: Callable[[TwoTower], NamedTowers]
    files: Callable[[PairTold], dict[str, Tree]]
    read: Callable[[Mapping[str, Tree], Path, Template], PairTold]
    pixels: Callable[[Mapping[str, Tree], Pixels], Tensor]
    lost: Callable[[PairTold, str], list[str]]
    said: Callable[[Augmentation], Augmentation]
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
