"""The data of a rehearsal: the recipe's own where it is on this machine, of large sets the beginning, else an embedded
corpus of the same kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from corestone.core.errors import DataError
from corestone.core.paths import expanded
from corestone.core.spec import plain
from corestone.data.catalogue import entry
from corestone.data.document import Counts
from corestone.data.images.sources import describe as describe_pictures
from corestone.data.images.sources import pictures
from corestone.data.images.spec import (
    Cifar10,
    EmbeddedImages,
    ImageFolder,
    Images,
    ImageSource,
    Pairs,
    Stl10,
    Together,
)
from corestone.data.prepare.estimate import total_bytes
from corestone.data.sources import describe as describe_text
from corestone.data.sources import documents
from corestone.data.spec import Embedded, OnBad, Source
from corestone.parallel.collectives import World
from corestone.recipes.images import open_sides
from corestone.recipes.rehearsal.beginning import TEXT_BYTES, beginning_of_pictures, beginning_of_text
from corestone.recipes.spec import Run

TEXT = Embedded(name="shakespeare")
COLOURED, GREY = EmbeddedImages(name="emoji", split="artist"), EmbeddedImages(name="mnist5k")
"""Encoded drawings in colour with classes and captions, and digits as arrays."""
ALONE = World(rank=0, size=1, device=torch.device("cpu"))
"""This process, which prepares and looks at what the others have made."""
ABSENT = {"missing file", "missing shard"}
"""Why nothing is read where nothing is; whatever else is wrong with data is the recipe's own, and a finding."""


class Instead(NamedTuple):
    """What a rehearsal reads in the place of a source.

    Attributes:
        source: its plain tree.
        told: what it is and why, in words.
        classes: that its pictures have; None: of text and pairs.
    """

    source: dict[str, Any]
    told: str
    classes: int | None = None


def sources_here(run: Run, folder: Path) -> list[Instead | None]:
    """For each source of a run's data what a rehearsal reads instead; None: the source itself. Of a hub's this takes a
    while.

    Args:
        folder: of beginnings that have to be written.

    Raises:
        DataError: a source that is here and cannot be read.
    """
    if isinstance(run.data, Images | Pairs):
        return [_pictures_here(run.data, folder)]
    on_bad = run.data.prepare.on_bad
    return [
        _text_here(component.source, on_bad, folder / f"text-{place}.jsonl")
        for place, component in enumerate(run.data.components)
    ]


def read_instead(tree: dict[str, Any], run: Run, instead: Sequence[Instead | None]) -> list[str]:
    """Let a run's tree read that, in place; and what was changed, in words."""
    data, told = tree["data"], [one.told for one in instead if one is not None]
    places = [data] if isinstance(run.data, Images | Pairs) else data["components"]
    for place, one in zip(places, instead, strict=True):
        if one is not None:
            place["source"] = one.source
    classes = next((one.classes for one in instead if one is not None), None)
    if isinstance(run.data, Images) and classes is not None:
        head = tree["model"].get("head", tree["model"])
        told.append(f"{classes:,} classes of {head['classes']:,}")
        head["classes"] = classes
    return told


def _text_here(source: Source, on_bad: OnBad, file: Path) -> Instead | None:
    if isinstance(source, Embedded):
        return None
    counts = Counts()
    why = _why_not(documents(source, "skip", counts), counts)
    if why:
        return Instead(plain(TEXT), _standing_in(describe_text(source), TEXT.name, why))
    size = total_bytes([source])
    if size is not None and size <= TEXT_BYTES:
        return None
    beginning, told = beginning_of_text(source, on_bad, file)
    return Instead(plain(beginning), told)


def _pictures_here(data: Images | Pairs, folder: Path) -> Instead | None:
    if isinstance(data.source, EmbeddedImages):
        return None
    name, counts = describe_pictures(data.source), Counts()
    why = "" if _is_there(data.source) else _why_not(pictures(data.source, "skip", counts), counts)
    if why:
        found: ImageSource = GREY if data.augmentation.channels == 1 and isinstance(data, Images) else COLOURED
        return Instead(plain(found), _standing_in(name, describe_pictures(found), why), _classes(data, found))
    beginning = beginning_of_pictures(data, folder)
    if beginning is None:
        return None
    first, told = beginning
    return Instead(plain(first), told, _classes(data, first))


def _classes(data: Images | Pairs, source: ImageSource) -> int | None:
    """How many classes pictures have when they are prepared as the recipe wants it; None: of pairs."""
    if isinstance(data, Pairs):
        return None
    _, sides = open_sides(data.model_copy(update={"source": source}), ALONE)
    return len(sides["train"].classes)


def _is_there(source: ImageSource) -> bool:
    """Whether there is something where a source of one place has it."""
    parts = source.parts if isinstance(source, Together) else (source,)
    return all(isinstance(one, ImageFolder | Cifar10 | Stl10) and expanded(one.path).exists() for one in parts)


def _why_not(read: Iterator[object], counts: Counts) -> str:
    """Why nothing is there; "" where something is."""
    try:
        next(read)
    except DataError as error:
        return str(error) if set(counts.dropped) <= ABSENT else ""
    return ""


def _standing_in(name: str, corpus: str, why: str) -> str:
    return f"the embedded corpus {corpus} ({entry(corpus).title}) stands in for {name}, which is not here ({why})"
