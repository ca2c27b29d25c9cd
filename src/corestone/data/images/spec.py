"""Records of picture data: where pictures come from, and how they become a prepared set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from corestone.core.spec import Spec
from corestone.data.images.augment_spec import Augmentation
from corestone.data.spec import OnBad

Side = Literal["train", "validation", "test", "unlabelled"]
"""The sides that a picture may stand on."""


class EmbeddedImages(Spec):
    """A picture set of the catalogue (`corestone data list`), read out of pinned public wheels.

    Attributes:
        split: one of the splits that its card names, where it has several; None: the first.
    """

    kind: Literal["embedded"] = "embedded"
    name: str
    split: str | None = None


ImageSource = Annotated[EmbeddedImages, Field(discriminator="kind")]


class PrepareImages(Spec):
    """How pictures become an immutable set.

    Attributes:
        on_bad: what to do with a picture or file that cannot be read.
        channels: of encoded pictures (JPEG, PNG, ...): 3 red, green and blue, 1 grey. Arrays keep theirs.
        max_pixels: a picture of more is refused before it is decoded, so that no small file fills the memory.
        deduplicate: drop (and count) pictures whose bytes were seen before.
        shard_bytes: encoded pictures per file, about.
    """

    on_bad: OnBad = "stop"
    channels: Literal[1, 3] = 3
    max_pixels: int = Field(default=64_000_000, ge=1)
    deduplicate: bool = True
    shard_bytes: int = Field(default=268_435_456, ge=1024)


class Images(Spec):
    """The data axis of a run on pictures.

    Attributes:
        prepare: how pictures become an immutable set.
        augmentation: how the set's pictures become batches.
        workers: threads that decode and augment; 0: the one that makes the batch.
        prefetch: batches made ahead of the trainer by a background thread.
    """

    kind: Literal["images"] = "images"
    source: ImageSource
    prepare: PrepareImages = PrepareImages()
    augmentation: Augmentation
    workers: int = Field(default=0, ge=0)
    prefetch: int = Field(default=4, ge=0)
