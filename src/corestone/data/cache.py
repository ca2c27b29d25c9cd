"""The cache folder: `$CORESTONE_CACHE`, or `~/.cache/corestone`."""

from __future__ import annotations

import os
from pathlib import Path

from corestone.core.paths import expanded


def cache_dir() -> Path:
    """The cache folder, which need not exist yet. Whatever lies in it can be made again."""
    given = os.environ.get("CORESTONE_CACHE")
    return expanded(given or "~/.cache/corestone")


def wheels_dir() -> Path:
    """Where fetched wheels lie."""
    return cache_dir() / "wheels"
