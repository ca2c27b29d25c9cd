"""The data of a rehearsal: the recipe's own where it is on this machine, else an embedded corpus of the same kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from corestone.core.errors import DataError
from corestone.core.spec import plain
from corestone.data.catalogue import entry
from corestone.data.document import Counts
from corestone.data.images.sources import describe as describe_pictures
from corestone.data.images.sources import pictures
from corestone.data.images.spec import EmbeddedImages, Images, Pairs
from corestone.data.sources import describe as describe_text
from corestone.data.sources import documents
from corestone.data.spec import Embedded
from corestone.recipes.spec import Run

TEXT = Embedded(name="shakespeare")
COLOURED, CONCEPTS = EmbeddedImages(name="emoji", split="artist"), 1634
"""Encoded drawings in colour with captions, and the number of their classes."""
GREY, FIGURES = EmbeddedImages(name="mnist5k"), 10
"""Digits as arrays, and the number of their classes."""


def missing_sources(run: Run) -> list[str]:
    """Of each source of a run's data why it cannot be read here; "" where it can. Of a hub's this takes a while."""
    if isinstance(run.data, Images | Pairs):
        return [_why_not(pictures(run.data.source, "skip", Counts()))]
    return [_why_not(documents(component.source, "skip", Counts())) for component in run.data.components]


def with_data_of_here(tree: dict[str, Any], run: Run, missing: Sequence[str]) -> list[str]:
    """Put embedded corpora in the place of the sources of a run's tree that are missing, in place; and what stands in
    for what, in words."""
    data = tree["data"]
    if isinstance(run.data, Images | Pairs):
        grey = run.data.augmentation.channels == 1 and isinstance(run.data, Images)
        source, classes = (GREY, FIGURES) if grey else (COLOURED, CONCEPTS)
        if not missing[0]:
            return []
        data["source"] = plain(source)
        told = [_standing_in(describe_pictures(run.data.source), source.name, missing[0])]
        return told + (_with_classes(tree["model"], classes) if isinstance(run.data, Images) else [])
    told = []
    for component, here, why in zip(run.data.components, data["components"], missing, strict=True):
        if why:
            here["source"] = plain(TEXT)
            told.append(_standing_in(describe_text(component.source), TEXT.name, why))
    return told


def _standing_in(name: str, corpus: str, missing: str) -> str:
    return f"the embedded corpus {corpus} ({entry(corpus).title}) stands in for {name}, which is not here ({missing})"


def _why_not(read: Iterator[object]) -> str:
    try:
        next(read)
    except DataError as error:
        return str(error)
    return ""


def _with_classes(model: dict[str, Any], classes: int) -> list[str]:
    """Let a classifier's tree name so many classes, in place; and what was changed, in words."""
    head = model.get("head", model)
    before, head["classes"] = head["classes"], classes
    return [f"{classes:,} classes of {before:,}"]
