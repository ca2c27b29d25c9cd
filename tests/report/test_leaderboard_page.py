"""Own runs on the leaderboard stand there with their evidence, and the page says what the table says, offline."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from corestone.core.errors import CheckpointError
from corestone.core.units import duration
from corestone.data.spec import Bytes, Component, Data, Files
from corestone.evaluate.leaderboard import Row, benchmarks, comparable, find, reference, standings
from corestone.objectives.spec import NextToken
from corestone.optim.spec import AdamW, Constant
from corestone.recipes.pretrain import pretrain
from corestone.recipes.spec import Run, Samples
from corestone.recipes.tasks import Asked, evaluate_task
from corestone.report.leaderboard import history, write_leaderboard
from corestone.report.own_rows import with_runs
from corestone.train.archive import identity, locate
from corestone.train.spec import Training
from corestone.zoo.gpt import gpt2

QUIET = Console(quiet=True)
WEIGHTS = "0123456789abcdef"


def figure(name: str, value: float | None, n: int) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": "", "n": n, "interval": [1.0, 2.0], "convention": "nats / <words>"}


def run_folder(
    folder: Path, source: Any, *entries: dict[str, Any], mixer: str = "attention", characters: int = 900
) -> Path:
    folder.mkdir(parents=True)
    blocks = [{"mixer": {"kind": "attention"}}, {"mixer": {"kind": mixer}}]
    model = {"kind": "decoder", "embedding": {"vocab_size": 320}, "stack": {"blocks": blocks}}
    recipe = {"name": "mine", "model": model, "data": {"components": [{"source": source}]}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    (folder / "environment.json").write_text(json.dumps({"parameters": 24_000_000}))
    sides = {"train": {"characters": characters - 100}, "validation": {"characters": 100}}
    (folder / "data.json").write_text(json.dumps([{"manifest": {"splits": sides}}]))
    (folder / "evaluation.json").write_text(json.dumps({"model": []}))
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(ABOUT | entry) + "\n" for entry in entries))
    (folder / "metrics.jsonl").write_text("")
    return folder


ABOUT = {"checkpoint": "checkpoints/step-0000003", "weights": WEIGHTS, "time": 1_700_000_000.0, "shots": None}
WIKITEXT = {
    "task": "wikitext103_natural",
    "variant": "words put together again",
    "model": [figure("word_perplexity", 30.0, 245_569), figure("token_perplexity", 20.0, 300_000)],
}
SHAKESPEARE = {"kind": "embedded", "name": "shakespeare"}


def own(name: str, *folders: Path) -> list[Row]:
    found, _ = with_runs(benchmarks(), folders)
    return [row for row in find(name, found)[0].rows if row.measured]


def test_a_task_becomes_a_row_with_run_checkpoint_and_protocol(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", SHAKESPEARE, WIKITEXT, mixer="h3")
    word, token = own("wikitext103", folder)
    assert (word.value, word.date, word.parameters, word.transformer) == (30.0, "2023-11-14", 24e6, "partly")
    assert word.measured.model_dump() == {"run": str(folder), "checkpoint": ABOUT["checkpoint"], "weights": WEIGHTS}
    assert (word.counted, word.split, word.learning, word.extra_data) == (
        "words put together again", "test", "zero-shot", "shakespeare",
    )  # fmt: skip
    assert token.counted == "tokens of its own vocabulary of up to 320; words put together again"
    assert word.system == "mine (run)"
    gpt2_row = next(row for row in find("wikitext103", benchmarks())[0].rows if row.value == 17.48)
    assert comparable(word, gpt2_row) == ("extra data: shakespeare, not WebText",)


PTB = {"task": "ptb", "variant": "words", "model": [figure("word_perplexity", 60.0, 82_430)]}
CHARACTERS = {
    "task": "ptb_char",
    "variant": "characters",
    "model": [figure("bits_per_character", 1.2, 442_424), figure("bits_per_character_dynamic", 1.1, 442_424)],
}


def test_a_run_on_the_sets_own_training_side_compares_with_its_like(tmp_path: Path) -> None:
    by_name = run_folder(tmp_path / "a", {"kind": "files", "paths": ["/data/ptb.train.txt"]}, PTB)
    by_size = run_folder(tmp_path / "b", {"kind": "files", "paths": ["ptb/t.txt"]}, CHARACTERS, characters=5_017_400)
    found, _ = with_runs(benchmarks(), [by_name, by_size])
    peers = {
        (one.row.value, one.row.extra_data): one.peers
        for name in ("ptb", "ptb_char")
        for group in standings(find(name, found)[0])
        for one in group
        if one.row.measured
    }
    assert peers == {
        (60.0, "none"): ("Mogrifier LSTM",),
        (1.2, "none"): ("Mogrifier LSTM",),
        (1.1, "none"): ("Mogrifier LSTM with dynamic evaluation, 24 M parameters",),
    }


@pytest.mark.parametrize(
    ("source", "entry", "reason"),
    [
        ({"kind": "files", "paths": ["my.txt"]}, PTB, "learning not told"),
        ({"kind": "hub", "path": "some/web"}, PTB, "extra data: some/web, not none"),
        (SHAKESPEARE, PTB, "learning: zero-shot, not trained"),
        (SHAKESPEARE, PTB | {"model": [figure("word_perplexity", 60.0, 73_760)]}, "split: validation, not test"),
        (SHAKESPEARE, PTB | {"model": [figure("word_perplexity", 60.0, 9)]}, "split not told"),
        (SHAKESPEARE, PTB | {"model": [figure("token_perplexity", 60.0, 9)]}, "figure: token perplexity, not word "),
    ],
)
def test_what_does_not_compare_says_why(tmp_path: Path, source: Any, entry: dict[str, Any], reason: str) -> None:
    (mine,) = own("ptb", run_folder(tmp_path / "run", source, entry))
    mogrifier = next(row for row in find("ptb", benchmarks())[0].rows if row.value == 50.1)
    assert [one for one in comparable(mine, mogrifier) if one.startswith(reason)]


def test_examples_and_documents_are_seen(tmp_path: Path) -> None:
    lambada = {"task": "lambada_openai", "variant": "text with its case kept", "shots": 8, "documents": 5153}
    entry = lambada | {"model": [figure("last_word_accuracy", 3.0, 5153)]}
    c4 = {
        "task": "c4",
        "variant": "documents apart",
        "documents": 364_608,
        "model": [figure("token_perplexity", 9.0, 7)],
    }
    folder = run_folder(tmp_path / "run", SHAKESPEARE, entry, c4)
    (word,), (token,) = own("lambada", folder), own("c4", folder)
    assert (word.learning, word.shots, word.split, token.split) == ("few-shot", 8, "test", "validation")


def test_own_text_has_a_board_of_its_own_and_damage_is_named(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path / name, SHAKESPEARE, PTB | {"task": "last_word"}) for name in ("a", "b", "c")]
    for place, folder in enumerate(folders):
        metrics = [figure("bits_per_byte", 2.0 - 0.1 * place, 500), figure("word_perplexity", None, 90)]
        tree = {"checkpoint": "checkpoints/gone", "source": "shakespeare", "split": "validation", "model": metrics}
        (folder / "evaluation.json").write_text(json.dumps(tree))
    (folders[2] / "evaluation.json").write_text("{")
    found, notes = with_runs(benchmarks(), folders)
    (board,) = find("shakespeare, validation split, bits per byte", found)
    assert [(row.value, row.learning, row.measured.weights) for row in board.rows] == [
        (2.0, "trained", None),
        (1.9, "trained", None),
    ]
    assert standings(board)[0][0].peers == ("mine (a)",)
    assert len(found) == len(benchmarks()) + 1
    assert [note for note in notes if note.startswith(f"{folders[2]}: evaluation.json: not valid JSON")]
    assert f"{folders[2]}: was not scored on anything that stands here; see corestone evaluate --help" in notes
    with pytest.raises(CheckpointError, match="there is no such folder"):
        with_runs(benchmarks(), [tmp_path / "none"])


def test_what_evaluate_really_writes_is_understood(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("It was said that the two of them had seen the old stone wall again. " * 60)
    (tmp_path / "ptb.char.test.txt").write_text(" ".join("the_stone_lay_on_the_wall") + " \n")
    source = Files(paths=(str(tmp_path / "text.txt"),), validation_percent=40.0)
    recipe = Run(
        name="tiny",
        model=gpt2(32, 1, 2, vocab_size=320, context_length=64),
        objective=NextToken(),
        data=Data(components=(Component(source=source),), tokenizer=Bytes(), context_length=64),
        optimiser=AdamW(learning_rate=0.01),
        schedule=Constant(),
        training=Training(length=duration("2 steps"), batch_tokens=128, precision="float32"),
        samples=Samples(prompts=()),
    )
    folder = tmp_path / "run"
    pretrain(recipe, folder, console=QUIET)
    result = evaluate_task(folder, "ptb_char", Asked(data=str(tmp_path / "ptb.char.test.txt")), console=QUIET)
    found, notes = with_runs(benchmarks(), [folder])
    assert notes == []
    (row,) = [row for row in find("ptb_char", found)[0].rows if row.measured]
    assert row.value == result["model"][0]["value"]
    assert row.measured.weights == identity(locate(folder))[1]
    assert (row.counted, row.split, row.learning, row.extra_data) == ("characters", None, None, "text.txt")
    (board,) = found[len(benchmarks()) :]
    (text,) = board.rows
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert text.value == next(one["value"] for one in evaluation["model"] if one["name"] == "bits_per_byte")
    assert text.measured == row.measured
    assert (text.learning, text.extra_data, row.transformer) == ("trained", "none", "yes")


# -- the page -----------------------------------------------------------------------------------------------------


def test_the_page_says_what_the_table_says_and_needs_nothing_else(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "<b>run</b>", SHAKESPEARE, WIKITEXT)
    found, _ = with_runs(benchmarks(), [folder])
    text = write_leaderboard(found, tmp_path / "board.html", ["a <note>"]).read_text(encoding="utf-8")
    assert not re.search(r"<script|https?://(?!www\.w3\.org)|<link|src=|<b>run", text)
    assert "a &lt;note&gt;" in text
    plain = " ".join(re.sub(r"<[^>]+>", " ", text).split())
    for benchmark in found:
        assert f"<h2>{benchmark.name}</h2>" in text
        for row in benchmark.rows:
            assert row.system.replace("<", "&lt;").replace(">", "&gt;") in plain
            assert (f"{row.value:.5g}" if row.measured else str(row.value)) in plain
    assert text.count('aria-label="Best over time') == len([one for one in found if any(row.date for row in one.rows)])
    assert text.count('class="mark unverified"') == sum(
        row.evidence == "unverified" for one in found for row in one.rows
    )
    assert f"weights {WEIGHTS}" in plain
    assert "extra data: shakespeare, not the Pile" in plain
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", ["ImageNet", "LAMBADA (perplexity)"])
def test_the_line_of_a_history_moves_in_the_better_direction_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("corestone.report.leaderboard.chart", lambda *a: drawn.append(a[3]) or CHART)
    (benchmark,) = [one for one in benchmarks() if one.name == name]
    history(benchmark)
    lines = [series for series in drawn[0] if series.style == "steps"]
    assert lines
    for series in lines:
        assert list(series.x) == sorted(series.x)
        assert list(series.y) == sorted(series.y, reverse=bool(benchmark.lower_is_better))
    dots = sum(len(series.y) for series in drawn[0] if series.style == "dots")
    assert dots + sum(len(series.y) - 1 for series in lines) == len(benchmark.rows)


CHART = history(find("C4", benchmarks())[0])


def test_a_benchmark_without_dates_says_so() -> None:
    (board,) = find("C4", benchmarks())
    bare = board.model_copy(update={"rows": tuple(row.model_copy(update={"date": None}) for row in board.rows)})
    assert history(bare).svg is None
    assert reference(bare).table == "1.2"
