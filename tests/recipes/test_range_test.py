"""Range tests: the curve of a known loss is read off right, real runs of all kinds end as they must, one page tells."""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from corestone.cli.main import app
from corestone.core.errors import CheckpointError, CorestoneError, SpecError
from corestone.core.protocols import Loss
from corestone.core.runlog import read_events
from corestone.core.spec import to_yaml
from corestone.objectives.next_token import NextTokenObjective
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.range_test import Climb, Over, check_free, range_test, risen
from corestone.recipes.space import RATES, read_rates
from corestone.report.range_test import BLOWN_UP, lines, read_off


def quietly() -> Console:
    return Console(record=True, width=200, file=open(os.devnull, "w"))


def rates(steps: int) -> list[float]:
    return [10 ** (-6 + 6 * step / (steps - 1)) for step in range(steps)]


def valley(rate: float) -> float:
    """Falls as a logistic curve in the logarithm, fastest at 1e-3, and is blown up by a term that grows from 1e-2 on:
    the sum is least where 4 s (1 - s) / 0.3 = 2 d blown / d log10, at 5.5e-3."""
    x = math.log10(rate)
    return 6 - 4 / (1 + math.exp(-(x + 3) / 0.3)) + (rate / 1e-2) ** 2


def test_places_of_a_known_curve():
    """With noise of 2 %; worst seen over 50 seeds, in powers of ten: steepest 0.23, suggested 0.03, least 0.03."""
    steps = rates(200)
    exact = min(steps, key=valley)
    slows = next(rate for rate in steps if valley(rate) <= valley(exact) + 0.2 * (valley(1e-6) - valley(exact)))
    assert slows == pytest.approx(1.8e-3, rel=0.01)
    worst = dict.fromkeys(("steepest", "suggested", "least"), 0.0)
    for seed in range(10):
        draw = random.Random(seed)
        losses = [valley(rate) * (1 + 0.02 * draw.gauss(0, 1)) for rate in steps]
        end = next(place for place, rate in enumerate(steps) if rate > exact and losses[place] > 2 * min(losses))
        found = read_off(RATES, 200, steps[: end + 1], losses[: end + 1], "it ended", True)
        for name, at, true in (
            ("steepest", found.steepest, 1e-3),
            ("suggested", found.suggested, slows),
            ("least", found.least, exact),
        ):
            worst[name] = max(worst[name], abs(math.log10(at / true)))
        assert found.diverged == steps[end]
        assert found.why_none == ""
    assert worst["steepest"] < 0.3, worst
    assert worst["suggested"] < 0.1, worst
    assert worst["least"] < 0.1, worst


def test_no_rate_is_suggested_where_the_curve_has_none():
    steps, draw = rates(100), random.Random(0)
    flat = read_off(RATES, 100, steps, [5 + 0.1 * draw.gauss(0, 1) for _ in steps], "it took all", False)
    assert (flat.steepest, flat.least, flat.diverged, flat.suggested) == (None, None, None, None)
    assert "never fell" in flat.why_none
    falling = read_off(RATES, 100, steps, [6 - math.log10(rate * 1e6) / 2 for rate in steps], "it took all", False)
    assert falling.suggested is None
    assert "still falling at the highest rate" in falling.why_none
    short = read_off(RATES, 100, steps[:6], [5.0, 5, 5, 5, 5, math.nan], "it ended", True)
    assert "too few to read" in short.why_none
    assert short.diverged == steps[5]


def test_a_single_huge_loss_does_not_flatten_the_rest_of_the_curve():
    steps = rates(100)[:70]
    losses = [valley(rate) for rate in steps]
    whole = read_off(RATES, 100, steps, losses, "it ended", True)
    spoilt = read_off(RATES, 100, steps, [*losses[:-1], 1e9], "it ended", True)
    assert max(spoilt.smoothed) <= 2 * valley(1e-6)
    assert (spoilt.steepest, spoilt.suggested, spoilt.least) == (whole.steepest, whole.suggested, whole.least)


def test_a_climb_ends_where_the_mean_loss_is_twice_its_best():
    climb = Climb(50)  # means are of two
    for loss in (4.0, 2.0, 2.0, 3.9, 4.0):
        climb.step(1e-3, loss)
    with pytest.raises(Over):
        climb.step(1e-3, 4.2)
    assert climb.ended.startswith("it ended after 6")
    assert BLOWN_UP == 2.0


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], (RATES, [])),
        (["1e-5:0.1", "seed=3"], ((1e-5, 0.1), ["seed=3"])),
        (["seed=3", "1e-5:0.1"], ((1e-5, 0.1), ["seed=3"])),
    ],
)
def test_words_are_read(words, found):
    assert read_rates(words) == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["1:0.1"], "no LOW:HIGH"),
        (["0:1"], "no LOW:HIGH"),
        (["1e-5"], "no LOW:HIGH"),
        (["1e-5:1:log"], "no LOW:HIGH"),
        (["1e-5:1", "1e-6:1"], "a second LOW:HIGH"),
        (["optimiser.beta1=0.8:0.9"], "varies the learning rate alone"),
        (["seed=1,2"], "varies the learning rate alone"),
    ],
)
def test_a_bad_word_gives_one_clear_line(words, said):
    with pytest.raises(SpecError, match=re.escape(said)):
        read_rates(words)


def test_a_test_of_a_small_run_on_text(here):
    """A real one: it falls, blows up, ends before its last step, and leaves a whole folder."""
    console = quietly()
    page = range_test(find_recipe("tiny.yaml", []), Path("out"), (1e-5, 100.0), 100, console)
    found = json.loads(Path("out/range-test.json").read_text())
    events = read_events(Path("out")).of("train")
    assert len(events) < 100, "it did not end when the loss had blown up"
    assert [event["learning_rate"] for event in events[:-1]] == found["rates"]
    assert [event["loss"] for event in events[1:]] == found["losses"]
    assert found["rates"][0] == pytest.approx(1e-5)
    assert found["rates"][1] / found["rates"][0] == pytest.approx(1e7 ** (1 / 99))
    assert found["diverged"] == found["rates"][-1]
    assert found["rates"][0] < found["steepest"] < found["least"] < found["diverged"]
    assert found["rates"][0] < found["suggested"] <= found["least"]
    printed = console.export_text()
    for name, rate, _ in lines(found):
        assert name in printed
        assert f"{rate:.3g}" in printed
    assert Path("out/range-test.png").read_bytes().startswith(b"\x89PNG")
    html = page.read_text()
    assert "Learning-rate range test" in html
    assert f"{found['suggested']:.3g}" in html
    assert "Finished at step" in html
    assert not list(Path("out").glob("checkpoints/*"))
    with pytest.raises(CheckpointError, match="name one with --out"):
        range_test(find_recipe("tiny.yaml", []), Path("out"), steps=100, console=console)


@pytest.mark.parametrize(("high", "steps"), [(1e12, 60), (1e20, None)])
def test_a_loss_that_is_not_finite_ends_the_test(here, high, steps):
    """Where steps are not said, three are timed; to 1e20 in three steps, the loss of the third is nan."""
    run = find_recipe("tiny.yaml", ["training.clip_norm=null", "optimiser={kind: sgd, learning_rate: 0.1}"])
    range_test(run, Path("out"), (1e-3, high), steps, quietly())
    found = json.loads(Path("out/range-test.json").read_text())
    assert re.search(r"is (nan|inf)|times its best", found["ended"])
    assert found["diverged"] == found["rates"][-1]


@pytest.mark.parametrize("steps", [60, None])
def test_a_loss_that_is_not_finite_from_the_start_is_not_the_rates_fault(here, monkeypatch, steps):
    given = NextTokenObjective.loss

    def broken(self, model, batch):
        loss = given(self, model, batch)
        return Loss(loss.total * math.inf, loss.weight)

    monkeypatch.setattr(NextTokenObjective, "loss", broken)
    with pytest.raises(CorestoneError, match="is inf before any step was taken; the model, its start or its data"):
        range_test(find_recipe("tiny.yaml", []), Path("out"), (1e-5, 1.0), steps, quietly())


@pytest.mark.parametrize(
    "optimiser",
    [
        "{kind: lion, learning_rate: 1e-4}",
        "{kind: adafactor, learning_rate: 1e-2}",
        "{kind: sgd, learning_rate: 0.1}",
        "{kind: lamb, learning_rate: 1e-3}",
    ],
)
def test_every_optimiser_is_tested(here, optimiser):
    run = find_recipe("tiny.yaml", [f"optimiser={optimiser}"])
    range_test(run, Path("out"), (1e-5, 10.0), 60, quietly())
    found = json.loads(Path("out/range-test.json").read_text())
    assert found["suggested"] is not None, found["why_none"]


@pytest.mark.parametrize("name", ["mnist-vit", "clip-emoji"])
def test_pictures_and_pairs_are_tested(tmp_path, name):
    """Whole recipes with small batches run to the end, on objectives whose losses add up and one whose do not."""
    range_test(find_recipe(name, ["training.batch_examples=16"]), tmp_path / "out", steps=20, console=quietly())
    found = json.loads((tmp_path / "out" / "range-test.json").read_text())
    assert len(found["rates"]) >= 15
    assert "smoothed loss, nats<" in (tmp_path / "out" / "report.html").read_text()


def test_the_recipe_of_a_test_keeps_what_is_learnt():
    run = find_recipe("mnist", [])
    tested = risen(run, (1e-6, 1.0), 100)
    for axis in ("model", "objective", "data", "seed", "start"):
        assert getattr(tested, axis) == getattr(run, axis)
    assert tested.training.batch_examples == run.training.batch_examples
    assert tested.training.clip_norm == run.training.clip_norm
    assert tested.optimiser.learning_rate == 1.0
    assert tested.schedule.initial == 1e-6


def test_an_unfinished_test_begins_anew(here):
    command = [
        sys.executable,
        "-m",
        "corestone",
        "sweep",
        "tiny.yaml",
        "--range-test",
        "--steps",
        "300",
        "--out",
        "out",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not Path("out/metrics.jsonl").exists() or len(read_events(Path("out")).rows) < 3:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "begins anew" in said
    assert not Path("out/range-test.json").exists()
    range_test(find_recipe("tiny.yaml", []), Path("out"), steps=40, console=quietly())
    assert [event["step"] for event in read_events(Path("out")).of("train")][:3] == [1, 2, 3]
    assert json.loads(Path("out/range-test.json").read_text())["steps"] == 40


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["name=other"], r"an unfinished test of tiny \(it differs in name\)"),
        (["data.context_length=16"], "it differs in data.context_length"),
        (["optimiser={kind: lion, learning_rate: 1e-4}"], "it differs in optimiser"),
    ],
)
def test_an_unfinished_test_of_another_recipe_is_left_alone(here, changed, said):
    Path("out").mkdir()
    Path("out/recipe.yaml").write_text(to_yaml(risen(find_recipe("tiny.yaml", changed), RATES, 100)))
    with pytest.raises(CheckpointError, match=said):
        check_free(find_recipe("tiny.yaml", []), Path("out"))
    other_rates = risen(find_recipe("tiny.yaml", ["optimiser.learning_rate=0.1"]), (1e-5, 10.0), 200)
    Path("out/recipe.yaml").write_text(to_yaml(other_rates))
    check_free(find_recipe("tiny.yaml", []), Path("out"))


def test_the_command_line_refuses_what_does_not_go_together(here):
    def said(*words: str) -> str:
        return str(CliRunner().invoke(app, ["sweep", "tiny.yaml", *words]).exception)

    assert "--trials, --no-prune: of a search alone" in said("--range-test", "--trials", "3", "--no-prune")
    assert "--steps is of the range test" in said("--steps", "100", "seed=1,2")
    assert "no LOW:HIGH" in said("--range-test", "1:0.5")


def test_two_ranks_find_what_one_does(here):
    """Losses agree until the curve blows up; worst seen over the first half 7.2e-7 nats."""
    typed = [sys.executable, "-m", "corestone", "sweep", "tiny.yaml", "--range-test", "1e-5:100", "--steps", "40"]
    found = {}
    for ranks in (1, 2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        base = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(
                [*typed, "--out", f"of-{ranks}"],
                env=base | ({"RANK": str(rank), "WORLD_SIZE": str(ranks)} if ranks > 1 else {}),
                stdout=subprocess.DEVNULL,
            )
            for rank in range(ranks)
        ]
        assert [process.wait(timeout=120) for process in processes] == [0] * ranks
        found[ranks] = json.loads(Path(f"of-{ranks}/range-test.json").read_text())
    one, two = found[1], found[2]
    assert one["suggested"] == two["suggested"]
    half = len(one["losses"]) // 2
    assert one["losses"][:half] == pytest.approx(two["losses"][:half], abs=1e-5)
