"""Comparing recipes: equal budgets alone, each seed trained once whatever stops it, a page that says what runs say."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from tiny_text import write_recipe, write_texts

from corestone.core.errors import CheckpointError, CorestoneError, Interrupted, SpecError
from corestone.recipes import compare as module
from corestone.recipes.budget import budget, contenders, shoot_out
from corestone.recipes.catalogue import PUBLISHED, find_recipe
from corestone.recipes.compare import compare, finished
from corestone.recipes.pretrain import pretrain

RECIPES = ["narrow.yaml", "wide.yaml"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with texts and two recipes."""
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path)
    for name, width in (("narrow", 32), ("wide", 48)):
        write_recipe(tmp_path / f"{name}.yaml", width)
    return tmp_path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs are trained in this process, which spares the start of one each; the list tells which."""
    done: list[str] = []

    def train(job, lock, stop):
        done.append(f"{job.run.name} {job.run.seed}")
        pretrain(find_recipe(job.recipe, [*job.assignments]), job.folder, console=Console(quiet=True))
        return None

    monkeypatch.setattr(module, "_in_own_process", train)
    return done


def told(page: Path) -> dict:
    return json.loads(page.with_name("comparison.json").read_text())


def bits(run: Path) -> float:
    metrics = json.loads((run / "evaluation.json").read_text())["model"]
    return next(metric["value"] for metric in metrics if metric["name"] == "bits_per_byte")


def test_every_seed_is_trained_once_and_the_page_says_what_the_runs_say(here, trained):
    out = Path("out")
    found = contenders(RECIPES, [])
    compare(found, 1, out, Console(quiet=True))
    assert trained == ["narrow 0", "wide 0"]
    page = compare(found, 2, out, Console(quiet=True))  # more seeds: what is finished stays
    assert trained == ["narrow 0", "wide 0", "narrow 1", "wide 1"]
    assert page == out / "comparison.html"
    systems = told(page)["systems"]
    assert [system["name"] for system in systems] == ["narrow", "wide"]
    for system in systems:
        values = [bits(out / system["name"] / f"seed-{seed}") for seed in (0, 1)]
        assert [run["held_out"] for run in system["runs"]] == values
        assert system["mean"]["held_out"] == pytest.approx(statistics.fmean(values))
        assert system["standard_deviation"]["held_out"] == pytest.approx(statistics.stdev(values))
        assert [run["seed"] for run in system["runs"]] == [0, 1]
        curve = system["curve"]
        assert curve["tokens"] == [2560, 5120, 7680]
        assert curve["seconds"] == sorted(curve["seconds"])
        bands = zip(curve["lowest"], curve["held_out"], curve["highest"], strict=True)
        assert all(low <= middle <= high and low < high for low, middle, high in bands)
        shown = f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"
        assert shown in page.read_text()
    assert all(out.joinpath(f"held-out-by-{x}.png").read_bytes()[:4] == b"\x89PNG" for x in ("tokens", "time"))


def test_a_stop_ends_the_comparison_and_the_next_call_goes_on(here, trained, monkeypatch):
    train, stopped = module._in_own_process, []

    def stop_in_the_second(job, lock, stop):
        if not stopped and trained:
            stopped.append(job)
            stop.signum = signal.SIGTERM
            return None
        return train(job, lock, stop)

    monkeypatch.setattr(module, "_in_own_process", stop_in_the_second)
    with pytest.raises(Interrupted, match="stopped in run 2 of 2"):
        compare(contenders(RECIPES, []), 1, Path("out"), Console(quiet=True))
    compare(contenders(RECIPES, []), 1, Path("out"), Console(quiet=True))
    assert trained == ["narrow 0", "wide 0"]


def test_a_run_that_fails_keeps_no_other_from_training(here, monkeypatch, trained):
    train = module._in_own_process
    monkeypatch.setattr(
        module, "_in_own_process", lambda job, *rest: "no" if job.run.name == "narrow" else train(job, *rest)
    )
    with pytest.raises(CorestoneError, match=r"1 of 2 runs failed.*narrow/seed-0: no"):
        compare(contenders(RECIPES, []), 1, Path("out"), Console(quiet=True))
    assert [system["name"] for system in told(Path("out/comparison.html"))["systems"]] == ["wide"]


def test_a_run_counts_as_finished_with_everything_there_alone(here, trained):
    compare(contenders(RECIPES[:1], []), 1, Path("out"), Console(quiet=True))
    run = Path("out/narrow/seed-0")
    assert finished(run)
    told = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(told | {"checkpoint": "checkpoints/step-0000021"}))
    assert not finished(run), "it was evaluated before its end"
    (run / "evaluation.json").write_text("{")
    assert not finished(run), "a kill cut the evaluation"
    (run / "evaluation.json").write_text(json.dumps(told))
    log = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text("".join(f"{x}\n" for x in log.splitlines() if '"event": "end"' not in x))
    assert not finished(run), "a kill came before the log's last line"
    compare(contenders(RECIPES[:1], []), 1, Path("out"), Console(quiet=True))
    assert finished(run)
    (run / "report.html").unlink()
    assert not finished(run)


def test_another_recipe_in_the_folder_is_refused_before_anything_is_trained(here, trained):
    compare(contenders(RECIPES[1:], []), 1, Path("out"), Console(quiet=True))
    with pytest.raises(CheckpointError, match=r"out/wide/seed-0.*training\.length"):
        compare(contenders(RECIPES, ["training.length=9 steps"]), 1, Path("out"), Console(quiet=True))
    assert trained == ["wide 0"]


def test_budgets_must_agree(here):
    with pytest.raises(SpecError, match=r"narrow\.yaml and shakespeare have different budgets .*data\.tokenizer"):
        contenders(["narrow.yaml", "shakespeare"], [])
    (here / "long.yaml").write_text((here / "wide.yaml").read_text().replace("30 steps", "31 steps"))
    with pytest.raises(SpecError, match=r"\(they differ in training\.length\)"):
        contenders(["narrow.yaml", "long.yaml"], [])
    assert len(contenders(["narrow.yaml", "long.yaml"], ["training.length=8 steps"])) == 2


def test_names_must_differ(here):
    with pytest.raises(SpecError, match="both give a run named 'narrow'"):
        contenders(["narrow.yaml", "./narrow.yaml"], [])


def test_several_ranks_are_refused(here, trained, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SpecError, match="without torchrun"):
        compare(contenders(RECIPES, []), 1, Path("out"), Console(quiet=True))


def test_the_shoot_out_is_every_shipped_recipe_of_the_main_jobs_budget():
    names = {"shakespeare", *(f"shakespeare-{name}" for name in ("gptj", "primer", "opt", "bloom", "palm"))}
    found = {name.removeprefix("language/") for name in shoot_out()}
    assert found >= names
    assert not found & {name.removeprefix("language/") for name in PUBLISHED}
    main = find_recipe("shakespeare", [])
    for contender in contenders([], []):
        assert budget(contender.run) == budget(main)
        assert contender.run.objective == main.objective


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "corestone", "compare", *RECIPES, "--seeds", "2", "--out", "out", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True, **pipes)


def until_it_trains(process: subprocess.Popen[str], run: int) -> None:
    """Read on until a run has made its first steps."""
    begun = False
    assert process.stdout is not None
    for line in process.stdout:
        begun = begun or f"run {run} of" in line
        if begun and line.startswith("step"):
            return
    raise AssertionError("the comparison ended too early")


def hashes(run: Path) -> list[str]:
    folder = run / "checkpoints" / "step-0000500"
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("model.safetensors", "state.json")]


@pytest.mark.slow
def test_kills_and_stops_change_no_bit_and_repeat_nothing(here):
    long = ["training.length=500 steps", "rhythm.evaluate=100 steps"]
    process = start(*long)
    until_it_trains(process, 2)
    process.kill()  # the run's own process stays behind, saves and stops
    first = Path("out/narrow/seed-0/metrics.jsonl")
    log = first.read_bytes()
    process = start(*long)
    until_it_trains(process, 1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the comparison and the run's process
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert output.splitlines()[-1] == "stopped in run 1 of 3; everything is saved; run the same command again to go on"
    process = start(*long)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "4 runs, 1 of them finished" in output
    assert "resuming" in output
    assert first.read_bytes() == log
    assert finished(Path("out/narrow/seed-1"))
    pretrain(find_recipe("narrow.yaml", [*long, "seed=1"]), Path("alone"), console=Console(quiet=True))
    assert hashes(Path("out/narrow/seed-1")) == hashes(Path("alone"))


@pytest.mark.slow
def test_what_went_wrong_in_a_run_is_told_in_one_line(here):
    process = start("model.embedding.vocab_size=200")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert "Traceback" not in output
    (line,) = (line for line in output.splitlines() if line.startswith("error:"))
    assert "4 of 4 runs failed" in line
    assert "the tokenizer needs 257" in line
