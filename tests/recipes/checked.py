"""Tiny recipes for the checks, of every kind of data."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch

from corestone.core.spec import plain
from corestone.parallel.collectives import World
from corestone.recipes.checks.context import Context, open_context
from corestone.zoo.bert import bert
from corestone.zoo.gpt import gpt2
from corestone.zoo.t5 import t5
from corestone.zoo.vit import vit

TEXT = "the quick brown fox jumps over a lazy dog while seven sages watch it from their cold and narrow tower"
WORDS = TEXT.split()
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def texts(folder: Path, same: bool = False) -> Path:
    """Files of random words; or files that all go on alike behind a first line of their own."""
    folder.mkdir(parents=True)
    for number in range(40):
        choose = random.Random(number)
        own = [choose.choice(WORDS) for _ in range(150)]
        rest = random.Random("alike")
        shared = [rest.choice(WORDS) for _ in range(150)]
        (folder / f"{number}.txt").write_text(" ".join([f"text {number}", *(shared if same else own)]))
    return folder


def decoder(dropout: float = 0.1) -> dict:
    """GPT-2 with dropout."""
    model = plain(gpt2(32, 2, 2, 320, 64))
    model["embedding"]["dropout"] = dropout
    return {"model": json.loads(json.dumps(model)), "objective": {"kind": "next_token"}, "tokenizer": {"kind": "bytes"}}


def encoder() -> dict:
    """BERT."""
    tokenizer = {"kind": "word_piece", "vocab_size": 160}
    model = bert(32, 2, 2, 192, 64, dropout=0.1).model_copy(update={"pooler": None})
    return {"model": plain(model), "objective": {"kind": "masked_token"}, "tokenizer": tokenizer}


def encoder_decoder() -> dict:
    """T5."""
    tokenizer = {"kind": "byte_pair", "vocab_size": 300, "sentinels": 20}
    model = t5(32, 2, 2, 16, 64, vocab_size=320)
    return {"model": plain(model), "objective": {"kind": "span_corruption"}, "tokenizer": tokenizer}


def recipe(folder: Path, parts: dict, plant: str = "", same: bool = False, **training: object) -> str:
    """A recipe file on text; `plant` is Python that it runs, in every process that reads it."""
    source = {"kind": "files", "paths": [str(texts(folder / "texts", same))], "validation_percent": 10}
    tree = {
        "name": "tiny",
        "model": parts["model"],
        "objective": parts["objective"],
        "data": {"components": [{"source": source}], "tokenizer": parts["tokenizer"], "context_length": 48},
        "optimiser": {"kind": "adamw", "learning_rate": 0.003},
        "schedule": {"kind": "cosine"},
        "training": {"length": "60 steps", "batch_tokens": 384, **training},
    }
    path = folder / "recipe.py"
    path.write_text(
        "import json\n"
        f"{plant}\n"
        "from corestone.core.spec import parse\n"
        "from corestone.recipes.spec import Run\n"
        f"def recipe():\n    return parse(Run, json.loads({json.dumps(tree)!r}), 'tiny')\n"
    )
    return str(path)


def pictures() -> list[str]:
    """Overrides that make mnist-vit tiny."""
    model = plain(vit(16, 2, 2, 7, image_size=(28, 28)))
    model["embedding"]["channels"], model["head"] = 1, {"classes": 10}
    return [f"model={json.dumps(model)}", "optimiser.learning_rate=0.01"]


def context(name: str, assignments: list[str], folder: Path) -> Context:
    """A recipe, scaled down and opened."""
    return open_context(name, assignments, ALONE, folder)[0]
