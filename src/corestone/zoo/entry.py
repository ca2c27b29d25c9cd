"""One published model: its spec, its published size and where that was said."""

from __future__ import annotations

from dataclasses import dataclass

from corestone.core.spec import Spec


@dataclass(frozen=True)
class Entry:
    """A published model.

    Attributes:
        spec: a record of models/spec.py.
        published: parameters as the source gives them, rounded as there.
        doubt: where the source contradicts itself, and what was chosen.
    """

    name: str
    family: str
    spec: Spec
    published: float
    source: str
    doubt: str = ""
