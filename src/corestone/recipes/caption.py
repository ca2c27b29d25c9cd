"""Captions of picture files by a trained captioner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from corestone.core.errors import CheckpointError, SpecError
from corestone.core.rng import fold
from corestone.generate.quantize import weight_only_int8
from corestone.generate.spec import Sampling
from corestone.generate.text import caption_text
from corestone.models.captioner import CaptionerModel
from corestone.parallel.precision import Precision, decoding_dtype
from corestone.recipes.picture_model import load_picture_model, picture_batch

AT_ONCE = 64
"""Pictures whose captions are written together."""


def captions(
    path: Path,
    files: Sequence[Path],
    sampling: Sampling,
    precision: Precision | Literal["int8"] = "auto",
    as_long_as_trained: bool = True,
) -> Iterator[tuple[Path, str]]:
    """Yield each file with its caption, as soon as some are written.

    Args:
        precision: auto, bfloat16, float32, or int8 (weights alone).
        as_long_as_trained: a caption may have as many tokens as in training, whatever `sampling` says.

    Raises:
        SpecError: the model writes no captions, or not such long ones. DataError: a file that is no readable picture;
            those before it may have been captioned.
    """
    pictured = load_picture_model(path, "float32" if precision == "int8" else precision, decoding_dtype)
    if not isinstance(pictured.model, CaptionerModel):
        raise SpecError(f"caption: needs a model of kind captioner, and that of {path} is {pictured.kind}")
    if pictured.tokenizer is None:
        raise CheckpointError(f"{path}: holds no tokenizer, without which its model writes no text")
    model = weight_only_int8(pictured.model) if precision == "int8" else pictured.model
    if as_long_as_trained:
        sampling = sampling.model_copy(update={"max_tokens": pictured.longest_caption()})
    device = next(iter(pictured.model.parameters())).device
    for first in range(0, len(files), AT_ONCE):
        some = files[first : first + AT_ONCE]
        drawn = sampling.model_copy(update={"seed": fold(sampling.seed, "captions", first)}) if first else sampling
        batch = picture_batch(some, pictured.augmentation).to(device)
        yield from zip(some, caption_text(model, pictured.tokenizer, batch, drawn), strict=True)
