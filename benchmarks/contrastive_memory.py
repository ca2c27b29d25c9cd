"""Peak memory of the contrastive step: a batch, one of 16 times as many pairs, and that in two passes.

    python benchmarks/contrastive_memory.py

CLIP's ViT-B/32 with full texts, as in contrastive_speed.py, each case in a process of its own. In two passes
(`training.micro_batch`) the activations of one micro-batch and one tower exist at a time, and of all pairs their
pictures, as bytes, and their embeddings: for each tower a float32 row of features from the first pass, the same in one
tensor, and its gradient. Exits with an error where two passes take more than the small batch takes, plus embeddings,
plus the larger batch's further pictures.
"""

from __future__ import annotations

import argparse
import sys
from multiprocessing.connection import Connection

import torch

from contrastive_speed import data, spec_of
from corestone.models.two_tower import build_two_tower
from corestone.objectives.contrastive import ContrastiveObjective
from corestone.objectives.spec import Contrastive
from corestone.parallel.allocator import keep_freed_memory
from corestone.parallel.precision import compute_dtype
from corestone.train.meter import peak_memory
from ours import CPU, Corestone
from rounds import OURS, start

TIMES = 16
STEPS = 2


def worker(pipe: Connection, side: str, pairs: int, micro_batch: int, dtype: torch.dtype) -> None:
    """Train on one batch, twice: peak bytes, seconds of the second step, loss of the first."""
    keep_freed_memory()
    side = Corestone(build_two_tower(spec_of("quick_gelu")), ContrastiveObjective(Contrastive()), dtype)
    side.in_micro_batches(micro_batch)
    (batch,) = data("full", pairs, 1)
    seconds, losses = side.times([batch] * STEPS)
    pipe.send((peak_memory(CPU), seconds[-1], losses[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=16, help="of the small batch")
    parser.add_argument("--precision", choices=["auto", "bfloat16", "float32"], default="bfloat16")
    given = parser.parse_args()
    small, large = given.pairs, TIMES * given.pairs
    dtype = compute_dtype(given.precision, CPU)
    cases = {
        f"{small} pairs in one pass": (small, small),
        f"{large} pairs in one pass": (large, large),
        f"{large} pairs in two passes of {small} at a time": (large, small),
        f"{large} pairs in two passes of {small // 2} at a time": (large, small // 2),
    }
    found = {}
    for name, (pairs, micro_batch) in cases.items():
        found[name] = memory, seconds, loss = start(worker, OURS, pairs, micro_batch, dtype).recv()
        print(f"{name:45} {memory / 1e9:6.2f} GB  {pairs / seconds:5.1f} pairs/s  first loss {loss:.4f}", flush=True)
    (one, _, _), (_, _, whole_loss), (two, _, loss), (halves, _, halves_loss) = found.values()
    embeddings = 2 * 3 * 4 * large * spec_of("quick_gelu").embed_dim
    pictures = data("full", 1, 1)[0].images.pixels_BCHW.nbytes * (large - small)
    print(f"two passes take {(two - one) / 1e6:+.0f} MB over {small} pairs, in halves {(halves - one) / 1e6:+.0f} MB")
    print(f"embeddings need {embeddings / 1e6:.1f} MB, the further pictures {pictures / 1e6:.0f} MB")
    if two > one + embeddings + pictures:
        sys.exit(f"more than the {(one + embeddings + pictures) / 1e9:.2f} GB that they should need")
    if max(abs(loss - whole_loss), abs(halves_loss - whole_loss)) > 0.01 * whole_loss:
        sys.exit(f"one pass and two do not compute the same: losses {whole_loss}, {loss} and {halves_loss}")


if __name__ == "__main__":
    main()
