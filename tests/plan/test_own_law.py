"""A law of own runs tells the loss of a plan: read back from its file, with its interval, and never of other runs
unseen."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from corestone.cli.main import app
from corestone.core.errors import DataError, SpecError
from corestone.plan.own import expect, of_judged, read_law
from corestone.plan.rows import Row
from corestone.plan.study import Judged, study
from corestone.plan.told import told
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.plan import Wanted, learns_from, plan_recipe
from corestone.report.planned import rows as told_rows

TARGET = Row(4.3e6, 4e6, 1.0, 1e14)


def runs() -> list[Row]:
    """Twelve runs with 0.3 % of noise."""
    generator = np.random.default_rng(0)
    return [
        Row(size, tokens, (1.4 + 60 / size**0.3 + 190 / tokens**0.38) * float(np.exp(0.003 * generator.normal())))
        for size in (3e5, 8e5, 2e6)
        for tokens in (2e5, 4e5, 8e5, 1.6e6)
    ]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Judged, Path]:
    """The law of these runs, and the file that `plan fit` writes of it."""
    found = study(runs(), seed=0, resamples=40)
    path = tmp_path_factory.mktemp("fit") / "study.json"
    path.write_text(json.dumps({"loss": "nats_per_token (nats/token)", "material": "tokens", **told(found)}))
    judged = found.main
    assert judged is not None
    return judged, path


def test_a_law_read_back_from_its_file_predicts_the_same(fitted):
    judged, path = fitted
    direct = expect(of_judged(judged, "nats_per_token (nats/token)", "tokens"), TARGET)
    read = expect(read_law(path), TARGET)
    assert read.value == pytest.approx(direct.value, rel=1e-12)
    assert read.interval == pytest.approx(direct.interval, rel=1e-6)  # draws are kept with 8 digits; worst 5.6e-9
    assert read.beyond == pytest.approx(4e6 / 1.6e6)
    assert expect(read_law(path), Row(1e6, 1e6, 1.0)).beyond == 1.0


def test_the_interval_has_room_for_the_error_of_the_largest_runs(fitted):
    own = of_judged(fitted[0], "nats", "tokens")
    resampled = fitted[0].resampled.interval(
        lambda law: law.floor + sum(t.scale / x**t.exponent for t, x in zip(law.terms, (4.3e6, 4e6), strict=True))
    )
    assert own.error > 0
    low, high = expect(own, TARGET).interval
    assert low == pytest.approx(resampled[0] * (1 - own.error))
    assert high == pytest.approx(resampled[1] * (1 + own.error))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("{", "not valid JSON"),
        ("[1]", "is not of plan fit or plan ladder"),
        ('{"ladder": {}}', "has no fit yet"),
        ('{"laws": {}, "loss": "nats", "material": "tokens"}', "no law could be fitted there"),
    ],
)
def test_a_file_that_holds_no_law_is_one_line(tmp_path, text, said):
    path = tmp_path / "study.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        read_law(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_plan_tells_the_loss_by_own_runs(fitted):
    """Of a run that is far below what the published law is about."""
    judged, path = fitted
    run = find_recipe("shakespeare", [])
    assert plan_recipe(run, Wanted(hardware="cpu"))["loss"] is None
    plan = plan_recipe(run, Wanted(hardware="cpu", fit=path, budget="1e15FLOPs"))
    loss = plan["loss"]
    parameters, tokens = plan["parameters"]["total"], plan["data"]["needed"]
    assert loss["value"] == pytest.approx(expect(read_law(path), Row(parameters, tokens, 1.0)).value)
    assert loss["interval"][0] < loss["value"] < loss["interval"][1]
    assert loss["nats_per_token"] == loss["value"]
    law = judged.fit.law
    best, work = plan["budget"], 6 * parameters * tokens
    share = 1e15 / plan["flops"]["total"]
    assert 6 * best["least_loss_parameters"] * best["least_loss_tokens"] == pytest.approx(share * work)
    by_law = [
        law.floor + sum(t.scale / x**t.exponent for t, x in zip(law.terms, (n, work / 6 / n), strict=True))
        for n in np.geomspace(1e5, 1e9, 400)
    ]
    assert loss["alternatives"][-1]["loss"] == pytest.approx(min(by_law), rel=1e-4)  # 4.4e-6: the grid's coarseness
    shown = dict(told_rows(plan))
    assert f"{loss['value']:.4g} nats_per_token (nats/token), {loss['interval'][0]:.4g} to" in shown["loss"]
    assert str(path) in shown["loss"]


def test_a_budget_of_the_run_itself_buys_what_the_plan_calls_best(fitted, tmp_path):
    """Also of pictures, each of which takes a multiple of six operations a parameter."""
    path = tmp_path / "study.json"
    tree = json.loads(fitted[1].read_text()) | {"loss": "1 - top1_accuracy", "material": "pictures"}
    path.write_text(json.dumps(tree))
    run = find_recipe("mnist-vit", [])
    total = plan_recipe(run, Wanted(hardware="cpu", fit=path))["flops"]["total"]
    plan = plan_recipe(run, Wanted(hardware="cpu", fit=path, budget=f"{total!r}FLOPs"))
    best, budget = plan["loss"]["alternatives"][-1], plan["budget"]
    assert total > 5 * 6 * plan["parameters"]["total"] * plan["data"]["needed"]
    assert budget["share_of_this_run"] == pytest.approx(1)
    assert budget["least_loss_parameters"] == pytest.approx(best["parameters"])
    assert budget["least_loss_tokens"] == pytest.approx(best["tokens"])
    assert dict(told_rows(plan))["budget"].endswith(" pictures")


@pytest.mark.parametrize("name", ["shakespeare", "shakespeare-electra"])
@pytest.mark.parametrize(
    "loss", ["nats_per_token (nats/token)", "bits_per_byte (bits/byte)", "detection_nats (nats/token)"]
)
def test_rules_of_language_models_ask_for_nats_per_next_token(fitted, tmp_path, name, loss):
    """The critical batch follows from these alone; that data is small for a model needs no loss at all."""
    path = tmp_path / "study.json"
    path.write_text(json.dumps(json.loads(fitted[1].read_text()) | {"loss": loss}))
    plan = plan_recipe(find_recipe(name, []), Wanted(hardware="cpu", fit=path, available=3e5))
    known = name == "shakespeare" and loss.startswith("nats_per_token")
    assert plan["loss"]["nats_per_token"] == (plan["loss"]["value"] if known else None)
    (batch,) = [one for one in plan["suggestions"]["settings"] if one["of"] == "batch"]
    said = {one["rule"]: one["outside"] for one in batch["rules"]}
    small = any("data is small for the model: 300 k tokens" in text for text in plan["warnings"])
    if name == "shakespeare":
        assert said["critical, at most"] == ("" if known else f"the fit predicts {loss}, not nats per token")
        assert small
    else:
        assert "critical, at most" not in said
        assert not small


def test_a_plan_says_where_the_fit_is_of_other_runs(fitted, tmp_path):
    path = fitted[1]
    with pytest.raises(SpecError, match="is of runs on tokens, and this one is on pictures"):
        plan_recipe(find_recipe("mnist", []), Wanted(hardware="cpu", fit=path))
    run = find_recipe("shakespeare", [])
    about = {"learns_from": learns_from(run), "variables": ["tokens"], "target": {"parameters": 1e6}}
    copy = tmp_path / "ladder.json"
    copy.write_text(json.dumps({**json.loads(path.read_text()), "ladder": about}))
    warned = plan_recipe(run, Wanted(hardware="cpu", fit=copy))["warnings"]
    assert any("is of 1 M parameters alone" in text for text in warned)
    assert not any("another objective" in text for text in warned)
    warned = plan_recipe(find_recipe("shakespeare-bert", []), Wanted(hardware="cpu", fit=copy))["warnings"]
    assert any("other data or another objective" in text for text in warned)


def test_any_objective_has_a_loss_by_own_runs(tmp_path):
    """Pictures, whose error falls with their number: one term, so nothing is told of the best use of compute."""
    pictures = [Row(1.1e6, count, 0.02 + 90 / count**0.6) for count in np.geomspace(3e3, 9e4, 8)]
    found = study(pictures, seed=0, resamples=20)
    path = tmp_path / "study.json"
    path.write_text(json.dumps({"loss": "1 - top1_accuracy", "material": "pictures", **told(found)}))
    result = CliRunner().invoke(
        app, ["plan", "mnist", "--hardware", "cpu", "--fit", str(path), "--json", "--budget", "1hours"]
    )
    plan = json.loads(result.output)
    assert plan["loss"]["value"] == pytest.approx(0.02 + 90 / plan["data"]["needed"] ** 0.6, rel=1e-5)
    assert plan["loss"]["alternatives"] == []
    assert plan["budget"]["least_loss_parameters"] is None
    shown = CliRunner().invoke(app, ["plan", "mnist", "--hardware", "cpu", "--fit", str(path)]).output
    assert "1 - top1_accuracy" in re.sub(r"[│\s]+", " ", shown)
