"""The command line: quick to answer, one clear line and exit code 2 for a user's mistake, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

VERBS = [
    "data", "prepare", "recipes", "show", "check", "pretrain", "compare", "sweep", "evaluate", "vote", "generate",
    "caption", "embed", "report", "ledger", "leaderboard", "plan", "mup", "rehearse", "zoo", "import", "convert",
    "export",
]  # fmt: skip


def corestone(*arguments: str, cwd=None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "corestone", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    return subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, text=True, env=environment)


def test_help_names_every_verb_and_loads_no_torch():
    code = """
import sys
sys.argv = ["corestone", "--help"]
from corestone.cli.main import main
try:
    main()
except SystemExit:
    pass
heavy = {"torch", "numpy", "pydantic", "transformers", "matplotlib", "pyarrow"} & set(sys.modules)
print("HEAVY", sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb):
    done = corestone(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_no_line_of_the_overview_is_cut_off():
    done = subprocess.run(
        [sys.executable, "-m", "corestone", "--help"],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "80"},
    )
    lines = done.stdout.partition("Commands:\n")[2].splitlines()
    assert len(lines) == len(VERBS)
    assert [line for line in lines if not line.endswith(".") or line.endswith("...")] == []


def test_version():
    assert corestone("--version").stdout.startswith("corestone 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "shakspeare"], "did you mean 'shakespeare'"),
        (["pretrain", "shakespeare", "training.bach_tokens=1"], "did you mean 'batch_tokens'"),
        (["pretrain", "shakespeare", "optimiser.learning_rate=-1"], "greater than 0"),
        (["pretrain", "missing.yaml"], "missing.yaml: cannot be read"),
        (["pretrain", "missing.py"], "no such recipe file"),
        (["pretrain", "broken.py"], "broken.py"),
        (["compare", "shakspeare"], "did you mean 'shakespeare'"),
        (["compare", "shakespeare", "gpt2-124m"], "have different budgets"),
        (["compare", "shakespeare", "training.bach_tokens=1"], "did you mean 'batch_tokens'"),
        (["show", "nothing.yaml"], "nothing.yaml: expected a mapping"),
        (["show", "typo.yaml"], "did you mean 'seed'"),
        (["show"], "which recipe?"),
        (["evaluate", "nowhere"], "nowhere: no such folder"),
        (["evaluate", "."], "neither a run folder"),
        (["evaluate", "nowhere", "eta=1e-3"], "add --dynamic sgd or rms"),
        (["evaluate", "nowhere", "segmnt=8", "--dynamic", "rms"], "did you mean 'segment'"),
        (["evaluate", "nowhere", "eta=-1", "--dynamic", "sgd"], "eta: Input should be greater than or equal to 0"),
        (["evaluate", "nowhere", "--dynamic", "sgd", "--precision", "bfloat16"], "leave --precision out"),
        (["generate", "nowhere", "x"], "nowhere: no such folder"),
        (["embed", "nowhere", "x"], "nowhere: no such folder"),
        (["report", "nowhere"], "nowhere"),
        (["ledger", ".", "--step", "3"], "no run folder"),
        (["export", "nowhere", "--out", "o"], "nowhere: no such folder"),
        (["import", "nowhere", "--out", "o"], "nowhere"),
        (["data", "show", "shakespear"], "did you mean 'shakespeare'"),
        (["prepare", "missing.txt", "--out", "o"], "missing.txt"),
        (["prepare", "empty.txt", "--out", "o"], "empty.txt"),
        (["prepare", "latin.txt", "--out", "o"], "latin.txt"),
        (["prepare", "broken.jsonl", "--out", "o"], "line 2"),
        (["prepare", "cut.jsonl.gz", "--out", "o"], "cut.jsonl.gz"),
        (["prepare", "good.txt", "--tokenizer", "none.json", "--out", "o"], "none.json"),
        (["convert", "nothing.bin", "--out", "o"], "nothing.bin: no such file"),
        (["convert", "good.txt", "--out", "o"], "good.txt: is no checkpoint"),
        (["show", "shakespeare", "--width", "100"], "choose a multiple of 64"),
        (["mup", "check", "shakespeare-electra"], "not 'generator_discriminator'"),
        (["mup", "transfer", "shakespeare", "--rates", "0.1"], "--rates '0.1': give low:high"),
        (["show", "shakespeare", "data.tokenizer={kind: word_pice, vocab_size: 9}"], "'word_piece'"),
        (["show", "shakespeare", "data.tokenizer={kind: unigram, vocab_sise: 9}"], "did you mean 'vocab_size'"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path, arguments, message):
    (tmp_path / "nothing.yaml").write_text("")
    (tmp_path / "typo.yaml").write_text("name: x\nsede: 3\n")
    (tmp_path / "broken.py").write_text("def recipe(:\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "good.txt").write_text("good text")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "broken.jsonl").write_text('{"text": "one"}\n{"text": \n')
    (tmp_path / "cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x01\x05")
    done = corestone(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error:")]) == 1


def test_debug_shows_the_traceback():
    done = corestone("pretrain", "shakspeare", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "did you mean" in done.stderr.splitlines()[-1]


def test_json_outputs_are_json():
    assert {row["name"] for row in json.loads(corestone("zoo", "--json").stdout)} >= {"gpt2-124m", "gpt3-175b"}
    assert json.loads(corestone("recipes", "--json").stdout)[0]["recipe"] == "language/shakespeare"
    assert json.loads(corestone("show", "--schema").stdout)["title"] == "Run"
    assert {card["name"] for card in json.loads(corestone("data", "list", "--json").stdout)} >= {"shakespeare"}


TOKENIZERS = {
    "byte_pair": "{kind: byte_pair, vocab_size: 400, special: [mask], sentinels: 10}",
    "word_piece": "{kind: word_piece, vocab_size: 400, lowercase: false}",
    "unigram": "{kind: unigram, vocab_size: 400}",
}


@pytest.mark.parametrize("change", ["seed=5", *(f"data.tokenizer={text}" for text in TOKENIZERS.values())])
def test_what_show_prints_can_be_shown_again(tmp_path, change):
    first = corestone("show", "shakespeare", change).stdout
    (tmp_path / "r.yaml").write_text(first)
    assert corestone("show", str(tmp_path / "r.yaml")).stdout == first
    assert change.split("kind: ")[-1].split(",")[0].replace("=", ": ") in first


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_prepare_trains_the_tokenizer_that_is_asked_for(tmp_path, kind):
    for name in "abcdefgh":
        (tmp_path / f"{name}.txt").write_text(f"the {name} words of one short text, said {name} times\n" * 40)
    arguments = ["prepare", "*.txt", "--tokenizer", kind, "--vocab-size", "300", "--out", "o"]
    done = corestone(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"tokenizer  {kind}" in done.stdout
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["tokenizer"]["kind"] == kind
