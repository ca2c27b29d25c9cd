"""Models that see pictures, read back with all that a picture needs before they see it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from corestone.core.batch import ImageBatch, TextBatch
from corestone.core.errors import CheckpointError, DataError
from corestone.core.spec import Spec, parse
from corestone.data.files import missing
from corestone.data.images.augment import colours, evaluation_picture
from corestone.data.images.augment_spec import Augmentation, Resize
from corestone.data.images.caption_rows import caption_batch, caption_rows, longest_of
from corestone.data.images.decode import Rules, decode
from corestone.data.images.spec import CaptionRows, PrepareImages
from corestone.data.tokenizer import Tokenizer, load_tokenizer
from corestone.models.captioner import CaptionerModel
from corestone.models.two_tower import TwoTowerModel
from corestone.parallel.collectives import join_world
from corestone.parallel.precision import Precision, compute_dtype
from corestone.recipes.build import build_model, kept_buffers, load_weights, read_model_spec
from corestone.train.archive import PICTURES, TOKENIZER_FILES, read_model_files


class Seen(Spec):
    """A checkpoint's `pictures.json`.

    Attributes:
        classes: what a classifier names.
        context_length: the most tokens of a caption, where the model reads some.
        rows: what stands around a caption; None: what the vocabulary says.
    """

    classes: tuple[str, ...] = ()
    augmentation: Augmentation
    context_length: int | None = None
    rows: CaptionRows | None = None


@dataclass(frozen=True)
class PictureModel:
    """A model in evaluation mode, what it saw, and the tokenizer of its captions where it has one."""

    path: Path
    model: Any
    seen: Seen
    tokenizer: Tokenizer | None

    @property
    def kind(self) -> str:
        """Of its record."""
        return str(self.model.spec.model_dump()["kind"])

    @property
    def augmentation(self) -> Augmentation:
        """How any picture becomes what the model sees: the checkpoint's steps of evaluation. Where it has none, as all
        its pictures were of one size, others are resized to that."""
        own = self.seen.augmentation
        return own if own.evaluation else own.model_copy(update={"evaluation": (Resize(),)})

    @property
    def context_length(self) -> int:
        """The most tokens of a caption."""
        return self.seen.context_length or int(self.model.context_length)

    def longest_caption(self) -> int:
        """The most ids of a caption of which nothing is cut off. `tokenizer` must not be None."""
        return longest_of(self._rows(), self.context_length)

    def _rows(self) -> CaptionRows:
        assert self.tokenizer is not None
        return caption_rows(self.seen.rows, self.tokenizer.vocabulary)

    def captions(self, ids: Sequence[Sequence[int]]) -> TextBatch:
        """Captions' tokens as the rows that the model reads, where it is. `tokenizer` must not be None."""
        assert self.tokenizer is not None
        return caption_batch(ids, self._rows(), self.context_length).to(next(iter(self.model.parameters())).device)


def load_picture_model(
    path: Path, precision: Precision = "auto", suited: Callable[[Precision, torch.device], torch.dtype] = compute_dtype
) -> PictureModel:
    """The model of a run's newest whole checkpoint, or of a checkpoint, that reads pictures.

    Args:
        suited: chooses the format: `compute_dtype` for whole rows, `decoding_dtype` for token after token.

    Raises:
        CheckpointError: no whole checkpoint, or of a model that reads text.
    """
    world = join_world()
    text, tensors, folder = read_model_files(path, (PICTURES,))
    model = build_model(read_model_spec(text, f"{path}: model.yaml"), 0, world.device)
    load_weights({**dict(model.named_parameters()), **kept_buffers(model)}, tensors, str(path))
    try:
        told = json.loads((folder / PICTURES).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{folder / PICTURES}: no JSON ({error}); use another checkpoint") from None
    reads = isinstance(model, TwoTowerModel | CaptionerModel) and all(
        (folder / name).is_file() for name in TOKENIZER_FILES
    )
    return PictureModel(
        path,
        model.to(suited(precision, world.device)).eval(),
        parse(Seen, told, str(folder / PICTURES)),
        load_tokenizer(folder) if reads else None,
    )


def picture_batch(files: Sequence[Path], seen: Augmentation) -> ImageBatch:
    """Picture files as a model sees them, without chance.

    Raises:
        DataError: a file that is missing or no picture that can be read; by name.
    """
    rules, rows = Rules(channels=seen.channels, max_pixels=PrepareImages().max_pixels), []
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: is a folder; give picture files" if file.is_dir() else missing(file))
        done = decode(file.read_bytes(), rules)
        if isinstance(done, str):
            raise DataError(f"{file}: {done}; give a picture that can be read")
        rows.append(evaluation_picture(seen, done.pixels))
    return ImageBatch(torch.stack(rows), colours=colours(seen))
