"""bf16 weights with float32 masters end where float32 weights under autocast end: same model, same batches, two sides.

    python benchmarks/convergence.py --seeds 2 --steps 200

Trains the shakespeare recipe's model on its data, on each side from the same initial weights with the same batches, and
prints the held-out loss of every run, the difference between the sides and the spread between seeds.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from corestone.core.spec import override
from corestone.data.loader import TextLoader
from corestone.data.packing import evaluation_batches
from corestone.models.decoder import build_decoder
from corestone.parallel.allocator import keep_freed_memory
from corestone.parallel.collectives import World
from corestone.recipes.language.shakespeare import shakespeare
from corestone.recipes.text import batch_examples, open_text
from ours import CPU
from peers import HandWritten
from training_speed import NextTokenSide

HELD_OUT_BATCHES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    given = parser.parse_args()
    keep_freed_memory()
    run = override(shakespeare(), ["data.keep_documents_apart=false", "data.prefetch=0"])
    data = open_text(run, World(rank=0, size=1, device=CPU))
    held_out = list(evaluation_batches(data.validation[0], run.data.context_length, 8, False))[:HELD_OUT_BATCHES]
    results: dict[str, list[float]] = {}
    for seed in range(given.seeds):
        loader = TextLoader(data.train, run.data, seed, batch_examples(run))
        batches = [loader.batch(step) for step in range(given.steps)]
        pairs = [(batch.tokens_BT, batch.targets_BT) for batch in batches]
        weights = {n: p.detach().clone() for n, p in build_decoder(run.model, seed=seed).named_parameters()}
        for side in (
            NextTokenSide(run.model, weights, learning_rate=given.learning_rate),
            HandWritten(run.model, weights, learning_rate=given.learning_rate),
        ):
            side.times(pairs)
            losses = [side.held_out(batch.tokens_BT, batch.targets_BT) for batch in held_out]
            results.setdefault(side.name, []).append(statistics.fmean(losses))
            print(f"seed {seed}  {side.name:20} held-out loss {results[side.name][-1]:.4f} nats/token", flush=True)
    ours, theirs = results.values()
    print(f"mean difference {statistics.fmean(a - b for a, b in zip(ours, theirs, strict=True)):+.4f}")
    if given.seeds > 1:
        print(
            f"spread between seeds (standard deviation) {statistics.stdev(ours):.4f} and {statistics.stdev(theirs):.4f}"
        )
    print(f"float32 masters; {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
