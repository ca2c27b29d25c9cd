"""corestone leaderboard: quick, the same in the terminal, as JSON and as a page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def leaderboard(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "corestone", "leaderboard", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    rows = [
        {"model_name": "RETRO [7.5B]", "metrics": {"Test perplexity": "2.4"}, "paper_date": "2021-12-08"},
        {"model_name": "broken", "metrics": {"Test perplexity": "?"}},
    ]
    table = {"dataset": "WikiText-103", "sota": {"metrics": ["Test perplexity"], "rows": rows}}
    path = tmp_path / "evaluation-tables.json"
    path.write_text(json.dumps([{"task": "Language Modelling", "datasets": [table]}]))
    return path


def test_the_overview_has_the_books_tables() -> None:
    done = leaderboard()
    assert done.returncode == 0, done.stderr
    for name, value in (("ImageNet", "91.1"), ("COCO", "65.0"), ("WikiText-103", "10.6"), ("C4", "12.35")):
        assert [line for line in done.stdout.splitlines() if name in line and value in line]


def test_it_loads_no_torch_and_no_matplotlib_without_need() -> None:
    code = """
import sys
sys.argv = ["corestone", "leaderboard", "ptb"]
from corestone.cli.main import main
try:
    main()
except SystemExit:
    pass
print("HEAVY", sorted({"torch", "numpy", "matplotlib"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr
    assert "GPT-3 175B" in done.stdout


def test_json_and_page_and_terminal_have_the_imported_rows(tmp_path: Path, dump: Path) -> None:
    done = leaderboard("wikitext103", "--import", str(dump), "--json", "--html", str(tmp_path / "board.html"))
    assert done.returncode == 0, done.stderr
    tree = json.loads(done.stdout)
    (board,) = tree["benchmarks"]
    (row,) = [row for row in board["rows"] if row["evidence"] == "imported"]
    assert (row["system"], row["value"], row["comparable"]) == ("RETRO [7.5B]", 2.4, False)
    assert "form not told" in row["reasons"]
    assert [row["comparable"] for row in board["rows"] if row["table"]] == [True]
    assert tree["notes"] == [
        f"{dump}: 1 results read, 0 of other data sets left out",
        f"{dump}: left out 1 times: a row whose value is no number",
    ]
    page = (tmp_path / "board.html").read_text()
    assert "RETRO [7.5B]" in page
    assert "left out 1 times" in page
    shown = leaderboard("wikitext103", "--import", str(dump)).stdout
    assert "RETRO [7.5B]" in shown
    assert "(unverified)" in shown
    assert "no: figure: word perplexity, not token perplexity" in shown


def test_a_run_stands_beside(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(
        "name: mine\ndata: {components: [{source: {kind: embedded, name: shakespeare}}]}\n"
    )
    figure = {"name": "word_perplexity", "value": 99.25, "unit": "per word", "n": 82430}
    entry = {"task": "ptb", "variant": "words", "checkpoint": "checkpoints/step-0000003", "weights": "ab" * 8}
    (run / "evaluations.jsonl").write_text(json.dumps(entry | {"model": [figure]}))
    tree = json.loads(leaderboard("ptb", "--add", str(run), "--json").stdout)
    (row,) = [row for row in tree["benchmarks"][0]["rows"] if row["measured"]]
    assert row["measured"] == {"run": str(run), "checkpoint": "checkpoints/step-0000003", "weights": "ab" * 8}
    assert (row["split"], row["learning"], row["comparable"]) == ("test", "zero-shot", False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["WikiTxt-103"], "did you mean 'WikiText-103'"),
        (["--import", "none.json"], "none.json: No such file"),
        (["--import", "list.json"], "list.json: holds no JSON array; give"),
        (["ptb", "--html", "list.json/board.html"], "list.json/board.html: cannot be written"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "list.json").write_text("{}")
    done = leaderboard(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
