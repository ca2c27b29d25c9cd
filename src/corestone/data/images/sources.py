"""Where pictures come from: one stream of pictures, whatever the source.

`pictures` is deterministic, streams in bounded memory, and counts whatever it does not give.
"""

from __future__ import annotations

from collections.abc import Iterator

from corestone.core.errors import DataError
from corestone.core.spec import fingerprint
from corestone.data.document import Counts, Problem
from corestone.data.images.embedded import embedded_images_fingerprint, read_embedded_images
from corestone.data.images.picture import Picture
from corestone.data.images.spec import ImageSource
from corestone.data.spec import OnBad


def pictures(source: ImageSource, on_bad: OnBad, counts: Counts) -> Iterator[Picture]:
    """Read a source.

    Args:
        on_bad: `stop` raises at the first input that cannot be read; `skip` counts it and goes on.
        counts: filled while reading.

    Raises:
        DataError: an input that cannot be read under `stop`, or nothing at all that could be.
    """
    given = 0
    for item in read_embedded_images(source):
        counts.read += 1
        if isinstance(item, Picture):
            given += 1
            yield item
        else:
            refuse_or_count(item, on_bad, counts)
    if not given:
        why = "; ".join(f"{n} x {reason}" for reason, n in counts.dropped.items()) or "nothing found"
        raise DataError(f"{describe(source)}: no picture could be read ({why})")


def refuse_or_count(problem: Problem, on_bad: OnBad, counts: Counts) -> None:
    """Raise DataError for a problem under `stop`, where it is one to stop for; count it otherwise."""
    if problem.fatal and on_bad == "stop":
        raise DataError(f"{problem.message} (or set on_bad: skip to leave such pictures out)")
    counts.drop(problem.reason, problem.message)


def images_fingerprint(source: ImageSource) -> str:
    """Name a source's content in 16 hex digits."""
    return fingerprint(embedded_images_fingerprint(source))


def describe(source: ImageSource) -> str:
    """A source in a few words, for messages."""
    return source.name
