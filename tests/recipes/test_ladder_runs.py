"""A whole ladder on tiny runs: killed and gone on with, held to the recipe's own run, and used by a plan."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_text import write_recipe, write_texts
from typer.testing import CliRunner

from corestone.cli.main import app
from corestone.core.errors import CheckpointError, DataError, SpecError
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.ladder import Asked, check_target, conclude, jobs_of, read_kept
from corestone.recipes.pretrain import pretrain
from corestone.report.folder import read_run

WORDS = ["tiny.yaml", "training.length=320 steps", "schedule.warmup=32 steps"]
LADDER = ["plan", "ladder", *WORDS, "--budget", "1e13FLOPs", "--rungs", "6", "--out", "lad"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def corestone(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "corestone", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory):
    """A working folder with texts, a recipe of one layer and two heads, and a ladder that was killed in its second run
    and gone on with; of its first call the modification times of the first run."""
    folder = tmp_path_factory.mktemp("ladder")
    before = Path.cwd()
    os.chdir(folder)
    write_texts(folder)
    write_recipe(folder / "tiny.yaml", steps=320)
    yield folder
    os.chdir(before)


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def killed(here: Path) -> dict[str, int]:
    """Kill the ladder when its second run has written a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "corestone", *LADDER],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    deadline = time.monotonic() + 500
    while not list(Path("lad/runs").glob("*-22/seed-0/checkpoints/step-*")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    (first,) = Path("lad/runs").glob("*-20")
    return times(first)


@pytest.fixture(scope="module")
def done(killed: dict[str, int]) -> dict:
    """The same command again, beside a run of the recipe itself; its JSON."""
    pretrain(find_recipe(WORDS[0], WORDS[1:]), Path("own"))
    result = corestone(*LADDER, "--target", "own", "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_killed_ladder_goes_on_and_trains_no_run_twice(killed, done):
    (first,) = Path("lad/runs").glob("*-20")
    assert times(first) == killed
    (second,) = Path("lad/runs").glob("*-22/seed-0.txt")
    assert "resuming" in second.read_text()
    kept = json.loads(Path("lad/ladder.json").read_text())
    assert kept == done
    ends = [read_run(Path(run["name"])).events.of("end")[-1]["step"] for run in done["runs"]]
    assert ends == [rung["steps"] for rung in done["ladder"]["rungs"]]
    assert len(ends) == 6


def test_rungs_are_small_and_schedules_shrink_with_them(done):
    ladder = done["ladder"]
    assert ladder["variables"] == ["tokens"]  # two sizes are too few for a law of parameters
    assert any("lengths alone vary" in note for note in ladder["notes"])
    assert ladder["flops"] <= 1e13
    for rung in ladder["rungs"]:
        assert rung["flops"] <= ladder["target"]["flops"] / 8
        run = find_recipe(f"lad/recipes/{rung['name']}.yaml", [])
        assert run.schedule.warmup.value == round(32 * rung["steps"] / 320)
        assert run.training.batch_tokens == 256


def test_the_recipes_own_run_is_compared(done):
    own = json.loads(Path("own/evaluation.json").read_text())["model"]
    (measured,) = (metric["value"] for metric in own if metric["name"] == "bits_per_byte")
    assert done["target_run"]["loss"] == measured
    assert done["target_run"]["error"] == pytest.approx(done["prediction"]["value"] / measured - 1)
    assert done["prediction"]["compute_factor"] == pytest.approx(8.0, rel=0.01)
    drawn = Path("lad/loss-over-compute.svg").read_text()
    assert "target, predicted" in drawn
    assert "target, measured" in drawn


def test_a_plan_uses_the_ladder(done):
    told = CliRunner().invoke(app, ["plan", *WORDS, "--hardware", "cpu", "--fit", "lad/ladder.json", "--json"])
    plan = json.loads(told.output)
    assert plan["loss"]["value"] == pytest.approx(done["prediction"]["value"], rel=1e-6)
    assert not any("another objective" in text for text in plan["warnings"])


def test_a_rung_that_fails_is_told_and_the_others_are_fitted(done):
    """Where too few are left for a law, the failures are told too."""
    shutil.copytree("lad", "failing")
    name = done["ladder"]["rungs"][1]["name"]
    shutil.rmtree(f"failing/runs/{name}")
    recipe = Path(f"failing/recipes/{name}.yaml")
    recipe.write_text(recipe.read_text().replace("[texts]", "[nowhere]"))
    result = corestone(*LADDER[:-1], "failing")
    failed = f"failing/runs/{name}/seed-0"
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"error: plan ladder: 1 of 6 runs failed: {failed}: "), last
    assert "nowhere" in last
    kept = json.loads(Path("failing/ladder.json").read_text())
    assert [one["name"] for one in kept["unusable_runs"]] == [failed]
    assert "nowhere" in kept["unusable_runs"][0]["reason"]
    assert len(kept["runs"]) == 5

    asked = Asked(find_recipe(WORDS[0], WORDS[1:]), "1e13FLOPs", 6)
    jobs = jobs_of(kept["ladder"], asked, Path("failing"))
    for job in (jobs[0], jobs[2]):
        shutil.rmtree(job.folder)
    failures = [f"{job.folder}: the disk is full" for job in jobs[:3]]
    with pytest.raises(DataError, match=r"3 of 6 runs failed: .*the disk is full; those that are left allow no fit"):
        conclude(asked, kept["ladder"], jobs, failures, Path("failing"))


def test_a_folder_of_another_ladder_or_of_anything_else_is_refused(done):
    run = find_recipe(WORDS[0], WORDS[1:])
    assert read_kept(Asked(run, "1e13FLOPs", 6), Path("lad")) is not None
    for other in (
        Asked(find_recipe(WORDS[0], [*WORDS[1:], "optimiser.learning_rate=0.01"]), "1e13FLOPs", 6),
        Asked(run, "2e13FLOPs", 6),
        Asked(run, "1e13FLOPs", 7),
        Asked(run, "1e13FLOPs", 6, seeds=2),
        Asked(run, "1e13FLOPs", 6, vary="length"),
    ):
        with pytest.raises(
            SpecError, match="lad: holds a ladder of another recipe, budget, --rungs, --seeds or --vary"
        ) as caught:
            read_kept(other, Path("lad"))
        assert "\n" not in str(caught.value)
    with pytest.raises(SpecError, match="is neither empty nor of a ladder"):
        read_kept(Asked(run, "1e13FLOPs", 6), Path("own"))
    with pytest.raises(SpecError, match=r"--target own: is of another recipe \(it differs in optimiser.learning_rate"):
        check_target(find_recipe(WORDS[0], [*WORDS[1:], "optimiser.learning_rate=0.01"]), Path("own"))
    with pytest.raises(CheckpointError, match="--target texts: no run folder"):
        check_target(run, Path("texts"))


def test_a_dry_run_writes_nothing_and_money_buys_none(here):
    before = set(Path().iterdir())
    shown = corestone(*LADDER[:-1], "dry", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "ladder towards tiny" in shown.stdout
    assert set(Path().iterdir()) == before
    refused = corestone("plan", "ladder", *WORDS, "--budget", "5USD", "--out", "dry")
    assert refused.returncode == 2
    assert refused.stderr == "error: --budget 5USD: a ladder runs on this machine; give minutes, hours or FLOPs\n"
