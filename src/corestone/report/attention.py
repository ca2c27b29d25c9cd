"""What only the pages of runs on pictures have of models that attend: where they look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corestone.report.captions import short
from corestone.report.folder import Run
from corestone.report.pictures import Shown, list_of, shown_picture

LETTERS = 60
"""Of what a picture shows."""


@dataclass(frozen=True)
class Heat:
    """A map over its picture, and how many times an even share its strongest place has, in words."""

    map: Shown
    peak: str


@dataclass(frozen=True)
class LookedAt:
    """A picture, what it shows, and its maps: of the last layer, and through all layers where there is one."""

    picture: Shown
    said: str
    maps: Sequence[Heat]


@dataclass(frozen=True)
class AttentionPage:
    """The section.

    Attributes:
        none: the evaluation found that the model attends to no places.
    """

    looks: str
    layers: int
    pictures: Sequence[LookedAt]
    none: bool

    @property
    def through(self) -> bool:
        """Whether there are maps through all layers."""
        return any(len(one.maps) > 1 for one in self.pictures)


def attention_page(run: Run) -> AttentionPage:
    """Everything that a run on pictures tells of its model's attention; nothing of older evaluations."""
    evaluation = run.evaluation or {}
    found = evaluation.get("attention")
    tree: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    layers = tree.get("layers")
    return AttentionPage(
        looks=str(tree.get("looks", "the model")),
        layers=layers if type(layers) is int else 0,
        pictures=[
            one for number, item in enumerate(list_of(tree.get("shown"))) for one in _looked_at(run, number, item)
        ],
        none="attention" in evaluation and found is None,
    )


def _looked_at(run: Run, number: int, item: Any) -> list[LookedAt]:
    """The picture of an entry, where its files were kept."""
    if not isinstance(item, list) or len(item) != 4:
        return []
    said = short(str(item[1]), LETTERS)
    picture = shown_picture(run, f"attention-{number:02d}", f"{item[0]}: {said}")
    names = (("last", "last layer", item[2]), ("rollout", "all layers", item[3]))
    maps = [
        Heat(one, f"{peak:.1f}×" if isinstance(peak, (int, float)) else "–")
        for name, words, peak in names
        if (one := shown_picture(run, f"attention-{name}-{number:02d}", f"where the model looks, {words}")) is not None
    ]
    return [] if picture is None or not maps else [LookedAt(picture, said, maps)]
