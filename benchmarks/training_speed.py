"""Training throughput and memory beside the Hugging Face Trainer and a hand-written loop, same model, same batches.

    python benchmarks/training_speed.py --model 10m
    python benchmarks/training_speed.py --model 124m

Each side lives in a process of its own, and the sides take turns; printed are medians of steps, ratios and each
process's peak memory. All sides compute in bfloat16 or in float32, whichever this machine multiplies faster, or as
`--precision` says. "+allocator" is a side with Corestone's allocator settings, which it would not have by itself.
Checked before: same loss on the same batch, bf16 gradients near float32 ones.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from unittest import mock

import torch

from corestone.core.batch import plain_batch
from corestone.models.decoder import build_decoder
from corestone.objectives.next_token import NextTokenObjective
from corestone.objectives.spec import NextToken
from corestone.parallel.allocator import TUNABLES, keep_freed_memory
from corestone.parallel.peak import gemm_peak
from corestone.parallel.precision import compute_dtype
from corestone.train.meter import peak_memory
from corestone.zoo.gpt import gpt2
from ours import CPU, Corestone
from peers import HandWritten, HuggingFace

SIZES = {  # spec, batch, context
    "10m": (gpt2(384, 6, 6, vocab_size=256, context_length=256), 16, 256),
    "124m": (gpt2(768, 12, 12, vocab_size=50304, context_length=1024), 4, 512),
}


class NextTokenSide(Corestone):
    """A decoder under next-token prediction, from given weights; batches are pairs of tokens and targets."""

    def __init__(self, spec, weights, dtype=torch.bfloat16, learning_rate: float = 3e-4) -> None:
        model = build_decoder(spec)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        super().__init__(model, NextTokenObjective(NextToken()), dtype, learning_rate)

    def in_micro_batches(self, rows: int) -> None:
        """Take a batch in parts, whose gradients are summed: the same gradient from fewer activations at a time."""
        self.trainer.spec = self.trainer.spec.model_copy(update={"micro_batch": rows})

    def times(self, batches) -> tuple[list[float], list[float]]:
        return super().times([plain_batch(*batch) for batch in batches])

    @torch.no_grad()
    def held_out(self, tokens, targets) -> float:
        loss = self.trainer.objective.loss(self.trainer.model, plain_batch(tokens, targets))
        return (loss.total / loss.weight).item()


def gradients_error(spec, weights, batch) -> float:
    """Relative distance of our bf16 gradient from our float32 one."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        side = NextTokenSide(spec, weights, dtype)
        side.loader.batches = [plain_batch(*batch)]
        side.trainer._gradients(0)
        found.append([master.grad for master in side.weights.masters.values()])
    difference = sum((a - b).square().sum() for a, b in zip(*found, strict=True)).sqrt()
    return (difference / sum(a.square().sum() for a in found[0]).sqrt()).item()


def data(spec, rows: int, length: int, count: int):
    """Random token ids: the speed does not depend on them."""
    generator = torch.Generator().manual_seed(0)
    vocab = min(spec.embedding.vocab_size, 50257)
    ids = [torch.randint(0, vocab, (rows, length + 1), generator=generator) for _ in range(count)]
    return [(x[:, :-1].contiguous(), x[:, 1:].contiguous()) for x in ids]


def start_weights(spec):
    return {name: p.detach().clone() for name, p in build_decoder(spec, seed=0).named_parameters()}


MAKERS = {
    "corestone": NextTokenSide,
    "hand": HandWritten,
    "hand-compiled": partial(HandWritten, compiled=True),
    "hf": HuggingFace,
}
SIDES = ["corestone", "hand", "hand+allocator", "hand-compiled", "hand-compiled+allocator", "hf", "hf+allocator"]


def worker(pipe: Connection, side: str, size: str, dtype: torch.dtype, micro_batch: int | None) -> None:
    """Train as many steps as asked, until told None: seconds and losses of the steps, peak bytes so far."""
    name = side.partition("+")[0]
    if has_our_allocator(side):
        keep_freed_memory()
    spec, rows, length = SIZES[size]
    runner = MAKERS[name](spec, start_weights(spec), dtype)
    if name == "corestone" and micro_batch is not None:
        runner.in_micro_batches(micro_batch)
    while (steps := pipe.recv()) is not None:
        pipe.send((*runner.times(data(spec, rows, length, steps)), peak_memory(CPU)))


def gradients_worker(pipe: Connection, side: str, size: str) -> None:
    keep_freed_memory()
    spec, rows, length = SIZES[size]
    pipe.send(gradients_error(spec, start_weights(spec), data(spec, rows, length, 1)[0]))


def has_our_allocator(side: str) -> bool:
    name, _, allocator = side.partition("+")
    return bool(allocator) or name == "corestone"


def start(target: Callable[..., None], side: str, *given: object) -> Connection:
    """A process of its own for a side, with what Corestone's command line sets before a process begins where it is its
    own or has our allocator settings."""
    context = multiprocessing.get_context("spawn")  # allocator settings must precede the first tensor
    ours, theirs = context.Pipe()
    with mock.patch.dict(os.environ, {"GLIBC_TUNABLES": TUNABLES} if has_our_allocator(side) else {}):
        context.Process(target=target, args=(theirs, side, *given), daemon=True).start()
    return ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="10m")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4, help="steps per side and round; the first is not counted")
    parser.add_argument("--precision", choices=["auto", "bfloat16", "float32"], default="auto")
    parser.add_argument("--micro-batch", type=int, help="rows at a time on Corestone's side (training.micro_batch)")
    given = parser.parse_args()
    spec, rows, length = SIZES[given.model]
    dtype = compute_dtype(given.precision, CPU)
    error = start(gradients_worker, "corestone", given.model).recv()
    print(f"{given.model}: relative error of bf16 gradients {error:.2%}")
    seconds: dict[str, list[float]] = {side: [] for side in given.sides}
    first_loss: dict[str, float] = {}
    memory: dict[str, int] = {}
    sides: dict[str, Connection] = {}
    peaks = []
    for _ in range(given.rounds):
        for side in given.sides:
            if side not in sides:
                sides[side] = start(worker, side, given.model, dtype, given.micro_batch)
            sides[side].send(given.steps)
            took, losses, memory[side] = sides[side].recv()
            seconds[side] += took[1:]
            first_loss.setdefault(side, losses[0])
        peaks.append(gemm_peak(dtype, CPU, seconds=1.0))
    for pipe in sides.values():
        pipe.send(None)
    flops = build_decoder(spec, device="meta").training_flops(length)
    peak = statistics.median(peaks)
    name, threads = str(dtype).removeprefix("torch."), torch.get_num_threads()
    print(f"all sides in {name}, GEMM peak {peak / 1e9:.0f} GFLOP/s (median of rounds), {threads} threads")
    ours = statistics.median(seconds[given.sides[0]])
    for side in given.sides:
        median = statistics.median(seconds[side])
        rate = rows * length / median
        print(
            f"{side:24} {rate:6.0f} tokens/s  median {median * 1e3:5.0f} ms of {len(seconds[side])} steps "
            f"({min(seconds[side]) * 1e3:.0f} to {max(seconds[side]) * 1e3:.0f})  {rate * flops / peak:4.0%} of peak  "
            f"first loss {first_loss[side]:.4f}  memory {memory[side] / 1e9:.2f} GB  "
            f"{given.sides[0]} is {median / ours:.2f}x"
        )


if __name__ == "__main__":
    main()
