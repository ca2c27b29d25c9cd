"""The cache folder: `$CORESTONE_CACHE`, or `~/.cache/corestone`."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder, which need not exist yet. Whatever lies in it can be made again."""
    given = os.environ.get("CORESTONE_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "corestone"


def wheels_dir() -> Path:
    """Where fetched wheels lie."""
    return cache_dir() / "wheels"
