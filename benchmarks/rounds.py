"""Sides of a training benchmark in processes of their own, which take turns."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any
from unittest import mock

import torch

from corestone.parallel.allocator import TUNABLES, keep_freed_memory
from corestone.parallel.peak import gemm_peak
from corestone.train.meter import peak_memory
from ours import CPU

OURS = "corestone"

Times = Callable[[int], tuple[list[float], list[float]]]
"""Trains so many steps: the seconds and the loss of each."""


@dataclass
class Measured:
    """What one side took: seconds of its counted steps, the loss of its very first step, peak bytes so far."""

    seconds: list[float] = field(default_factory=list)
    first_loss: float = float("nan")
    memory: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def has_our_allocator(side: str) -> bool:
    """ "+allocator" behind a side's name gives it Corestone's allocator settings, which Corestone's own always has."""
    name, _, allocator = side.partition("+")
    return bool(allocator) or name == OURS


def start(target: Callable[..., None], side: str, *given: object) -> Connection:
    """A process that runs `target(pipe, side, *given)`; the other end of its pipe.

    Where the side has our allocator, it begins with what Corestone's command line sets before it begins.
    """
    context = multiprocessing.get_context("spawn")  # allocator settings must precede the first tensor
    ours, theirs = context.Pipe()
    with mock.patch.dict(os.environ, {"GLIBC_TUNABLES": TUNABLES} if has_our_allocator(side) else {}):
        context.Process(target=target, args=(theirs, side, *given), daemon=True).start()
    return ours


def worker(pipe: Connection, side: str, make: Callable[..., Times], *given: Any) -> None:
    """Train as many steps as asked, until told None: seconds and losses of the steps, peak bytes so far."""
    if has_our_allocator(side):
        keep_freed_memory()
    times = make(side.partition("+")[0], *given)
    while (steps := pipe.recv()) is not None:
        pipe.send((*times(steps), peak_memory(CPU)))


def add_rounds(parser: argparse.ArgumentParser, sides: Sequence[str], rounds: int, precision: str) -> None:
    """The arguments of every benchmark in rounds."""
    parser.add_argument("--sides", nargs="+", choices=sides, default=sides)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--steps", type=int, default=4, help="steps per side and round; the first is not counted")
    parser.add_argument("--precision", choices=["auto", "bfloat16", "float32"], default=precision)


def take_turns(
    asked: argparse.Namespace, dtype: torch.dtype, make: Callable[..., Times], *given: Any
) -> tuple[dict[str, Measured], float]:
    """What each of the sides asked for measured, and the median GEMM peak (FLOP/s) in `dtype` over the rounds."""
    measured = {side: Measured() for side in asked.sides}
    pipes: dict[str, Connection] = {}
    peaks = []
    for turn in range(asked.rounds):
        for side, found in measured.items():
            if side not in pipes:
                pipes[side] = start(worker, side, make, *given)
            pipes[side].send(asked.steps)
            seconds, losses, found.memory = pipes[side].recv()
            found.seconds += seconds[1:]
            if turn == 0:
                found.first_loss = losses[0]
        peaks.append(gemm_peak(dtype, CPU, seconds=1.0))
    for pipe in pipes.values():
        pipe.send(None)
    return measured, statistics.median(peaks)


def check_same(measured: dict[str, Measured], tolerance: float) -> None:
    """Exit where the sides' first losses differ by more than this share."""
    losses = {side: found.first_loss for side, found in measured.items()}
    low, high = min(losses.values()), max(losses.values())
    if not high - low <= tolerance * high:
        sys.exit(f"the sides do not compute the same: first losses {losses}")


def conditions(dtype: torch.dtype, peak: float) -> str:
    """What the sides have in common."""
    name, threads = str(dtype).removeprefix("torch."), torch.get_num_threads()
    return f"all sides in {name}, GEMM peak {peak / 1e9:.0f} GFLOP/s (median of rounds), {threads} threads"


def rows(measured: dict[str, Measured], amount: float, unit: str, shares: dict[str, float]) -> Iterator[str]:
    """A line per side, compared with the first one.

    Args:
        amount: of `unit` in a step.
        shares: of the GEMM peak that a side reaches; empty where nobody counts its operations.
    """
    ours = next(iter(measured.values())).median
    for side, found in measured.items():
        share = f"  {shares[side]:4.0%} of peak" if side in shares else ""
        yield (
            f"{side:24} {amount / found.median:7.1f} {unit}/s  median {found.median * 1e3:5.0f} ms of "
            f"{len(found.seconds)} steps ({min(found.seconds) * 1e3:.0f} to {max(found.seconds) * 1e3:.0f}){share}  "
            f"first loss {found.first_loss:.4f}  memory {found.memory / 1e9:.2f} GB  "
            f"{next(iter(measured))} is {found.median / ours:.2f}x"
        )
