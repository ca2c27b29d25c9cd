"""Batches of pictures with a caption each, as a pure function of (set, seed, step, rank, world size).

Shape letters: B batch, T tokens of the longest caption.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from corestone.core.batch import ImageBatch, ImageTextBatch, TextBatch
from corestone.core.errors import DataError
from corestone.core.rng import Draws, fold
from corestone.core.spec import fingerprint, plain
from corestone.data.images.augment_spec import Augmentation
from corestone.data.images.caption_rows import caption_batch, caption_rows, longest_of
from corestone.data.images.loader import ImageLoader, evaluation_batches
from corestone.data.images.picture_set import PictureSet
from corestone.data.images.spec import CaptionRows, Pairs
from corestone.data.prepare.writer import alone, disk_errors
from corestone.data.spec import Trained
from corestone.data.tokenizer import Tokenizer, build_tokenizer, load_tokenizer


class PairLoader:
    """Augmented pictures, each with one of its captions.

    Rows, order and ranks are those of `ImageLoader`; which of several captions a row has is drawn from (seed, step,
    row).

    Args:
        pictures: the training side, every picture with a caption at least.

    Raises:
        DataError: a picture without captions; and as ImageLoader does.

    Attributes:
        epoch_units: pictures of one pass over the set.
    """

    def __init__(
        self, pictures: PictureSet, tokenizer: Tokenizer, spec: Pairs, seed: int, batch_size: int, rank: int, size: int
    ) -> None:
        check_captions(pictures)
        self._pictures, self._tokenizer, self._spec, self._seed = pictures, tokenizer, spec, seed
        self._rows = caption_rows(spec.rows, tokenizer.vocabulary)
        self._images = ImageLoader(
            pictures, spec.augmentation, seed, batch_size, rank, size, spec.workers, spec.prefetch
        )
        self.epoch_units = self._images.epoch_units

    def batch(self, step: int) -> ImageTextBatch:
        """This rank's pairs of a step (steps count from 0)."""
        rows, places = self._images.rows_of(step)
        drawn_B = Draws(fold(self._seed, "caption", step), rows).uniform().tolist()
        captions = []
        for place, drawn in zip(places, drawn_B, strict=True):
            choices = self._pictures.captions(place)
            captions.append(choices[int(drawn * len(choices))])
        images = self._images.batch(step)
        ids = [self._tokenizer.encode(caption) for caption in captions]
        return ImageTextBatch(images, caption_batch(ids, self._rows, self._spec.context_length))

    def names(self, step: int) -> list[str]:
        """Ids of the pictures that a step sees, over all ranks."""
        return self._images.names(step)

    def close(self) -> None:
        """Stop the threads. The loader stays usable."""
        self._images.close()


class HeldOutPairs:
    """A side of a set in order: its pictures, all its captions, whose each caption is, and which say the same.

    Args:
        augmentation: whose steps of evaluation pictures go through.
        context_length: the most tokens of a caption.
        rows: what stands around a caption; None: what the vocabulary says.
        most: only so many pictures, the first ones.
    """

    def __init__(
        self,
        pictures: PictureSet,
        tokenizer: Tokenizer,
        augmentation: Augmentation,
        context_length: int,
        rows: CaptionRows | None = None,
        most: int | None = None,
    ) -> None:
        check_captions(pictures)
        self._pictures, self._tokenizer = pictures, tokenizer
        self._augmentation, self._context_length = augmentation, context_length
        self._rows = caption_rows(rows, tokenizer.vocabulary)
        self.count = len(pictures) if most is None else min(most, len(pictures))
        self.captions_of = [pictures.captions(place) for place in range(self.count)]
        pairs = [(place, caption) for place, captions in enumerate(self.captions_of) for caption in captions]
        self.captions = [caption for _, caption in pairs]
        self.owner_T = torch.tensor([place for place, _ in pairs])
        numbers = {caption: number for number, caption in enumerate(dict.fromkeys(self.captions))}
        self.wording_T = torch.tensor([numbers[caption] for caption in self.captions])

    @property
    def longest(self) -> int:
        """The most ids of a caption that stay whole."""
        return longest_of(self._rows, self._context_length)

    def images(self, batch_size: int) -> Iterator[ImageBatch]:
        """The pictures, without chance."""
        left = self.count
        for batch in evaluation_batches(self._pictures, self._augmentation, batch_size):
            yield batch.rows(0, left)
            left -= len(batch)
            if left <= 0:
                return

    def texts(self, batch_size: int) -> Iterator[TextBatch]:
        """The captions of these pictures."""
        for first in range(0, len(self.captions), batch_size):
            ids = [self._tokenizer.encode(caption) for caption in self.captions[first : first + batch_size]]
            yield caption_batch(ids, self._rows, self._context_length)


def caption_tokenizer(spec: Pairs, pictures: PictureSet, cache: Path) -> Tokenizer:
    """The tokenizer of a run on pairs: trained on the captions of the training side, once for each content.

    One that is not trained is as it is. Raises DataError where there is no caption to train on, or a file holds no
    usable tokenizer.
    """
    if not isinstance(spec.tokenizer, Trained):
        return build_tokenizer(spec.tokenizer, ())
    folder = cache / "tokenizers" / fingerprint([plain(spec.tokenizer), pictures.fingerprint, pictures.split])
    with disk_errors(folder), alone(folder, lambda message: None):
        if not folder.is_dir():
            texts = (caption for place in range(len(pictures)) for caption in pictures.captions(place))
            partial = folder.with_name(folder.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            build_tokenizer(spec.tokenizer, texts).save(partial)
            partial.rename(folder)
        return load_tokenizer(folder)


def check_captions(pictures: PictureSet) -> None:
    """DataError for a picture that nothing is said of."""
    lonely = next((place for place in range(len(pictures)) if not pictures.captions(place)), None)
    if lonely is not None:
        raise DataError(
            f"picture '{pictures.id(lonely)}' has no caption; a run on pairs needs one of each: leave such pictures out"
        )
