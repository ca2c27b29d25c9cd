"""train 2n == train n, SIGKILL at any moment, resume: the same weights, bit for bit (design, promise 1)."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RECIPE = """
name: small
model: {kind: decoder, embedding: {vocab_size: 320, context_length: 32, dropout: 0.1}, stack: {width: 32, blocks: [
  {mixer: {kind: attention, num_heads: 2, head_dim: 16, dropout: 0.1}, feedforward: {hidden_dim: 64}, dropout: 0.1}]}}
objective: {kind: next_token}
data: {components: [{source: {kind: files, paths: [texts]}}], tokenizer: {kind: bytes}, context_length: 32}
optimiser: {kind: adamw, learning_rate: 0.003}
schedule: {kind: cosine, warmup: 5 steps}
training: {length: 400 steps, batch_tokens: 256, micro_batch: 3, precision: PRECISION}
rhythm: {log: 20 steps, evaluate: 40 steps, sample: null, checkpoint: 7 steps}
evaluation: {tokens_while_training: 512}
samples: {prompts: [""], sampling: {max_tokens: 10}}
"""


def prepare(folder: Path, precision: str) -> Path:
    texts = folder / "texts"
    texts.mkdir()
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "sages", "watch"]
    for number in range(40):
        choose = random.Random(number)
        (texts / f"{number}.txt").write_text(" ".join(choose.choice(words) for _ in range(120)))
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.replace("PRECISION", precision))
    return recipe


def start(recipe: Path, run: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "corestone", "pretrain", str(recipe), "--run", str(run)]
    return subprocess.Popen(command, cwd=recipe.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(recipe: Path, run: Path) -> str:
    process = start(recipe, run)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def final_hashes(run: Path) -> dict[str, str]:
    folder = run / "checkpoints" / "step-0000400"
    names = ("model.safetensors", "optimizer.safetensors", "state.json")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def losses(run: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows if row["event"] == "train"]


def kill_and_finish(tmp_path: Path, precision: str, kills: int, signum: int, seed: int) -> None:
    recipe = prepare(tmp_path, precision)
    finish(recipe, tmp_path / "whole")
    run, chance = tmp_path / "killed", random.Random(seed)
    reached = 0
    for _ in range(kills):
        process = start(recipe, run)
        assert process.stdout is not None
        for line in process.stdout:  # wait until it trains, whatever the machine's speed
            if line.startswith("step"):
                break
        # Checkpoints come every few milliseconds here, so many of the kills fall into the writing of one.
        time.sleep(chance.uniform(0, 0.7))
        process.send_signal(signum)
        process.communicate()
        reached += process.returncode in (-signum, 128 + signum)
    assert reached, "no kill came in time: the run is too short for this machine"
    finish(recipe, run)
    assert final_hashes(run) == final_hashes(tmp_path / "whole")
    # The log of the resumed run has every step once, with the same losses.
    assert losses(run)[-1] == losses(tmp_path / "whole")[-1]
    steps = [step for step, _ in losses(run)]
    assert steps == sorted(set(steps))


def test_sigkill_at_random_moments_changes_no_bit(tmp_path):
    kill_and_finish(tmp_path, "float32", kills=3, signum=signal.SIGKILL, seed=1)


def test_sigterm_saves_and_the_resumed_run_changes_no_bit(tmp_path):
    kill_and_finish(tmp_path, "bfloat16", kills=2, signum=signal.SIGTERM, seed=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 9))
def test_many_kills(tmp_path, seed):
    kill_and_finish(tmp_path, ["float32", "bfloat16"][seed % 2], kills=10, signum=signal.SIGKILL, seed=seed)


def test_a_damaged_newest_checkpoint_is_passed_over_and_a_damaged_last_one_starts_anew(tmp_path):
    recipe = prepare(tmp_path, "float32")
    run = tmp_path / "run"
    finish(recipe, run)
    whole = final_hashes(run)
    newest = run / "checkpoints" / "step-0000400" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    output = finish(recipe, run)
    assert "passed over" in output
    assert "step-0000400" in output
    assert final_hashes(run) == whole
