"""What several tests of recipes begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_text import write_recipe, write_texts


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with texts and a recipe."""
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path)
    write_recipe(tmp_path / "tiny.yaml", steps=12, every=2, keep=3)
    return tmp_path
