"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path

from corestone.core.errors import DataError


def expanded(given: str) -> Path:
    """A path with `~` or `~name` in front as the home folder it stands for.

    Raises:
        DataError: there is no such user, or none whose home folder is known.
    """
    path = Path(given)
    if not given.startswith("~"):  # "./~name" is a file of that name, and as a Path it is "~name"
        return path
    try:
        return path.expanduser()
    except RuntimeError:
        home = path.parts[0]
        raise DataError(
            f"{given}: {home} stands for no home folder that is known here; write the folder in full, or ./{home} for "
            "a file of this name"
        ) from None
