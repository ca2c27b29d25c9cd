"""The coordinate check: flat in muP and growing without it, and each rule of muP that is left out is seen."""

from __future__ import annotations

import json

import pytest
from checked import decoder, encoder, pictures, recipe
from typer.testing import CliRunner

from corestone.cli.main import app
from corestone.core.errors import SpecError
from corestone.core.spec import parse, plain
from corestone.recipes import coordinates
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.coordinates import FLAT, coordinate_check, slope, widths_of
from corestone.recipes.spec import Run
from corestone.report.mup import draw_coordinates

WIDTHS = [32, 64, 128, 256]


def worst(found: dict, kind: str) -> float:
    return max(abs(one) for one in found["slopes"][kind].values())


@pytest.mark.parametrize("kind", ["decoder", "encoder", "classifier"])
def test_values_move_alike_at_all_widths_in_mup_and_further_in_wider_models_without_it(tmp_path, kind):
    if kind == "classifier":
        run = find_recipe("mnist-vit", [*pictures(), "optimiser.learning_rate=0.002", "training.batch_examples=32"])
    else:
        run = find_recipe(recipe(tmp_path, decoder() if kind == "decoder" else encoder()), [])
    found = coordinate_check(run, WIDTHS, 32, steps=5, seeds=2)
    print(kind, {k: {p: round(s, 3) for p, s in v.items()} for k, v in found["slopes"].items()})
    assert list(found["changes"]["muP"]) == [
        "embedding",
        *(f"layer {layer}, {branch}" for layer in (0, 1) for branch in ("mixer", "feed-forward")),
        "logits",
    ]
    assert found["flat"], found["slopes"]["muP"]
    assert worst(found, "muP") <= FLAT
    assert found["grows"]
    assert worst(found, "standard") > 1.0
    for part, changes in found["changes"]["muP"].items():  # the base width is the recipe itself
        assert changes[0] == pytest.approx(found["changes"]["standard"][part][0], rel=1e-6)


DEFECTS = {
    "rate": lambda tree: tree["optimiser"]["rules"][0].update(lr_scale=1.0),
    "deviations": lambda tree: tree["model"]["init"].update(rules=None),
    "logits": lambda tree: tree["model"]["head"].update(scale=1.0),
    "rate of the square": lambda tree: tree["optimiser"]["rules"][0].update(
        lr_scale=tree["optimiser"]["rules"][0]["lr_scale"] ** 2
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_rule_that_is_left_out_is_seen(tmp_path, monkeypatch, name):
    right = coordinates.mup

    def wrong(run: Run, base: int) -> Run:
        tree = json.loads(json.dumps(plain(right(run, base))))
        DEFECTS[name](tree)
        return parse(Run, tree, "wrong")

    monkeypatch.setattr(coordinates, "mup", wrong)
    found = coordinate_check(find_recipe(recipe(tmp_path, decoder()), []), WIDTHS, 32, steps=5, seeds=1)
    print(name, {p: round(s, 3) for p, s in found["slopes"]["muP"].items()})
    assert not found["flat"]
    assert worst(found, "muP") > 1.2 * FLAT


def test_a_run_that_diverges_is_told_as_one_that_does_not_hold(tmp_path):
    run = find_recipe(recipe(tmp_path, decoder()), ["optimiser.learning_rate=1e30"])
    told: list[str] = []
    found = coordinate_check(run, [32, 64], 32, steps=3, seeds=1, tell=told.append)
    assert found["slopes"]["muP"]["logits"] == float("inf")
    assert not found["flat"]
    assert told[-1] == "width 64, muP: 1 runs of 3 steps"
    assert draw_coordinates(found, tmp_path / "c.png").is_file()


def test_a_slope_is_the_exponent_of_the_width():
    assert slope([64, 128, 256], [3 * width**1.5 for width in (64, 128, 256)]) == pytest.approx(1.5)
    assert slope([64, 128], [1.0, float("nan")]) == float("inf")


def test_widths_are_those_that_the_recipe_can_have():
    run = find_recipe("shakespeare", [])
    assert widths_of(run, None, None) == ([64, 128, 256, 512], 64)
    assert widths_of(run, [256, 64, 256], 128) == ([64, 256], 128)
    for widths, base, said in (
        ([64], None, "give two or more"),
        ([64, 100], None, "multiple of 64"),
        ([64, 128], 96, "of 64"),
    ):
        with pytest.raises(SpecError, match=said):
            widths_of(run, widths, base)


def test_the_command_prints_the_verdict_and_leaves_figure_and_numbers(tmp_path, monkeypatch):
    path, words = recipe(tmp_path, decoder()), ["--widths", "32,64", "--seeds", "1", "--steps", "2"]
    words += ["--out", str(tmp_path / "out")]
    monkeypatch.setattr(coordinates, "FLAT", 1.0)  # two widths and one seed are too few for the real one
    done = CliRunner().invoke(app, ["mup", "check", path, *words])
    assert done.exit_code == 0, done.output
    assert "verdict: muP is flat" in done.stdout
    assert (tmp_path / "out" / "coordinates.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads(CliRunner().invoke(app, ["mup", "check", path, *words, "--json"]).stdout)
    assert told == json.loads((tmp_path / "out" / "coordinates.json").read_text())
    assert (told["widths"], told["base_width"], told["flat"]) == ([32, 64], 32, True)
    monkeypatch.setattr(coordinates, "FLAT", 0.0)
    done = CliRunner().invoke(app, ["mup", "check", path, *words])
    assert done.exit_code == 1
    assert "verdict: muP is NOT flat" in done.stdout
    assert isinstance(CliRunner().invoke(app, ["mup", "check", path, "--widths", "64,x"]).exception, SpecError)
