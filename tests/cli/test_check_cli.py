"""`corestone check`: the exit code, the certificate beside a run of the recipe, and the report that shows it."""

from __future__ import annotations

import json

import pytest
from checked import decoder, recipe
from typer.testing import CliRunner

from corestone.cli.main import app
from corestone.core.errors import SpecError
from corestone.core.spec import to_yaml
from corestone.objectives.next_token import NextTokenObjective
from corestone.recipes.catalogue import find_recipe
from corestone.report.write import write_report

TWICE = """
from corestone.core.protocols import Loss
from corestone.objectives.next_token import NextTokenObjective
_loss = NextTokenObjective.loss
def twice(self, model, batch):
    loss = _loss(self, model, batch)
    return Loss(2 * loss.total, loss.weight)
NextTokenObjective.loss = twice
"""


def test_a_failed_check_ends_with_exit_code_1(tmp_path, monkeypatch):
    monkeypatch.setattr(NextTokenObjective, "loss", NextTokenObjective.loss)  # put back what the recipe changes here
    done = CliRunner().invoke(app, ["check", recipe(tmp_path, decoder(), TWICE), "initial-loss", "causality", "--json"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert not told["passed"]
    assert [one["verdict"] for one in told["checks"]] == ["fail", "pass"]


def test_the_certificate_stands_beside_a_run_of_the_recipe_and_in_its_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, folder = recipe(tmp_path, decoder()), tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(to_yaml(find_recipe(path, [])))
    assert CliRunner().invoke(app, ["check", path, "causality", "seed=4"]).exit_code == 0
    assert not (folder / "check.json").exists()  # the run is one of another seed
    done = CliRunner().invoke(app, ["check", str(folder), "causality"])
    assert done.exit_code == 0
    assert "causality" in done.stdout
    (told,) = json.loads((folder / "check.json").read_text())["checks"]
    assert (told["name"], told["verdict"]) == ("causality", "pass")
    assert told["compared"].startswith("hidden values before tokens that change")
    page = write_report([folder]).read_text()
    assert '<section id="checks">' in page
    assert "rows of 48 tokens" in page
    (folder / "check.json").write_text("{")
    assert "check.json: not valid JSON" in write_report([folder]).read_text()


def test_an_unknown_check_is_refused(tmp_path):
    done = CliRunner().invoke(app, ["check", recipe(tmp_path, decoder()), "casuality"])
    assert isinstance(done.exception, SpecError)


def test_an_unknown_override_is_refused_before_torch_is_loaded():
    done = CliRunner().invoke(app, ["check", "shakespeare", "model.stack.widht=4"])
    assert isinstance(done.exception, SpecError)
    with pytest.raises(SpecError, match="did you mean 'width'"):
        raise done.exception
