"""Plans by a probe: what a few real steps took replaces what was counted, and the difference is told."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
import torch
from typer.testing import CliRunner

from corestone.cli.main import app
from corestone.core.environment import began, began_for
from corestone.core.errors import CorestoneError, SpecError
from corestone.core.spec import to_yaml
from corestone.parallel.collectives import World
from corestone.plan.prediction import CONCLUSION_SECONDS, Ending
from corestone.plan.probed import Probed
from corestone.recipes import plan as plans
from corestone.recipes import probe as probing
from corestone.recipes.build import Built
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.made_up import Known, guessed
from corestone.recipes.made_up_data import made_up_data
from corestone.recipes.plan import Wanted, model_of, plan_built, plan_recipe
from corestone.recipes.probe import SECONDS, STEPS, probe
from corestone.recipes.registry import OBJECTIVES
from corestone.report import figures
from corestone.report.folder import read_run
from corestone.report.planned import held_to_account, rows

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
FOUND = Probed(
    steps=7,
    step_seconds=0.5,
    peak_bytes=2e9,
    peak_flops=1e11,
    startup_seconds=3.0,
    settle_seconds=0.25,
    evaluated_row_seconds=0.01,
    checkpoint_seconds=0.75,
    sample_seconds=0.4,
    caption_seconds=0.0,
)


def test_a_probe_takes_the_place_of_what_was_counted(monkeypatch):
    monkeypatch.setattr(plans, "probe", lambda run, precision: FOUND)
    run = find_recipe("shakespeare", [])
    known = Known(guessed(run, None, model_of(run)).vocabulary, 1e6, 256, 2560, Ending(20_480, seconds=2.0))
    plain = plan_recipe(run, Wanted(hardware="cpu"), known)
    plan = plan_recipe(run, Wanted(hardware="cpu", probe=True), known)
    times = plan["time"]
    assert plan["memory"]["peak_bytes"] == pytest.approx(2e9)
    assert times["step_seconds"] == pytest.approx(0.5)
    assert times["training_seconds"] == pytest.approx(1000 * 0.5)
    assert times["checkpoint_seconds"] == pytest.approx(4 * 0.75)  # of 1,000 steps one each 300, and at the end
    assert times["evaluation_seconds"] == pytest.approx(7 * (0.25 + 10 * 0.01))  # one each 150, of ten rows
    assert times["sample_seconds"] == pytest.approx(4 * 0.4)
    # After training: 20,480 tokens in 80 rows, and two seconds of floors.
    assert times["conclusion_seconds"] == pytest.approx(80 * 0.01 + 2 + CONCLUSION_SECONDS)
    parts = ("startup", "training", "checkpoint", "evaluation", "sample", "conclusion")
    # Pretrain's own probe costs its fixed part, and 6 seconds of steps.
    assert times["startup_seconds"] == 3.0 + plans.PROBE_STARTUP_SECONDS + SECONDS
    assert times["total_seconds"] == pytest.approx(sum(times[f"{part}_seconds"] for part in parts))
    without = plan["probe"]["unprobed"]
    assert without["peak_bytes"] == pytest.approx(
        plain["memory"]["peak_bytes"], rel=0.05
    )  # this process grew meanwhile
    told = dict(rows(plan))
    assert told["probed"].startswith("7 steps in a process of their own: 0.5 s a step, 2 GB; without them (")
    assert "a probe of 7 steps" in told["utilisation"]
    assert "probe" not in plain
    json.dumps(plan, allow_nan=False)


@pytest.mark.parametrize("name", ["shakespeare-bert", "mnist"])
def test_real_steps_are_timed_in_a_process_of_their_own(name):
    """Text, and pictures whose weights are averaged."""
    small = ["training.batch_tokens=512"] if name != "mnist" else ["training.batch_examples=20"]
    run = find_recipe(name, [*small, "training.precision=float32"])
    begun = time.perf_counter()
    found = probe(run, "float32")
    wall = time.perf_counter() - begun
    assert found.steps >= 3
    assert found.caption_seconds == 0  # no captions are written
    assert all(value > 0 for key, value in asdict(found).items() if key != "caption_seconds")
    # Half of the steps take the median or longer, and all that was timed went on within this call.
    rows = run.evaluation.batch_size
    timed = found.steps * found.step_seconds / 2 + found.settle_seconds + rows * found.evaluated_row_seconds
    assert timed + found.startup_seconds + found.checkpoint_seconds + found.sample_seconds < wall
    # No processor does more than it can, and none wastes nearly all of that. The bounds are wide since both figures are
    # measured, on a machine that others may use: 1.7 at worst.
    model = model_of(run)
    known = guessed(run, 1e6, model)
    row = OBJECTIVES.build(run.objective, known.vocabulary).training_flops(model, known.row_tokens)
    row *= known.row_tokens
    reached = (run.training.batch_examples or 512 / known.row_tokens) * row / found.step_seconds / found.peak_flops
    assert 0.002 < reached < 5
    assert 0.002 < row / 3 / found.evaluated_row_seconds / found.peak_flops < 5
    # Float32 weights, their gradients and two moments beside what the libraries take.
    held = 16 * sum(p.numel() for p in model.parameters())
    assert held + 2e8 < found.peak_bytes < held + 2e9


@pytest.mark.parametrize("name", ["mnist", "clip-emoji"])
def test_a_length_in_epochs_is_tried_whatever_its_warm_up(name):
    """A warm-up of a hundred steps is longer than three epochs of made-up data, of a thousand pictures or one batch."""
    small = ["training.batch_examples=32", "evaluation.batch_size=8"]
    run = find_recipe(name, [*small, "training.length=3 epochs", "schedule.warmup=100 steps"])
    plan = plan_recipe(run, Wanted(hardware="cpu", probe=True, available=6400))
    assert plan["probe"]["steps"] >= 3
    assert plan["time"]["steps"] == 600


def test_what_cannot_be_tried_is_said(monkeypatch):
    run = find_recipe("shakespeare", [])
    monkeypatch.setattr(probing, "COMMAND", "import sys; sys.exit('out of luck')")
    with pytest.raises(CorestoneError, match=r"^probe: shakespeare cannot be tried here \(out of luck\); plan it"):
        probe(run, "float32")
    long = find_recipe("shakespeare", ["training.length=1000000 steps"])
    kept = plan_built(long, guessed(run, 1e6, model_of(run)), "float32", 1e12, ALONE)
    assert "probe" not in kept
    assert any("out of luck" in warning for warning in kept["warnings"])
    for wanted in (Wanted(hardware="h100", probe=True), Wanted(hardware="cpu", devices=2, probe=True)):
        with pytest.raises(SpecError, match="--probe: tries one process on this machine's processor"):
            plan_recipe(run, wanted)
    refused = CliRunner().invoke(app, ["plan", "opt-175b", "--probe"])
    assert "the plan is for h100" in str(refused.exception)
    with pytest.raises(SpecError, match=r"^--mfu 0.4: a probe measures the utilisation; leave out --mfu or --probe"):
        plan_recipe(run, Wanted(hardware="cpu", probe=True, mfu=0.4))


def test_kinds_of_a_recipe_file_are_refused_in_one_line(tmp_path):
    """Whoever is started reads YAML, where they are unknown."""
    code = """
from typing import Literal
from corestone.core.units import duration
from corestone.models.spec import Decoder
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.registry import MODELS

class Mine(Decoder):
    kind: Literal["mine"] = "mine"

MODELS.add(Mine, "corestone.models.decoder:build_decoder")

def recipe():
    run = find_recipe("shakespeare", [])
    model = Mine(**{name: value for name, value in vars(run.model).items() if name != "kind"})
    return run.model_copy(update={"model": model})
"""
    path = tmp_path / "mine.py"
    path.write_text(code)
    for verb, cure in ((["plan", str(path), "--hardware", "cpu", "--probe"], "plan it without"),
                       (["plan", "ladder", str(path)], "with compare")):  # fmt: skip
        done = subprocess.run([sys.executable, "-m", "corestone", *verb], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2
        (line,) = done.stderr.strip().splitlines()
        assert "model kind 'mine' was added by your recipe file" in line
        assert cure in line


def test_what_a_probe_took_counts_before_the_first_step(monkeypatch):
    ended = []

    def slow(run, precision, seconds, peak):
        time.sleep(0.2)
        ended.append(time.time() - began())
        return FOUND

    monkeypatch.setattr(plans, "probe", slow)
    run = find_recipe("shakespeare", ["training.length=1000000 steps"])
    plan = plan_built(run, guessed(run, 1e6, model_of(run)), "float32", 1e12, ALONE)
    assert plan["time"]["startup_seconds"] >= ended[0] - 0.02  # hundredths, twice


def test_a_probe_before_a_run_costs_a_twentieth_of_its_time_at_most(monkeypatch):
    """Short runs are not tried, longer ones for a moment, long ones for as long as `plan --probe` does."""
    tried = []
    monkeypatch.setattr(plans, "probe", lambda run, precision, seconds, peak: tried.append(seconds) or FOUND)
    for steps in (100, 2000, 1_000_000):
        run = find_recipe("shakespeare", [f"training.length={steps} steps"])
        before = len(tried)
        plan = plan_built(run, guessed(run, 1e6, model_of(run)), "float32", 1.4e12, ALONE)
        assert ("probe" in plan) == (len(tried) > before)
        assert plan["time"]["startup_seconds"] > 0
    assert 0 < tried[0] < tried[1] == SECONDS


def test_the_seconds_of_a_probe_follow_from_the_planned_time():
    for step, steps in ((0.1, 1000), (0.12, 1000), (0.12, 2000), (2.0, 1000), (2.0, 100), (60.0, 100), (60.0, 90)):
        total = step * steps
        seconds = plans._probe_seconds(
            {
                "time": {"step_seconds": step, "total_seconds": total + 9, "startup_seconds": 9.0},
                "memory": {"peak_bytes": 1e9, "capacity_bytes": 4e9},
            }
        )
        least = plans.PROBE_STARTUP_SECONDS + STEPS[0] * step
        assert (seconds > 0) == (least <= total / 20)
        assert seconds == 0 or plans.PROBE_STARTUP_SECONDS + seconds <= total / 20
        assert seconds <= SECONDS


def test_a_run_begins_with_its_process_unless_that_stood_idle():
    assert began_for(began() + 59) == pytest.approx(began(), abs=0.1)
    asked = began() + 3600
    assert began_for(asked) == asked


@pytest.mark.parametrize("name", ["shakespeare", "shakespeare-t5", "mnist-vit", "clip-emoji"])
def test_made_up_data_is_what_a_run_needs(name):
    """A step's batch, an evaluation and a checkpoint's files, of text, pictures and pairs."""
    run = find_recipe(name, [])
    shape = model_of(run)
    data = made_up_data(run, guessed(run, None, shape), shape)
    built = Built(run, data, ALONE, torch.float32)
    batch = built.loader.batch(0)
    assert len(batch) == built.examples
    built.loader.close()
    (figure,) = data.held_out(run, built.objective).run(built.model)
    assert figure.value > 0
    assert built.data.unit == ("tokens" if "shakespeare" in name else "pictures")
    assert len(data.samples(run, built.model)) == (len(run.samples.prompts) if built.data.unit == "tokens" else 0)
    assert data.held_out_units(run, built.objective) == run.evaluation.batch_size * (built.step_units // built.examples)


def test_the_whole_time_is_measured_where_one_process_trained(tmp_path):
    run = find_recipe("shakespeare", [])
    plan = plan_built(run, guessed(run, 1e6, model_of(run)), "float32", 1e13, ALONE)
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "recipe.yaml").write_text(to_yaml(run))
    (tmp_path / "environment.json").write_text(json.dumps({"began": 100.0, "finished": 170.0}))
    lines = [
        {"event": "train", "step": 1000, "time": 150.0, "tokens": 2_048_000, "tokens_per_second": 4e4},
        {"event": "end", "step": 1000, "time": 160.0, "tokens": 2_048_000},
    ]
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert figures.measured(read_run(tmp_path))["total_seconds"] == 70.0
    assert figures.measured(read_run(tmp_path))["conclusion_seconds"] == 10.0
    held = {one.name: one for one in held_to_account(plan, figures.measured(read_run(tmp_path)))}
    assert held["From start to end"].measured == "1:10"
    log.write_text("".join(json.dumps(line | {"time": line["time"] - 100}) + "\n" for line in lines))
    assert "total_seconds" not in figures.measured(read_run(tmp_path))  # another process wrote the first line
    (tmp_path / "environment.json").write_text(json.dumps({"began": 100.0}))
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    unfinished = figures.measured(read_run(tmp_path))
    assert not {"total_seconds", "conclusion_seconds"} & unfinished.keys()  # it was trained, and not evaluated


def test_a_process_knows_when_it_began():
    assert 0 < time.time() - began() < 24 * 3600
    assert began() == pytest.approx(began(), abs=0.1)
