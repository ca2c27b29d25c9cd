"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from corestone.cli.main import app
from corestone.core.errors import DataError
from corestone.core.paths import expanded
from corestone.data.cache import cache_dir

NOBODY = "~no-such-user-at-all/x"


def test_home_folders_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert expanded("~/texts") == Path("/somewhere/texts")
    assert expanded("~") == Path("/somewhere")
    assert [str(expanded(given)) for given in ("texts/~", "./~x", "/a/~b", "")] == ["texts/~", "~x", "/a/~b", "."]


def test_an_unknown_user_is_one_clear_line() -> None:
    with pytest.raises(DataError) as error:
        expanded(NOBODY)
    assert str(error.value).startswith(f"{NOBODY}: ~no-such-user-at-all stands for no home folder")
    assert "\n" not in str(error.value)


def test_a_cache_at_an_unknown_user_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORESTONE_CACHE", NOBODY)
    with pytest.raises(DataError, match="no home folder"):
        cache_dir()


@pytest.mark.parametrize("change", [f"data.source={{kind: folder, path: '{NOBODY}'}}", f"start={{path: '{NOBODY}'}}"])
def test_a_command_says_so(change: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["pretrain", "mnist", change, "--run", str(tmp_path / "run")])
    assert isinstance(done.exception, DataError), done.output
    assert str(done.exception).startswith(f"{NOBODY}: ")
