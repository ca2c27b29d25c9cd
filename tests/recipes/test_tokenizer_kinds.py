"""A whole run with each kind of tokenizer: trained, scored, reported, exported, imported."""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path

import pytest
from rich.console import Console

from corestone.core.spec import from_yaml
from corestone.interop.incoming import import_huggingface
from corestone.interop.outgoing import export_huggingface
from corestone.recipes.load import load_model
from corestone.recipes.pretrain import pretrain
from corestone.recipes.spec import Run

RECIPE = """
name: small
model: {kind: decoder, embedding: {vocab_size: 448, context_length: 32}, stack: {width: 32, blocks: [
  {mixer: {kind: attention, num_heads: 2, head_dim: 16}, feedforward: {hidden_dim: 64}}]}}
objective: {kind: next_token}
data: {components: [{source: {kind: files, paths: [PATH]}}], tokenizer: TOKENIZER, context_length: 32}
optimiser: {kind: adamw, learning_rate: 0.003}
schedule: {kind: constant}
training: {length: 4 steps, batch_tokens: 256, precision: float32}
rhythm: {log: 2 steps, evaluate: 2 steps, sample: 4 steps, checkpoint: 4 steps}
evaluation: {tokens_while_training: 512}
samples: {prompts: ["the quick"], sampling: {max_tokens: 5}}
"""

TOKENIZERS = {
    "byte_pair": "{kind: byte_pair, vocab_size: 400, special: [mask, pad], sentinels: 5}",
    "word_piece": "{kind: word_piece, vocab_size: 400}",
    "unigram": "{kind: unigram, vocab_size: 400}",
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setenv("CORESTONE_CACHE", str(tmp_path / "cache"))
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "Seven", "sages", "watch"]
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(40):
        chance = random.Random(number)
        (texts / f"{number}.txt").write_text(",  ".join(chance.choice(words) for _ in range(120)))
    told = io.StringIO()
    text = RECIPE.replace("PATH", str(texts)).replace("TOKENIZER", TOKENIZERS[kind])
    pretrain(from_yaml(Run, text, "test"), tmp_path / "run", console=Console(file=told))
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    found = {metric["name"] for metric in evaluation["model"]}
    lossless = kind == "byte_pair"
    assert "bits_per_byte" in found
    assert ("word_perplexity" in found) == bool(evaluation["floors"]) == lossless
    assert ("floors     not measured" in told.getvalue()) == (not lossless)
    assert (tmp_path / "run" / "report.html").is_file()
    done = export_huggingface(tmp_path / "run", tmp_path / "theirs")
    again = load_model(import_huggingface(done.folder, tmp_path / "again").folder, "float32")[1]
    first = load_model(tmp_path / "run", "float32")[1]
    assert again.encode("the  quick, lazy dog") == first.encode("the  quick, lazy dog")
    assert again.manifest.separator == first.manifest.separator
