"""What a run is scored on later stays in its folder: one row per evaluation, whatever happens meanwhile."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from corestone.core.units import duration
from corestone.data.spec import Bytes, Component, Data, Files
from corestone.evaluate.spec import SGD
from corestone.objectives.spec import NextToken
from corestone.optim.spec import AdamW, Constant
from corestone.recipes.evaluate import evaluate
from corestone.recipes.kept import SAME, keep
from corestone.recipes.pretrain import pretrain
from corestone.recipes.spec import Run, Samples
from corestone.recipes.tasks import Asked, evaluate_task
from corestone.report.folder import EVALUATIONS, read_run
from corestone.report.write import write_report
from corestone.train.archive import identity, locate
from corestone.train.spec import Training
from corestone.zoo.gpt import gpt2

QUIET = Console(quiet=True)
LINE = " ".join("the_stone_lay_on_the_wall")
SPEECH = "It was said that the two of them had seen the old stone wall again and again. " * 60


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    (folder / "text.txt").write_text(SPEECH, encoding="utf-8")
    (folder / "ptb.char.test.txt").write_text(f"{LINE} \n" * 9, encoding="utf-8")
    source = Files(paths=(str(folder / "text.txt"),), validation_percent=40.0)
    recipe = Run(
        name="tiny",
        model=gpt2(32, 1, 2, vocab_size=320, context_length=64),
        objective=NextToken(),
        data=Data(components=(Component(source=source),), tokenizer=Bytes(), context_length=64),
        optimiser=AdamW(learning_rate=0.01),
        schedule=Constant(),
        training=Training(length=duration("3 steps"), batch_tokens=256, precision="float32"),
        samples=Samples(prompts=()),
    )
    pretrain(recipe, folder / "run", console=QUIET)
    return folder


@pytest.fixture
def run(trained: Path) -> Path:
    (trained / "run" / EVALUATIONS).unlink(missing_ok=True)
    return trained / "run"


def rows(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / EVALUATIONS).read_text(encoding="utf-8").splitlines()]


def test_a_task_is_kept_with_what_was_asked_and_the_newer_replaces_the_older(run: Path) -> None:
    data = str(run.parent / "ptb.char.test.txt")
    result = evaluate_task(run, "ptb_char", Asked(data=data), console=QUIET)
    (row,) = rows(run)
    assert {key: value for key, value in row.items() if key != "time"} == result
    assert {key: row[key] for key in ("task", "variant", "shots", "stride", "context", "dynamic", "documents")} == {
        **{"task": "ptb_char", "variant": "characters", "shots": None, "stride": 64, "context": 64},
        **{"dynamic": None, "documents": 1},
    }
    assert (row["step"], row["weights"]) == identity(locate(run))
    assert row["step"] == 3
    evaluate_task(run, "ptb_char", Asked(data=data, batch_size=1), console=QUIET)  # changes the speed alone
    (again,) = rows(run)
    assert again["time"] > row["time"]
    evaluate_task(run, "ptb_char", Asked(data=data, stride=8), console=QUIET)
    evaluate_task(run, "ptb_char", Asked(data=data, dynamic=SGD(segment=8)), console=QUIET)
    evaluate_task(run, "last_word", Asked(shots=2), console=QUIET)
    found = rows(run)
    assert [(row["task"], row["stride"], row["shots"]) for row in found] == [
        ("ptb_char", 64, None),
        ("ptb_char", 8, None),
        ("ptb_char", 64, None),
        ("last_word", None, 2),
    ]
    assert found[2]["dynamic"] == {"kind": "sgd", "eta": 0.03, "lam": 0.002, "segment": 8}
    assert [metric["name"] for metric in found[2]["model"]] == ["bits_per_character", "bits_per_character_dynamic"]
    assert found[3]["documents"] == found[3]["model"][0]["n"] > 2
    assert all(len(metric["convention"]) > 40 for row in found for metric in row["model"])


def test_other_text_and_dynamic_evaluation_leave_the_runs_own_evaluation_alone(run: Path) -> None:
    before = (run / "evaluation.json").read_bytes()
    output = io.StringIO()
    (result,) = evaluate(run, dynamic=SGD(segment=32), console=Console(file=output, width=120))
    evaluate(run, str(run.parent / "text.txt"), console=QUIET)
    dynamic, other = rows(run)
    assert (run / "evaluation.json").read_bytes() == before
    assert (dynamic["task"], dynamic["variant"], other["variant"]) == ("text", "validation split", "all of it")
    assert dynamic["data"] == other["data"] == str(run.parent / "text.txt")
    assert dynamic["documents"] == other["documents"] == 1
    assert dynamic["model"][: len(result["model"])] == result["model"]
    names = [metric["name"] for metric in result["dynamic"]]
    assert [metric["name"] for metric in dynamic["model"]] == [*names, *(f"{name}_dynamic" for name in names)]
    for metric in dynamic["model"]:
        assert "rows of 64 tokens without overlap" in metric["convention"]
        assert ("dynamic evaluation: kind sgd, eta 0.03" in metric["convention"]) == ("_dynamic" in metric["name"])
    assert other["floors"]
    assert f"corestone report {run} shows it" in output.getvalue()
    evaluate(run, console=QUIET)
    assert len(rows(run)) == 2  # the plain evaluation has a file of its own


def test_a_checkpoint_that_is_no_run_keeps_nothing(run: Path) -> None:
    checkpoint = locate(run)
    before = sorted(checkpoint.iterdir()), sorted(run.iterdir())
    data = str(run.parent / "ptb.char.test.txt")
    result = evaluate_task(checkpoint, "ptb_char", Asked(data=data), console=QUIET)
    evaluate(checkpoint, str(run.parent / "text.txt"), console=QUIET, dynamic=SGD())
    assert (sorted(checkpoint.iterdir()), sorted(run.iterdir())) == before
    assert result["weights"] == identity(checkpoint)[1]


def entry(**changes: object) -> dict[str, object]:
    return dict.fromkeys(SAME, 0) | {"model": [{"name": "loss", "value": 1.0}]} | changes


@pytest.mark.parametrize("name", SAME)
def test_any_other_setting_or_checkpoint_is_another_row(tmp_path: Path, name: str) -> None:
    (tmp_path / "recipe.yaml").write_text("name: x")
    for value in (0, 1, 0):
        keep(tmp_path, [entry(**{name: value})], QUIET)
    assert [row[name] for row in rows(tmp_path)] == [1, 0]


def test_damaged_lines_stay_and_are_named_and_numbers_that_json_lacks_are_told(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: x")
    damaged = b'{"task": "ptb", "mo\xff\n[3]\n'
    (tmp_path / EVALUATIONS).write_bytes(damaged)
    figures = [{"name": "word_perplexity", "value": None, "unit": "per word", "n": 9, "interval": [1.0, float("inf")]}]
    for _ in range(2):
        keep(tmp_path, [entry(task="ptb", model=figures)], QUIET)
    content = (tmp_path / EVALUATIONS).read_bytes()
    assert content.startswith(damaged)
    assert content.count(b"\n") == 3
    read = read_run(tmp_path)
    assert [row["task"] for row in read.kept] == ["ptb"]
    assert f"{EVALUATIONS}: 2 unreadable lines left out (line 1, 2)" in read.notes
    assert 'word perplexity</th><td class="number">not finite' in write_report([tmp_path]).read_text(encoding="utf-8")


def test_evaluations_that_end_at_once_are_all_kept(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: x")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: keep(tmp_path, [entry(task=f"task {number}")], QUIET), range(64)))
    assert {row["task"] for row in rows(tmp_path)} == {f"task {number}" for number in range(64)}


def test_a_folder_that_cannot_be_written_costs_no_result(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run / EVALUATIONS).mkdir()
    try:
        result = evaluate_task(run, "last_word", Asked(), console=QUIET)
    finally:
        (run / EVALUATIONS).rmdir()
    assert result["model"]
    assert f"{run / EVALUATIONS}: cannot be written (Is a directory)" in caplog.text


def test_the_report_shows_each_with_its_convention(run: Path) -> None:
    evaluate_task(run, "last_word", Asked(shots=1), console=QUIET)
    evaluate(run, dynamic=SGD(segment=32), console=QUIET)
    text = write_report([run]).read_text(encoding="utf-8")
    kept = rows(run)
    for row in kept:
        for metric in row["model"]:
            name, convention = metric["name"].replace("_", " "), metric["convention"].replace("'", "&#39;")
            assert f'<th scope="row">{name}<span class="remark">{convention}</span></th>' in text
        assert f"step 3, weights {row['weights']}" in text
    assert "last_word: own held-out text<span" in text
    assert "passages made here; 1 example; rows of up to 64 tokens;" in text
    assert "dynamic evaluation by sgd (eta 0.03, lam 0.002, segment 32)" in text
