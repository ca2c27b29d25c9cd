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
from functools import partial
from multiprocessing.connection import Connection

import torch

from corestone.core.batch import plain_batch
from corestone.models.decoder import build_decoder
from corestone.objectives.next_token import NextTokenObjective
from corestone.objectives.spec import NextToken
from corestone.parallel.allocator import keep_freed_memory
from corestone.parallel.precision import compute_dtype
from corestone.zoo.gpt import gpt2
from ours import CPU, Corestone
from peers import HandWritten, HuggingFace
from rounds import OURS, Times, add_rounds, conditions, rows, start, take_turns

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
    OURS: NextTokenSide,
    "hand": HandWritten,
    "hand-compiled": partial(HandWritten, compiled=True),
    "hf": HuggingFace,
}
SIDES = [OURS, "hand", "hand+allocator", "hand-compiled", "hand-compiled+allocator", "hf", "hf+allocator"]


def make(name: str, size: str, dtype: torch.dtype, micro_batch: int | None) -> Times:
    spec, rows, length = SIZES[size]
    runner = MAKERS[name](spec, start_weights(spec), dtype)
    if isinstance(runner, NextTokenSide) and micro_batch is not None:
        runner.in_micro_batches(micro_batch)
    return lambda steps: runner.times(data(spec, rows, length, steps))


def gradients_worker(pipe: Connection, side: str, size: str) -> None:
    keep_freed_memory()
    spec, rows, length = SIZES[size]
    pipe.send(gradients_error(spec, start_weights(spec), data(spec, rows, length, 1)[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="10m")
    add_rounds(parser, SIDES, rounds=4, precision="auto")
    parser.add_argument("--micro-batch", type=int, help="rows at a time on Corestone's side (training.micro_batch)")
    given = parser.parse_args()
    spec, batch, length = SIZES[given.model]
    dtype = compute_dtype(given.precision, CPU)
    error = start(gradients_worker, OURS, given.model).recv()
    print(f"{given.model}: relative error of bf16 gradients {error:.2%}")
    measured, peak = take_turns(given, dtype, make, given.model, dtype, given.micro_batch)
    tokens = batch * length
    flops = tokens * build_decoder(spec, device="meta").training_flops(length)
    print(conditions(dtype, peak))
    shares = {side: flops / found.median / peak for side, found in measured.items()}
    print("\n".join(rows(measured, tokens, "tokens", shares)))


if __name__ == "__main__":
    main()
