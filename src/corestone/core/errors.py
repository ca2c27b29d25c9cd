"""Errors that are the user's to mend, and how to phrase them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CorestoneError(Exception):
    """A mistake the user can mend: bad input, a misspelt key, a damaged file.

    The message is one line that names what was wrong, where, and what to do. The command line prints it
    without a traceback and ends with exit code 2.
    """


class SpecError(CorestoneError):
    """A recipe, record or override that cannot be read."""


class DataError(CorestoneError):
    """A source, prepared set or tokenizer that cannot be used."""


class CheckpointError(CorestoneError):
    """A checkpoint or run folder that cannot be used."""


class Disagreement(CheckpointError):  # noqa: N818 (it says what was found)
    """What was written for another library is not, or does not compute, what was to be written."""


class Interrupted(Exception):  # noqa: N818 (it is no error)
    """The run was asked to stop (SIGINT, SIGTERM), saved its state and stopped. `signum` tells by what."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word closest to a misspelt one, or None where nothing is close."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """Phrase the refusal of an unknown word: what it is, the nearest known one, and all known ones."""
    known = sorted(known)
    guess = nearest(word, known)
    hint = f"did you mean '{guess}'? " if guess else ""
    return f"unknown {what} '{word}': {hint}known: {', '.join(known)}"
