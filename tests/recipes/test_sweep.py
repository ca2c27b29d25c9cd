"""Sweeps: ranges are read as written, trials are counted once whatever stops them, weak ones end early, one page."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from corestone.core.errors import CorestoneError, SpecError
from corestone.core.runlog import read_events
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.space import Choice, Range, check_space, read_space
from corestone.recipes.sweep import Plan, load_optuna, sweep


def plan(*words: str, **settings) -> Plan:
    space, fixed = read_space(words)
    return Plan("tiny.yaml", space, fixed, **settings)


def run(planned: Plan, out: Path) -> tuple[dict, str]:
    """A sweep's JSON and what it printed."""
    console = Console(record=True, width=200, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115
    page = sweep(planned, out, console)
    return json.loads((page.parent / "sweep.json").read_text()), console.export_text()


def test_words_are_read_as_ranges_choices_and_overrides():
    space, fixed = read_space(
        ["a.b=1e-4:1e-2", "c=0.1:0.2", "d=2:64", "e=1:4", "f=1:100:linear", "g=2:3:log", "h=x,y", "i=3", "j=[1,2]"]
    )
    assert space == [
        Range("a.b", 1e-4, 1e-2, log=True, whole=False),
        Range("c", 0.1, 0.2, log=False, whole=False),
        Range("d", 2, 64, log=True, whole=True),
        Range("e", 1, 4, log=False, whole=True),
        Range("f", 1, 100, log=False, whole=True),
        Range("g", 2, 3, log=True, whole=True),
        Choice("h", ("x", "y")),
    ]
    assert fixed == ["i=3", "j=[1,2]"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optimiser.learning_rate=1:0.1", "the range is empty"),
        ("optimiser.learning_rate=0.1:x", "of two numbers"),
        ("optimiser.learning_rate=0:1:log", "begins above 0"),
        ("optimiser.learning_rate=0.1:1:cubic", "log or linear, not 'cubic'"),
        ("training.length=10 steps,,20 steps", "different values, none of them empty"),
        ("0.1:0.2", "no path=low:high"),
        ("seed=3", "nothing is searched"),
    ],
)
def test_a_bad_word_gives_one_clear_line(word, said):
    with pytest.raises(SpecError, match=re.escape(said)) as caught:
        read_space([word])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optimiser.learning_rat=1e-4:1e-2", "did you mean 'learning_rate'?"),
        ("optimiser.beta2=0.9:1.5", "less than 1"),
        ("model.stack.width=32.5:64.5", "valid integer"),
        ("optimiser.kind=adamw,adam", "'adam'"),
    ],
)
def test_paths_and_values_that_the_recipe_refuses_are_named_before_anything_is_trained(here, word, said):
    space, _ = read_space([word])
    with pytest.raises(SpecError, match=re.escape(said)) as caught:
        check_space(find_recipe("tiny.yaml", []), space)
    assert "\n" not in str(caught.value)
    assert word.split("=")[0] in str(caught.value)


def test_without_optuna_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SpecError, match=r"pip install 'corestone\[sweep\]'"):
        load_optuna()


def test_a_sweep_prunes_is_added_to_and_writes_one_page(here):
    """A whole sweep of real runs; some of the rates are far too low."""
    words = ("optimiser.learning_rate=1e-5:3e-2", "optimiser.eps=1e-8:1e-6")
    found, printed = run(plan(*words, trials=4, jobs=2), Path("out"))
    trials = found["trials"]
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]
    pruned = [trial for trial in trials if trial["state"] == "pruned"]
    finished = [trial for trial in trials if trial["state"] == "finished"]
    assert pruned, "none of four rates was pruned"
    assert finished
    for trial in pruned:  # it stopped early: its log ends before the 12 steps do, at a score of the halving
        log = read_events(Path(trial["folder"]))
        assert not log.of("end")
        assert log.rows[-1]["step"] < 12
        assert len(trial["scores"]) in (1, 2, 4)
    for trial in finished:
        scores = [event["metrics"]["bits_per_byte"] for event in read_events(Path(trial["folder"])).of("evaluate")]
        assert trial["scores"] == scores
        assert len(scores) == 6
    best = min(finished, key=lambda trial: trial["scores"][-1])
    assert f"optimiser.learning_rate={best['values']['optimiser.learning_rate']}" in printed
    html = Path("out/sweep.html").read_text()
    assert html.count("<svg") == 3  # the score against both keys, and the curves
    assert not re.search(r"(src|href)=\"(?!#)", html)
    # More trials are added; none of the first is trained again.
    before = {path: path.stat().st_mtime_ns for path in Path("out/trials").glob("*/metrics.jsonl")}
    found, _ = run(plan(*words, trials=5), Path("out"))
    assert found["trials"][:4] == trials
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    with pytest.raises(SpecError, match="another recipe or of other ranges"):
        run(plan("optimiser.learning_rate=1e-5:1e-2"), Path("out"))
    with pytest.raises(SpecError, match="judged by 'bits_per_byte', not 'nats_per_token'"):
        run(plan(*words, metric="nats_per_token"), Path("out"))


def test_a_trial_that_fails_is_counted_with_its_reason(here):
    with pytest.raises(CorestoneError, match="none of 1 trials finished"):
        run(plan("training.batch_tokens=250,251", trials=1), Path("out"))
    (trial,) = json.loads(Path("out/sweep.json").read_text())["trials"]
    assert trial["state"] == "failed"
    assert "batch_tokens" in trial["reason"]
    assert f"Trial 0 failed: {trial['reason'][:20]}" in Path("out/sweep.html").read_text()


def test_an_unknown_metric_is_one_line_with_the_known_ones(here):
    with pytest.raises(SpecError, match=r"unknown metric 'bits': .*bits_per_byte"):
        run(plan("optimiser.learning_rate=1e-4:1e-2", trials=1, metric="bits"), Path("out"))


def test_a_killed_sweep_goes_on_and_counts_no_trial_twice(here):
    command = [sys.executable, "-m", "corestone", "sweep", "tiny.yaml", "optimiser.learning_rate=1e-4:1e-2"]
    command += ["training.length=40 steps", "--trials", "2", "--no-prune", "--out", "out"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    first = Path("out/trials/0000/checkpoints")
    deadline = time.monotonic() + 300
    while not list(first.glob("step-*")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    subprocess.run(command, capture_output=True, text=True, check=True)
    assert "resuming" in Path("out/trials/0000.txt").read_text()
    found = json.loads(Path("out/sweep.json").read_text())["trials"]
    assert [(trial["number"], trial["state"]) for trial in found] == [(0, "finished"), (1, "finished")]
    assert sorted(path.name for path in Path("out/trials").iterdir() if path.is_dir()) == ["0000", "0001"]
    assert [len(trial["scores"]) for trial in found] == [20, 20]
