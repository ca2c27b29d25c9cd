"""The two verbs, as a user types them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from tiny_models import make_decoder
from typer.testing import CliRunner

from corestone.cli.interop import export, import_
from corestone.core.errors import CorestoneError

Write = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("without_transformers")


@pytest.fixture
def app() -> typer.Typer:
    verbs = typer.Typer()
    verbs.command("import")(import_)
    verbs.command("export")(export)
    return verbs


def test_import_then_export_by_the_command_line(huggingface: Write, tmp_path: Path, app: typer.Typer) -> None:
    runner, ours, theirs = CliRunner(), tmp_path / "ours", tmp_path / "back"
    done = runner.invoke(app, ["import", str(huggingface(make_decoder())), "--out", str(ours)])
    assert done.exit_code == 0, done.output
    assert "3 layers of width 12" in done.output
    done = runner.invoke(app, ["export", str(ours), "--format", "huggingface", "--out", str(theirs)])
    assert done.exit_code == 0, done.output
    assert "check: re-imported: largest difference between logits" in done.output
    assert "not checked, the library is not installed" in done.output
    assert "40 padding rows" in done.output
    assert (theirs / "config.json").is_file()


def test_an_unknown_format_is_refused(tmp_path: Path, app: typer.Typer) -> None:
    done = CliRunner().invoke(app, ["export", str(tmp_path), "--format", "hugingface", "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, CorestoneError)
    assert "did you mean 'huggingface'" in str(done.exception)
