"""Does a model of pictures and texts compute the same in another library's hands? From uint8 pixels and text strings to
logits.

Shape letters: B pictures, C channels, H height, W width, K texts, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corestone.core.batch import ImageBatch
from corestone.data.images.augment import evaluation_picture, normalise
from corestone.data.images.caption_rows import caption_batch
from corestone.data.tokenizer import Tokenizer
from corestone.interop.agreement import cannot_load, check_loading, quiet
from corestone.interop.paired import PairFormat, PairTold
from corestone.interop.picture_agreement import Seen, as_pillow, compare
from corestone.interop.pictured import Pixels

TEXTS = (
    "a photo of a cat",
    "",
    "Größe, naïve, 北京, 🙂: letters of more than one byte (1234567890)!",
    "Two dogs. " * 200,  # longer than any context
)
"""Texts that no library cleans: single blanks, none at an end."""


def texts_seen() -> list[str]:
    """The texts that every check uses."""
    return [text.strip() for text in TEXTS]


def own_pair_logits(model: Any, told: PairTold, tokenizer: Tokenizer) -> Callable[[Tensor], Tensor]:
    """What one of our models says (B, K) of pictures (B, C, H, W) and the texts, in the pictures' precision."""
    batch = caption_batch([tokenizer.encode(text) for text in texts_seen()], told.rows, told.context_length)

    @torch.no_grad()
    def compute(pixels_BCHW: Tensor) -> Tensor:
        cast, dtype = model.to(pixels_BCHW.dtype), pixels_BCHW.dtype
        cosines_BK = cast.image(ImageBatch(pixels_BCHW)).to(dtype) @ cast.text(batch).to(dtype).T
        scaled_BK: Tensor = cast.log_scale.to(dtype).exp() * cosines_BK
        return scaled_BK if cast.bias is None else scaled_BK + cast.bias.to(dtype)

    return compute


def ours_of_pairs(model: Any, told: PairTold, tokenizer: Tokenizer, pictures: Sequence[Pixels]) -> Seen:
    """What one of our models makes of pictures and the texts, by the run's own evaluation."""
    seen = told.augmentation
    pixels = torch.stack([normalise(seen, evaluation_picture(seen, picture)) for picture in pictures])
    return Seen(pixels.double(), own_pair_logits(model, told, tokenizer))


def check_pair_library(
    kind: PairFormat, folder: Path, mine: Seen, told: PairTold, pictures: Sequence[Pixels], where: str
) -> list[str]:
    """Load an exported folder with its library and compare; where it is not installed, one line that says so."""
    check = _check_open_clip if kind.library == "open_clip" else _check_transformers
    return check(kind, folder, mine, told, pictures, where)


def _check_transformers(
    kind: PairFormat, folder: Path, mine: Seen, told: PairTold, pictures: Sequence[Pixels], where: str
) -> list[str]:
    try:
        import transformers
    except ImportError:
        return ["transformers: not checked, the library is not installed (pip install 'corestone[hf]')"]
    seen = told.augmentation
    with quiet(transformers):
        try:
            model, loading = getattr(transformers, kind.architecture).from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
            processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
            given = [as_pillow(picture, seen.channels) for picture in pictures]
            images = [processor(images=one, return_tensors="pt")["pixel_values"] for one in given]
            texts = processor(text=texts_seen(), padding="max_length", truncation=True, return_tensors="pt")
        except Exception as error:  # the library's errors have no base of their own
            raise cannot_load("transformers", error, where) from None
    check_loading(loading, where)
    model.eval()

    @torch.no_grad()
    def logits(pixels_BCHW: Tensor) -> Tensor:
        found: Tensor = model.to(pixels_BCHW.dtype)(pixel_values=pixels_BCHW, **texts).logits_per_image
        return found

    name = f"transformers {transformers.__version__} ({type(model).__name__}, {type(processor).__name__})"
    return compare(name, mine, Seen(torch.cat(images).double(), logits), seen, where)


def _check_open_clip(
    kind: PairFormat, folder: Path, mine: Seen, told: PairTold, pictures: Sequence[Pixels], where: str
) -> list[str]:
    try:
        import open_clip
        import transformers  # its tokenizers are that library's
    except ImportError:
        return ["open_clip: not checked, the library is not installed (pip install open_clip_torch transformers)"]
    with quiet(transformers):
        try:
            model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
            tokens_KT = open_clip.get_tokenizer(f"local-dir:{folder}")(texts_seen())
            images = torch.stack([transform(as_pillow(picture, told.augmentation.channels)) for picture in pictures])
        except Exception as error:  # the library's errors have no base of their own
            raise cannot_load("open_clip", error, where) from None
    model.eval()

    @torch.no_grad()
    def logits(pixels_BCHW: Tensor) -> Tensor:
        found: Tensor = model.to(pixels_BCHW.dtype).get_logits(pixels_BCHW, tokens_KT)[0]
        return found

    name = f"open_clip {open_clip.__version__} ({type(model).__name__})"
    return compare(name, mine, Seen(images.double(), logits), told.augmentation, where)
