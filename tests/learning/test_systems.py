"""Every system learns real text: a minute of its own recipe beats a trivial floor by far."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
import torch

from corestone.core.spec import override
from corestone.parallel.collectives import World
from corestone.recipes.catalogue import SMALL, find_recipe
from corestone.recipes.pretrain import pretrain
from corestone.recipes.text import open_text

SHORT = ["training.length=150 steps", "schedule.warmup=20 steps", "samples.prompts=[]"]


def unigram_nats(train, held_out, vocab_size: int) -> float:
    """Nats per held-out token by the training text's frequencies, each counted once more."""
    counts = Counter(train.slice(0, train.n_tokens).tolist())
    total = train.n_tokens + vocab_size
    tokens = held_out.slice(0, held_out.n_tokens).tolist()
    return -sum(math.log((counts[token] + 1) / total) for token in tokens) / len(tokens)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, recipe in SMALL.items() if recipe().objective.kind == "next_token"])
def test_a_minute_beats_the_unigram_by_half_a_nat(name, tmp_path):
    """Seen, one seed, nats per token: GPT-2 5.04, GPT-J 4.68, Primer-EZ 5.26, full Primer 5.28, OPT 5.31, BLOOM 4.81,
    PaLM 5.11, H3 4.73; the unigram 6.15."""
    run = override(find_recipe(name, []), SHORT)
    pretrain(run, tmp_path / "run")
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    nats = next(metric["value"] for metric in found["model"] if metric["name"] == "nats_per_token")
    data = open_text(run, World(rank=0, size=1, device=torch.device("cpu")))
    floor = unigram_nats(data.train[0], data.validation[0], data.tokenizer.manifest.vocab_size)
    print(f"{name}: {nats:.3f} nats/token, unigram {floor:.3f}")
    assert nats < floor - 0.5
