"""Some texts and the recipe of a tiny decoder on them, for tests that train runs from the command line or by name."""

from __future__ import annotations

import random
from pathlib import Path

RECIPE = """
name: NAME
model: {kind: decoder, embedding: {vocab_size: 320, context_length: 32}, stack: {width: WIDTH, blocks: [
  {mixer: {kind: attention, num_heads: 2, head_dim: 16}, feedforward: {hidden_dim: 64}}]}}
objective: {kind: next_token}
data: {components: [{source: {kind: files, paths: [texts]}}], tokenizer: {kind: bytes}, context_length: 32}
optimiser: {kind: adamw, learning_rate: 0.003}
schedule: {kind: cosine, warmup: WARMUP steps}
training: {length: LENGTH steps, batch_tokens: 256, precision: float32}
rhythm: {log: EVERY steps, evaluate: EVERY steps, sample: null, checkpoint: KEEP steps}
evaluation: {tokens_while_training: 512}
samples: {prompts: []}
"""


def write_texts(folder: Path) -> None:
    """Forty texts of 120 words in `texts/`."""
    (folder / "texts").mkdir()
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "sages", "watch"]
    for number in range(40):
        choose = random.Random(number)
        (folder / "texts" / f"{number}.txt").write_text(" ".join(choose.choice(words) for _ in range(120)))


def write_recipe(path: Path, width: int = 32, steps: int = 30, every: int = 10, keep: int = 7) -> None:
    """A recipe of the name of its file, which logs and evaluates every so many steps and keeps checkpoints so often."""
    told = {"NAME": path.stem, "WIDTH": width, "LENGTH": steps, "WARMUP": steps // 6, "EVERY": every, "KEEP": keep}
    text = RECIPE
    for name, value in told.items():
        text = text.replace(name, str(value))
    path.write_text(text)
