"""A picture source as the command line names it."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import yaml

from corestone.core.errors import DataError, SpecError, unknown
from corestone.core.paths import expanded
from corestone.core.spec import parse
from corestone.data.catalogue import catalogue
from corestone.data.files import missing
from corestone.data.images.embedded import image_entry
from corestone.data.images.spec import (
    Cifar10,
    CocoCaptions,
    EmbeddedImages,
    Idx,
    ImageFolder,
    ImageTable,
    Plain,
    Stl10,
    WebDataset,
)
from corestone.data.images.tables import TABLE_FORMS


def parse_pictures(text: str) -> Plain:
    """Read a picture source from the command line.

    | written                                    | read as                                                       |
    | ------------------------------------------ | ------------------------------------------------------------- |
    | `digits`, `emoji?split=concept`            | a picture set of the catalogue                                |
    | a folder                                   | class folders; CIFAR-10's or STL-10's binary files            |
    | a file or glob .csv .tsv .jsonl .parquet   | a table                                                       |
    | a file or glob .tar, `{00..09}` allowed    | tar shards                                                    |
    | `captions.json?images=FOLDER`              | COCO's captions                                               |
    | `images-idx3-ubyte?labels=FILE`            | MNIST's files                                                 |

    Behind `?` stand fields of the source's record, lists as YAML, with `&` between them:
    `table.csv?label_key=breed&validation_percent=20`.

    Raises:
        DataError: nothing of this name. SpecError: a field that the record does not have, or a value that is no YAML.
    """
    name, _, query = text.partition("?")
    fields = {key: _value(key, value, text) for key, value in parse_qsl(query, keep_blank_values=True)}
    if name in catalogue():
        return parse(EmbeddedImages, {**fields, "name": image_entry(EmbeddedImages(name=name)).name}, text)
    path = expanded(name)
    if not path.exists() and not glob.has_magic(name) and "{" not in name:
        if "/" not in name and not path.suffix:
            sets = [item.name for item in catalogue().values() if item.content == "images"]
            raise DataError(f"{unknown('data set of pictures', name, sets)}; and no file or folder has this name")
        raise DataError(missing(path))
    if path.is_dir():
        return _folder(path, fields, text)
    if path.suffix in TABLE_FORMS:
        return parse(ImageTable, {**fields, "paths": [name]}, text)
    if path.suffix == ".tar":
        return parse(WebDataset, {**fields, "shards": [name]}, text)
    if path.suffix == ".json":
        return parse(CocoCaptions, {**fields, "annotations": name}, text)
    if "idx3-ubyte" in path.name:
        return parse(Idx, {**fields, "images": name}, text)
    raise DataError(
        f"{name}: is no picture source; give a folder of class folders, a table ({' '.join(TABLE_FORMS)}), .tar "
        "shards, COCO's captions (.json), an idx3-ubyte file or a data set's name"
    )


def _value(key: str, value: str, text: str) -> Any:
    """A list, or the text itself, which the record reads as what the field is: in YAML `|` and `1` are no texts."""
    try:
        return yaml.safe_load(value) if value.startswith("[") else value
    except yaml.YAMLError:
        raise SpecError(f"{text}: {key}: '{value}' is no YAML list, as [a, b]") from None


def _folder(path: Path, fields: dict[str, Any], text: str) -> Plain:
    if (path / "data_batch_1.bin").is_file() or (path / "test_batch.bin").is_file():
        return parse(Cifar10, {**fields, "path": str(path)}, text)
    if (path / "train_X.bin").is_file() or (path / "test_X.bin").is_file():
        return parse(Stl10, {**fields, "path": str(path)}, text)
    return parse(ImageFolder, {**fields, "path": str(path)}, text)
