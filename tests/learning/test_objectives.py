"""Objectives teach: two minutes of a small recipe beat what guessing reaches on the same questions.

The vocabulary is cut to 320 pieces, so that two minutes hold many examples of each, and encoders get layers that learn
sooner than BERT's: norms before the branches, positions turned into queries and keys. Recipes as they ship are larger
and take longer. Seen figures are of one seed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from corestone.core.spec import override
from corestone.data.catalogue import entry
from corestone.data.document import Document
from corestone.data.embedded import read_embedded
from corestone.nn.spec import Norm, Rotary, Stack
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.pretrain import pretrain
from corestone.recipes.spec import Run
from corestone.zoo.bert import bert
from corestone.zoo.electra import electra

PIECES = 320
CHANGES = [
    f"data.tokenizer.vocab_size={PIECES}",
    "training.length=1000 steps",
    "training.batch_tokens=1024",
    "optimiser.learning_rate=1e-3",
    "rhythm.evaluate=10000 steps",
    "rhythm.checkpoint=10000 steps",
    "samples.prompts=[]",
]


def learns_sooner(stack: Stack) -> Stack:
    blocks = []
    for block in stack.blocks:
        mixer = block.mixer.model_copy(update={"position": Rotary(dims=block.mixer.head_dim)})
        blocks.append(block.model_copy(update={"norm_at": "in", "mixer": mixer}))
    return stack.model_copy(update={"blocks": tuple(blocks), "final_norm": Norm()})


def changed(encoder: Any, vocab_size: int = PIECES) -> Any:
    table = encoder.embedding.model_copy(update={"vocab_size": vocab_size})
    return encoder.model_copy(update={"embedding": table, "stack": learns_sooner(encoder.stack)})


def figures(run: Run, folder: Path) -> dict[str, float]:
    """Train; held-out figures and the floors of guessing, by name."""
    pretrain(run, folder)
    found = json.loads((folder / "evaluation.json").read_text())
    values = {metric["name"]: metric["value"] for part in ("model", "floors") for metric in found[part]}
    print(run.name, {name: round(value, 3) for name, value in values.items()})
    return values


def shorter(name: str, **changes: Any) -> Run:
    run = find_recipe(name, [])
    return override(run.model_copy(update=changes), CHANGES)


@pytest.mark.slow
def test_hidden_tokens_are_guessed_better_than_from_their_true_left_neighbour(tmp_path):
    """Seen: 3.452 nats; by frequency 5.187, after the true left neighbour 3.919."""
    run = find_recipe("shakespeare-bert", [])
    found = figures(shorter("shakespeare-bert", model=changed(run.model)), tmp_path / "run")
    assert found["nats_per_target"] < found["bigram_nats_per_target"] - 0.2
    assert found["bigram_nats_per_target"] < found["unigram_nats_per_target"] - 1.0


@pytest.mark.slow
def test_replaced_letters_are_found(tmp_path):
    """Seen: 0.315 nats and 89.2 % right; always answering "not replaced" gives 0.352 and 88.7 %.

    Letters, not words, and a loss weight of 10, not 50: within two minutes of the paper's own setting the generator
    knows frequencies alone and the discriminator nothing (docs/LOG.md).
    """
    size = 258  # bytes, the separator and the mask
    model = electra(128, 2, 4, 128, (1, 4), size, 128, dropout=0.0)
    parts = {name: changed(getattr(model, name), size) for name in ("generator", "discriminator")}
    run = override(
        shorter("shakespeare-electra", model=model.model_copy(update=parts)),
        [
            f"data.tokenizer={{kind: byte_pair, vocab_size: {size}, special: [mask]}}",
            "objective.weight=10",
            "training.length=4000 steps",
            "optimiser.learning_rate=2e-3",
        ],
    )
    found = figures(run, tmp_path / "run")
    never = found["never_replaced_accuracy"]
    constant_answer = -never * math.log(never) - (1 - never) * math.log(1 - never)
    assert found["detection_nats"] < constant_answer - 0.02
    assert found["detection_accuracy"] > never + 0.002


def plays_and_docstrings(path: Path, each: int = 800, length: int = 3000) -> Path:
    """Pieces of plays and of docstrings by turns, as one file of documents."""
    kinds = []
    for name in ("shakespeare", "python-docs"):
        texts = [found.text for found in read_embedded(entry(name)) if isinstance(found, Document)]
        pieces = [text[start : start + length] for text in texts for start in range(0, len(text), length)]
        kinds.append([piece for piece in pieces if len(piece) > length // 2][:each])
    lines = [json.dumps({"text": piece}) for pair in zip(*kinds, strict=False) for piece in pair]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.slow
def test_next_sentences_are_told_from_others(tmp_path):
    """Seen: 0.633 nats and 65 % right, where chance is 0.693 and 50 %.

    Half of the wrong pairs mix plays and docstrings, so who knows one from the other, and compares, is right in 75 %;
    among plays alone two minutes teach nothing.
    """
    source = f"{{kind: files, paths: [{plays_and_docstrings(tmp_path / 'both.jsonl')}]}}"
    run = override(
        shorter("shakespeare-bert-pairs", model=changed(bert(128, 2, 4, PIECES, 128, dropout=0.0))),
        [f"data.components=[{{source: {source}}}]", "training.length=2000 steps"],
    )
    found = figures(run, tmp_path / "run")
    assert found["next_sentence_nats"] < math.log(2) - 0.04
    assert found["next_sentence_accuracy"] > 0.58


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shakespeare-t5", "shakespeare-alexatm"])
def test_answers_beat_frequencies(name, tmp_path):
    """Corrupted spans; and a mixture of texts to be denoised and continued. Seen: T5 5.122 nats, by frequency
    6.159; AlexaTM 5.281 and 6.641."""
    changes = [change for change in CHANGES if not change.startswith(("data", "optimiser"))]
    run = override(find_recipe(name, []), changes)
    found = figures(run, tmp_path / "run")
    assert found["nats_per_target"] < found["unigram_nats_per_target"] - 0.2
