"""The README's commands do what it says."""

from __future__ import annotations

import gzip
import html
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from corestone.recipes.catalogue import RECIPES
from corestone.zoo.catalogue import zoo

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


SHORT = ["training.length=4 steps", "schedule.warmup=2 steps", "training.batch_tokens=1024"]
"""What the tests add to `pretrain` and `compare` where the README trains for minutes."""


def commands(mark: str) -> list[list[str]]:
    """The words of each command in the block under a mark."""
    (block,) = re.findall(rf"<!-- {mark} -->\n```\n(.*?)```", README, re.DOTALL)
    return [shlex.split(line) for line in block.strip().splitlines()]


def run(words: list[str], cwd: Path, *more: str) -> None:
    assert words[0] == "corestone"
    command = [sys.executable, "-m", *words, *more]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, shlex.join(command) + "\n" + done.stdout + done.stderr


def run_short(mark: str, cwd: Path) -> None:
    for words in commands(mark):
        run(words, cwd, *(SHORT if words[1] in ("pretrain", "compare") else []))


def test_every_command_is_run_here():
    marked = re.findall(r"<!-- ([a-z ]+) -->\n```\n", README)
    assert set(marked) == {"tour", "objectives", "more", "evaluation", "plan", "pictures", "pairs", "own text"}
    assert len(re.findall(r"^```\ncorestone", README, re.MULTILINE)) == len(marked)


def test_the_table_of_systems_names_what_ships():
    named = re.findall(r"`([a-z0-9.-]+)`", "\n".join(line for line in README.splitlines() if line.startswith("|")))
    recipes = {name.split("/", 1)[1] for name in RECIPES}
    assert recipes <= set(named)
    families = {re.split(r"[-0-9]", name)[0] for name in zoo()}
    whole = [name for name in named if not name.startswith("-") and name not in recipes]
    assert {name for name in whole if name not in zoo()} == set()
    assert families == {re.split(r"[-0-9]", name)[0] for name in named if name in zoo()}


def test_the_tour_runs(tmp_path):
    for words in commands("tour"):
        run(words, tmp_path)
    assert (tmp_path / "runs/tiny/report.html").is_file()


def test_objectives_are_shown(tmp_path):
    for words in commands("objectives"):
        run(words, tmp_path)


def test_a_run_is_planned_checked_and_searched(tmp_path):
    for words in commands("plan"):
        run(words, tmp_path)
    assert (tmp_path / "plan.html").is_file()
    assert (tmp_path / "runs/sweep/sweep.html").is_file()
    assert (tmp_path / "runs/range-test/range-test.png").is_file()


def test_pictures_are_learnt_and_scored(tmp_path):
    for words in [*commands("pictures"), *commands("pairs")]:
        run(words, tmp_path)
    assert json.loads((tmp_path / "runs/digits/evaluation.json").read_text())["split"] == "test"
    tasks = [
        json.loads(line)["task"] for line in (tmp_path / "runs/captions/evaluations.jsonl").read_text().splitlines()
    ]
    assert tasks == ["zero_shot"]


@pytest.mark.slow
def test_the_other_systems_run(tmp_path):
    (tmp_path / "downloaded").mkdir()
    torch.save({"weight": torch.ones(2, 3)}, tmp_path / "downloaded/pytorch_model.bin")
    run_short("more", tmp_path)
    assert (tmp_path / "runs/comparison/comparison.html").is_file()
    assert (tmp_path / "downloaded/safe/model.safetensors").is_file()


@pytest.mark.slow
def test_evaluations_run_and_are_reported(tmp_path):
    run(commands("tour")[0], tmp_path)
    (tmp_path / "wiki.test.tokens").write_text(" \n = Stone walls = \n \n A wall of field stones , dry @-@ built . \n")
    (tmp_path / "ptb.test.txt").write_text(" the <unk> rose N points \n no it was n't a monday \n")
    stones = ("stone", "slate", "flint", "marble", "tile", "brick", "chalk", "granite", "gravel")
    passages = [{"text": f"The {stone} lay on the {stone}, and under the {stone}"} for stone in stones]
    (tmp_path / "lambada_test.jsonl").write_text("".join(json.dumps(passage) + "\n" for passage in passages))
    (tmp_path / "talk.jsonl").write_text(json.dumps({"body": "It was said."}) + "\n")
    run_short("evaluation", tmp_path)
    kept = [json.loads(line) for line in (tmp_path / "runs/tiny/evaluations.jsonl").read_text().splitlines()]
    assert [entry["task"] for entry in kept] == ["wikitext103", "lambada_openai", "ptb", "text"]
    page = html.unescape((tmp_path / "runs/tiny/report.html").read_text())
    assert all(entry["model"][0]["convention"].split(";")[0] in page for entry in kept)


@pytest.mark.slow
def test_own_text_is_prepared_and_trained_on(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(40):
        lines = [json.dumps({"text": f"Stone {number} lay on stone {number + line}. " * 20}) for line in range(5)]
        with gzip.open(texts / f"{number}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.write("\n".join(lines))
    run_short("own text", tmp_path)
    assert (tmp_path / "prepared/mine/manifest.json").is_file()


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_paths_named_in_the_documents_exist():
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text()
        for path in re.findall(r"`([a-z_]+/[A-Za-z_./-]*)`", text):
            if path.startswith(("runs/", "texts/", "exports/")):
                continue
            assert (ROOT / path).exists() or (ROOT / "src" / "corestone" / path).exists(), f"{name}: {path}"


def test_help_is_quick_to_import():
    """The promise behind `corestone --help`: no heavy library is loaded (timing is no test)."""
    code = "import corestone, sys; print(len([m for m in sys.modules if m.startswith(('torch', 'numpy', 'pydantic'))]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "0"
