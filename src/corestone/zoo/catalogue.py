"""Every published model that Corestone can build."""

from __future__ import annotations

from corestone.core.errors import SpecError, unknown
from corestone.zoo import (
    alexatm,
    basic,
    bert,
    bloom,
    clip,
    coatnet,
    coca,
    electra,
    gpt,
    gptj,
    h3,
    mnist_cnn,
    mogrifier,
    opt,
    palm,
    primer,
    siglip,
    t5,
    vit,
)
from corestone.zoo.entry import Entry

FAMILIES = (
    gpt,
    gptj,
    primer,
    opt,
    bloom,
    palm,
    h3,
    bert,
    electra,
    t5,
    alexatm,
    mogrifier,
    vit,
    mnist_cnn,
    coatnet,
    coca,
    clip,
    siglip,
    basic,
)


def zoo() -> dict[str, Entry]:
    """All entries by name, in the order of their papers."""
    return {entry.name: entry for family in FAMILIES for entry in family.entries()}


def find(name: str) -> Entry:
    """An entry by name; SpecError names the nearest one."""
    entries = zoo()
    if name not in entries:
        raise SpecError(unknown("model", name, entries))
    return entries[name]
