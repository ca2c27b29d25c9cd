"""What a source gives: documents on one side of the split, and problems, each counted with its reason."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from corestone.core.errors import DataError
from corestone.data.spec import OnBad

T = TypeVar("T")

SKIPPING = " (or set on_bad: skip to leave it out and count it)"
MAX_EXAMPLES = 3
"""Examples kept per reason."""


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        id: unique in its source: a file's path below the given folder, `file:line`, a play, a conversation.
        text: valid Unicode (it always encodes to UTF-8).
        split: `train` or `validation`, by the hash of the document's group.
        source: where it was read: the file as it was given, or the data set's name.
    """

    id: str
    text: str
    split: str
    source: str


@dataclass(frozen=True)
class Problem:
    """Something that could not become a document.

    Attributes:
        reason: short, the same for all problems of a kind; they are counted by it.
        message: one line naming what, where and the cure.
        fatal: True where the policy `stop` refuses it; False where it is only counted (a picture among the texts).
    """

    reason: str
    message: str
    fatal: bool = True


@dataclass
class Counts:
    """What was read and what was dropped, by reason.

    `read` counts documents, and also each file or rest of a file that could not be read (as one). Every stage that
    drops something calls `drop`, so that always read = kept + dropped.
    """

    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, example: str | None = None) -> None:
        """Count one of what was read as dropped, and keep the first few examples of each reason."""
        self.dropped[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if example is not None and len(examples) < MAX_EXAMPLES:
            examples.append(example)

    @property
    def kept(self) -> int:
        """What was read and not dropped."""
        return self.read - sum(self.dropped.values())


def refuse_or_count(problem: Problem, on_bad: OnBad, counts: Counts, hint: str = SKIPPING) -> None:
    """Raise DataError for a problem under `stop`, where it is one to stop for; count it otherwise."""
    if problem.fatal and on_bad == "stop":
        raise DataError(problem.message + hint)
    counts.drop(problem.reason, problem.message)


def counted(
    items: Iterable[T | Problem], on_bad: OnBad, counts: Counts, source: str, what: str, hint: str = SKIPPING
) -> Iterator[T]:
    """What a source gives but for its problems, which are refused or counted.

    Args:
        source, what: the source's name, and of what it is one, for messages.
        hint: behind the message of a problem that is refused.

    Raises:
        DataError: a problem under `stop`, or nothing at all that could be read.
    """
    given = 0
    for item in items:
        counts.read += 1
        if isinstance(item, Problem):
            refuse_or_count(item, on_bad, counts, hint)
        else:
            given += 1
            yield item
    if not given:
        why = "; ".join(f"{n} x {reason}" for reason, n in counts.dropped.items()) or "nothing found"
        raise DataError(f"{source}: no {what} could be read ({why})")


def side(group: str, validation_percent: float) -> str:
    """Say on which side of the split a group stands: `validation` where its position is below the percentage."""
    return "validation" if position(group) < validation_percent else "train"


def position(group: str) -> float:
    """The place of a group between 0 and 100: sha256(group) % 100, and the next two digits behind the point.

    It depends on nothing but the group's name, so adding, removing or reordering documents moves none across.
    """
    number = int.from_bytes(hashlib.sha256(group.encode("utf-8", "surrogateescape")).digest(), "big")
    return number % 100 + number // 100 % 100 / 100
