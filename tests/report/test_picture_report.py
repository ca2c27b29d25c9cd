"""Pages of runs on pictures: counted in pictures, judged by accuracy, with the pictures a recipe left in the folder."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from corestone.core.errors import CheckpointError
from corestone.core.runlog import RunLog
from corestone.core.spec import plain
from corestone.data.images.augment import denormalise, evaluation_picture
from corestone.evaluate.classification import Answers, calibration_error
from corestone.parallel.collectives import World
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.evaluate import evaluate
from corestone.recipes.evaluate_images import calibration, mistakes
from corestone.recipes.images import open_images
from corestone.recipes.pretrain import pretrain
from corestone.recipes.report_pictures import small_png, with_clear_gaps
from corestone.report.folder import PICTURE_BYTES, read_run
from corestone.report.own_rows import with_runs
from corestone.report.pictures import picture_page
from corestone.report.plots import matrix
from corestone.report.write import write_comparison, write_report
from corestone.zoo.mnist_cnn import mnist_cnn

SHARE = "share of pictures"
CLASSES = ["cat", "dog", "<b>cow"]
CONFUSION = [[8, 1, 1], [0, 5, 0], [2, 3, 0]]
RECIPE = """\
name: {name}
seed: {seed}
model: {{kind: convnet}}
objective: {{kind: classification}}
data:
  kind: images
  augmentation: {{size: [28, 24], channels: 1, steps: [{{kind: random_crop}}], mix: [{{kind: mixup}}]}}
training: {{batch_examples: 120, length: 4 steps}}
evaluation: {{pictures_while_training: 50}}
"""


def _metric(name: str, value: float, unit: str = SHARE, interval: list[float] | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "n": 20, "interval": interval}


def _png(shade: int, size: tuple[int, int] = (6, 4)) -> bytes:
    stream = io.BytesIO()
    Image.new("L", size, shade).save(stream, "png")
    return stream.getvalue()


def _run(folder: Path, name: str = "digits", seed: int = 0, accuracy: float = 0.65) -> Path:
    (folder / "pictures").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE.format(name=name, seed=seed))
    side = {"labelled": 40, "captions": 0}
    manifest = {
        "content": "pictures",
        "fingerprint": "p1c",
        "classes": CLASSES,
        "shape": [28, 24, 1],
        "channels": 1,
        "source": {"kind": "folder", "path": "farm"},
        "splits": {name: {"pictures": n, **side} for name, n in (("test", 20), ("train", 300), ("validation", 60))},
        "counts": {"read": 390, "kept": 380, "dropped": {"repeated picture": 7, "not a picture": 3}, "changed": {}},
    }
    card = {"title": "Farm", "licence": "CC0", "split": "by animal", "not_controlled": "The farmer."}
    (folder / "data.json").write_text(json.dumps([{"card": card, "manifest": manifest}]))
    evaluation = {
        "checkpoint": "step-0000004",
        "source": "farm",
        "split": "test",
        "model": [
            _metric("nats", 0.9, "nats/picture"),
            _metric("top1_accuracy", accuracy, interval=[0.43, 0.82]),
            _metric("mean_class_accuracy", 0.6),
            _metric("calibration_error", 0.0812),
            *(_metric(f"accuracy of {name}", v) for name, v in zip(CLASSES, (0.8, 1.0, 0.0), strict=True)),
        ],
        "floors": [_metric("majority_class_accuracy", 0.5), _metric("pixel_ridge_accuracy", 0.605)],
        "classes": CLASSES,
        "confusion": CONFUSION,
        "calibration": [{"n": 9, "confidence": 0.6, "accuracy": 0.5, "interval": [0.3, 0.7]}],
        "misclassified": [["row:7", 0, 1], ["row:3", 2, 0]],
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    (folder / "environment.json").write_text("{}")
    for number, name in enumerate(("augmented", "misclassified-00", "misclassified-01")):
        (folder / "pictures" / f"{name}.png").write_bytes(_png(number))
    with RunLog(folder) as log:
        for step in range(1, 5):
            log.log("train", step=step, pictures=120 * step, loss=1 / step, pictures_per_second=60.0)
        for step, value in ((2, 0.3), (4, 0.58)):
            log.log("evaluate", step=step, pictures=120 * step, metrics={"nats": 1.0, "top1_accuracy": value})
        log.log("anomaly", step=3, pictures=360, problem="the loss is nan")
        log.log("end", step=4, pictures=480)
    return folder


def _words(path: Path) -> str:
    """The page's visible text."""
    text = re.sub(r"<style>.*?</style>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([_run(tmp_path_factory.mktemp("runs") / "digits")])


@pytest.mark.parametrize(
    "words",
    [
        "Top-1 accuracy 65.00 % held-out pictures, 95 % interval 43.00 to 82.00",
        "Best floor 60.50 % pixel ridge; the model is 4.5 points above it",
        "Pictures seen 480 pictures 1.60 epochs of 300 pictures",
        "Training time 0:08 min:s",
        "Higher is better Top-1 accuracy, % 95 % interval n this model best 65.00 43.00 to 82.00 20 pixel ridge 60.50",
        "nats 0.900 nats/picture none 20 mean class accuracy 60.00 %",
        "Calibration error: 8.12 %",
        "&lt;b&gt;cow 0.00 dog (3), cat (2) none 20 cat 80.00 dog (1), &lt;b&gt;cow (1) none 20 dog 100.00 –",
        "7 of 20 held-out pictures are mistaken; these are the 2 of which the model is surest",
        "cat → dog &lt;b&gt;cow → cat",
        "the validation side&#39;s first 50, while training best floor, on the test side: pixel ridge",
        "What the model saw",
        "Training speed 60 pictures/s median of 4 log lines",
        "step 3, after 360 pictures problem: the loss is nan",
        "Pictures 28 x 24 x 1 Augmented random crop, mixup Batch 120 pictures per step",
        "Farm Licence CC0",
        "Classes 3: cat, dog, &lt;b&gt;cow Pixels 28 x 24 x 1",
        "Split pictures with a class train 300 40 validation 60 40 test 20 40",
        "380 of 390 pictures kept; dropped: repeated picture (7), not a picture (3).",
    ],
)
def test_the_page_says_what_the_folder_says(page: Path, words: str) -> None:
    assert words in _words(page)


def test_nothing_of_text_is_left_on_the_page(page: Path) -> None:
    shown = _words(page)
    assert not re.search(r"token|byte\b|[Hh]eld-out text|documents|Lower is better|No samples", shown)


def test_pictures_stand_in_the_page_and_nothing_else_is_reached_for(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)" width="6" height="4" alt="([^"]+)"', text)
    folder = page.parent / "pictures"
    order = ("misclassified-00", "misclassified-01", "augmented")
    assert [base64.b64decode(uri) for uri, _ in found] == [(folder / f"{name}.png").read_bytes() for name in order]
    assert found[0][1] == "row:7: of class cat, taken for dog"
    assert text.count("<img") == 3
    assert "style-src 'unsafe-inline'; img-src data:\">" in text
    assert re.findall(r"(?:https?:)?//[a-z]|@import|url\((?!#)|<script", re.sub(r"base64,[^\"]+", "", text)) == []


def test_a_run_without_pictures_may_show_none(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    shutil.rmtree(run / "pictures")
    text = write_report([run]).read_text(encoding="utf-8")
    assert "<img" not in text
    assert "img-src" not in text
    assert "What the model saw" not in text
    assert 'id="mistakes"' not in text
    with RunLog(tmp_path / "text") as log:
        log.log("train", step=1, tokens=5, loss=1.0)
    (tmp_path / "text" / "pictures").mkdir()
    (tmp_path / "text" / "pictures" / "augmented.png").write_bytes(_png(0))
    text = write_report([tmp_path / "text"]).read_text(encoding="utf-8")
    assert "<img" not in text
    assert "img-src" not in text
    assert "Held-out text" in text


def test_a_killed_run_is_judged_by_its_last_accuracy(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    (run / "evaluation.json").unlink()
    shown = _words(write_report([run]))
    assert "Top-1 accuracy 58.00 % last while training; not evaluated" in shown
    assert 'id="classes"' not in (run / "report.html").read_text(encoding="utf-8")


def test_before_anything_is_logged_the_recipe_tells_that_it_is_pictures(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(name="digits", seed=0))
    shown = _words(write_report([tmp_path]))
    assert "Top-1 accuracy not evaluated" in shown
    assert "Pictures seen not measured" in shown


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (_png(1)[:-5], "is no whole PNG file"),
        (b"<svg onload='alert(1)'/>", "is no whole PNG file"),
        (_png(1) + b"0" * PICTURE_BYTES, "is too large for a report"),
    ],
)
def test_a_damaged_picture_is_left_out_and_named(tmp_path: Path, content: bytes, note: str) -> None:
    run = _run(tmp_path / "run")
    (run / "pictures" / "misclassified-00.png").write_bytes(content)
    path = write_report([run])
    assert f"pictures/misclassified-00.png: {note}" in _words(path)
    assert path.read_text(encoding="utf-8").count("<img") == 2


ODD = (None, 7, "text", {}, [], [[]], [1, [2]], [["a", 99, -1]], [{"confidence": "high"}], [[-1, 2, 3]] * 3)


KEYS = ("classes", "confusion", "calibration", "misclassified", "floors", "split")


@pytest.mark.parametrize("value", ODD, ids=str)
def test_odd_values_cost_their_section_alone(tmp_path: Path, value: Any) -> None:
    run = _run(tmp_path / "run")
    told = json.loads((run / "evaluation.json").read_text())
    for key in KEYS:
        (run / "evaluation.json").write_text(json.dumps({**told, key: value}))
        page = picture_page(read_run(run))
        assert len(page.classes) == 3
        assert (page.calibration is None) == (key == "calibration")
    (run / "evaluation.json").write_text(json.dumps(told | dict.fromkeys(KEYS, value)))
    assert "Top-1 accuracy 65.00 %" in _words(write_report([run]))


def test_the_highest_accuracy_is_the_best_of_a_comparison(tmp_path: Path) -> None:
    low = [_run(tmp_path / "low" / f"seed-{seed}", "low", seed, 0.5 + 0.1 * seed) for seed in (0, 1)]
    high = [_run(tmp_path / "high" / "seed-0", "high", 0, 0.9)]
    shown = _words(write_comparison({"low": low, "high": high}, tmp_path / "out"))
    assert "Held-out, %" in shown
    assert "high best" in shown
    assert "low best" not in shown
    assert "low seeds 0, 1 55.00 ± 7.07 50.00 to 60.00" in shown
    assert "The budget of each run: 4 steps, 120 pictures per step." in shown
    assert "60 pictures/s" in shown
    assert not re.search(r"token|held-out text", shown)
    told = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert told["systems"][0]["mean"]["held_out"] == pytest.approx(0.55)
    assert {"pictures", "pictures_per_second"} <= set(told["systems"][1]["mean"])
    assert told["systems"][1]["curve"]["pictures"] == [240, 480]
    assert told["systems"][1]["curve"]["held_out"] == [0.3, 0.58]
    names = ["comparison.html", "comparison.json", "held-out-by-pictures.png", "held-out-by-time.png"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == names


def test_text_and_pictures_are_not_compared(tmp_path: Path) -> None:
    pictures, text = _run(tmp_path / "pictures"), tmp_path / "text"
    with RunLog(text) as log:
        log.log("train", step=1, tokens=5, tokens_per_second=2.0)
    for first, second in ((pictures, text), (text, pictures)):
        with pytest.raises(CheckpointError, match=r"a run on (text|pictures) does not compare with .* one kind"):
            write_report([first, second], tmp_path)
        with pytest.raises(CheckpointError, match="does not compare"):
            write_comparison({"a": [first], "b": [second]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_on_the_leaderboard_more_is_better(tmp_path: Path) -> None:
    found, _ = with_runs([], [_run(tmp_path / "run")])
    (board,) = found
    assert (board.name, board.lower_is_better, board.unit) == ("farm, test split, top-1 accuracy", False, SHARE)
    assert [row.value for row in board.rows] == [0.65]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda k: st.lists(st.lists(st.integers(0, 50), min_size=k, max_size=k), min_size=k, max_size=k)
    )
)
def test_a_matrix_shows_each_count_and_takes_its_colours_from_the_page(counts: list[list[int]]) -> None:
    svg = matrix("m", counts, [chr(97 + place) for place in range(len(counts))], "d")
    shown = re.findall(r">(\d+)<", svg)
    assert sorted(map(int, shown)) == sorted(n for row in counts for n in row if n)
    shares = [f"{100 * row[place] / sum(row):.0f} %" if sum(row) else "none" for place, row in enumerate(counts)]
    assert re.findall(r">(\d+ %|none)<", svg) == shares
    colours = set(re.findall(r"(?:stroke|fill): ([^;\"]+)", svg))
    assert colours <= {"none", "var(--c2)", "var(--c3)", "var(--line)", "var(--muted)", "var(--ink)"}


def _answers(confidence: list[float], right: list[bool], places: list[int] | None = None) -> Answers:
    n = len(right)
    return Answers(
        places_N=np.array(places or range(n), dtype=np.int64),
        labels_N=np.zeros(n, dtype=np.int64),
        guesses_N=np.array([0 if hit else 1 for hit in right], dtype=np.int64),
        ranks_N=np.zeros(n, dtype=np.int64),
        confidence_N=np.array(confidence),
        nats_N=np.zeros(n),
        classes=2,
    )


@given(st.lists(st.tuples(st.floats(0, 1) | st.integers(0, 15).map(lambda n: n / 15), st.booleans()), min_size=1))
def test_the_bins_of_the_chart_are_those_of_the_calibration_error(pairs: list[tuple[float, bool]]) -> None:
    found = _answers([c for c, _ in pairs], [hit for _, hit in pairs])
    told = calibration(found)
    assert sum(one["n"] for one in told) == len(pairs)
    assert all(one["interval"][0] - 1e-12 <= one["accuracy"] <= one["interval"][1] + 1e-12 for one in told)
    error = sum(one["n"] * abs(one["confidence"] - one["accuracy"]) for one in told) / len(pairs)
    wanted = calibration_error(found.confidence_N, found.guesses_N == found.labels_N)
    assert error == pytest.approx(wanted, abs=1e-9)


def test_a_mistake_keeps_its_class_where_pictures_without_one_lie_between() -> None:
    found = _answers([0.6, 0.9, 0.8, 0.7], [False, True, False, True], places=[1, 3, 4, 9])
    data = SimpleNamespace(sides={"test": SimpleNamespace(id=lambda place: f"row:{place}")})
    assert mistakes(found, data, "test") == [("row:4", 0, 1), ("row:1", 0, 1)]


@pytest.mark.parametrize("shape", [(28, 28, 1), (224, 96, 3), (300, 200, 4), (1, 400, 3)])
def test_a_picture_is_made_only_as_small_as_it_must_be(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    whole = np.asarray(Image.open(io.BytesIO(small_png(pixels, 10**9)))).reshape(shape)
    assert np.array_equal(whole, pixels)
    small = small_png(pixels, 3500)
    width, height = Image.open(io.BytesIO(small)).size
    assert len(small) <= 3500
    assert width / height == pytest.approx(shape[1] / shape[0], rel=0.5)


ALONE = World(rank=0, size=1, device=torch.device("cpu"))
SHORT = [
    "training.length=2 steps",
    "schedule.warmup=1 steps",
    "training.precision=float32",
    "evaluation.pictures_while_training=20",
    "rhythm.evaluate=2 steps",
    "rhythm.log=1 steps",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of a tiny network, with a batch that is smaller than the grid of pictures."""
    model = f"model={json.dumps(plain(mnist_cnn(7, (8, 8, 8, 8))))}"
    mix = "data.augmentation.mix=[{kind: mixup}]"
    folder = tmp_path_factory.mktemp("trained") / "run"
    pretrain(
        find_recipe("mnist", [model, mix, "training.batch_examples=20", *SHORT]), folder, console=Console(quiet=True)
    )
    return folder


def test_a_run_leaves_pictures_that_its_report_shows(trained: Path) -> None:
    files = sorted((trained / "pictures").iterdir())
    assert [file.name for file in files] == [
        "augmented.png",
        *(f"misclassified-{number:02d}.png" for number in range(24)),
    ]
    assert sum(file.stat().st_size for file in files) <= 200_000
    assert (trained / "report.html").read_text(encoding="utf-8").count("<img") == 25
    assert read_run(trained).notes == ()


def test_what_the_model_saw_is_the_beginning_of_the_first_step(trained: Path) -> None:
    run = find_recipe(str(trained / "recipe.yaml"), [])
    data = open_images(run, ALONE)
    with data.loader(run, 20, ALONE) as loader:
        seen = denormalise(data.spec.augmentation, loader.batch(0).images_BCHW)[:, 0].numpy()
    grid = np.asarray(Image.open(trained / "pictures" / "augmented.png"))
    assert grid.shape == (2 * 30 - 2, 8 * 30 - 2, 2)  # two rows of eight: 20 pictures hold no third
    for number, picture in enumerate(seen[:16]):
        top, left = number // 8 * 30, number % 8 * 30
        assert np.array_equal(grid[top : top + 28, left : left + 28, 0], picture)
    opaque = grid[:, :, 1] == 255
    assert opaque.sum() == 16 * 28 * 28
    assert set(np.unique(grid[:, :, 1])) == {0, 255}


def test_each_mistake_is_the_picture_of_its_id(trained: Path) -> None:
    run = find_recipe(str(trained / "recipe.yaml"), [])
    side = open_images(run, ALONE).sides["test"]
    places = {side.id(place): place for place in range(len(side))}
    told = json.loads((trained / "evaluation.json").read_text())
    for number, (name, label, guess) in enumerate(told["misclassified"][:24]):
        shown = np.asarray(Image.open(trained / "pictures" / f"misclassified-{number:02d}.png"))
        wanted = evaluation_picture(run.data.augmentation, side.pixels(places[name]))[0].numpy()
        assert np.array_equal(shown, wanted)
        assert label == side.labels[places[name]] != guess


def test_another_evaluation_replaces_the_pictures(trained: Path, tmp_path: Path) -> None:
    again = tmp_path / "run"
    shutil.copytree(trained, again)
    (again / "pictures" / "misclassified-99.png").write_bytes(_png(0))
    evaluate(again, precision="float32", console=Console(quiet=True))
    assert sorted(file.name for file in (again / "pictures").iterdir()) == sorted(
        file.name for file in (trained / "pictures").iterdir()
    )


def test_one_picture_has_no_gaps() -> None:
    grid = np.full((5, 7, 3), 9, dtype=np.uint8)
    assert (with_clear_gaps(grid, (5, 7), 1)[:, :, 3] == 255).all()
