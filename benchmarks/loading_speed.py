"""Samples per second of packed, shuffled samples: Corestone, Hugging Face datasets, litdata, a nanoGPT-style loop.

All sides read the same token stream (uint16) from local files in one process, without worker processes, and give
batches in shuffled order. `ready` is what a trainer takes: int64 inputs and targets as torch tensors, one batch at a
time; `raw` is what the library itself returns, in its own type, before that. Every side's samples are compared with
the stream before anything is timed. Rounds of all sides alternate; medians and ratios of one run are printed.

    python benchmarks/loading_speed.py [--tokens 20000000] [--context-length 1024] [--batch-size 32] [--rounds 7]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corestone.core.batch import TextBatch
from corestone.data.loader import TextLoader
from corestone.data.spec import Bytes, Component, Data, Embedded

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Case:
    """The stream in memory and on disk, and the shape of what is read from it."""

    tokens: np.ndarray
    folder: Path
    context_length: int
    batch_size: int

    @property
    def samples(self) -> int:
        return (len(self.tokens) - 1) // self.context_length

    def windows(self, start: int, stop: int) -> np.ndarray:
        """Samples [start, stop) as rows of context_length + 1 tokens, neighbours sharing one."""
        T = self.context_length
        return np.lib.stride_tricks.sliding_window_view(self.tokens, T + 1)[start * T : stop * T : T]


class OneFile:
    """A token file with documents of about 700 tokens, as a TokenSet of one shard."""

    def __init__(self, path: Path) -> None:
        self.shards = [np.memmap(path, dtype=np.uint16, mode="r")]
        self.n_tokens = len(self.shards[0])
        inner = np.random.default_rng(1).integers(1, self.n_tokens - 1, self.n_tokens // 700)
        self.starts = np.unique(np.concatenate([[0, self.n_tokens - 1], inner]))
        self.n_documents = len(self.starts) - 1

    def slice(self, start: int, stop: int) -> np.ndarray:
        return self.shards[0][start:stop].astype(np.int64)

    def document_id(self, i: int) -> str:
        return str(i)


@dataclass
class Side:
    """One contender: endless raw batches, and how one becomes inputs and targets."""

    name: str
    raw: Callable[[], Iterator[Any]]
    ready: Callable[[Any], Pair]


def pair(windows: np.ndarray) -> Pair:
    return torch.from_numpy(windows[:, :-1].astype(np.int64)), torch.from_numpy(windows[:, 1:].astype(np.int64))


def corestone(case: Case, apart: bool, prefetch: int) -> Side:
    spec = Data(
        components=(Component(source=Embedded(name="random")),),
        tokenizer=Bytes(),
        context_length=case.context_length,
        keep_documents_apart=apart,
        prefetch=prefetch,
    )
    token_set = OneFile(case.folder / "stream.bin")

    def raw() -> Iterator[TextBatch]:
        with TextLoader([token_set], spec, 0, case.batch_size) as loader:
            step = 0
            while True:
                yield loader.batch(step)
                step += 1

    extra = ", documents kept apart" if apart else ""
    extra += f", {prefetch} batches ahead" if prefetch else ""
    return Side("corestone" + extra, raw, lambda batch: (batch.tokens_BT, batch.targets_BT))


def nanogpt_style(case: Case) -> Side:
    """A memory map, one slice per sample for inputs and for targets, stacked: here over shuffled samples."""
    data = np.memmap(case.folder / "stream.bin", dtype=np.uint16, mode="r")
    T = case.context_length

    def raw() -> Iterator[Pair]:
        for rows in shuffled(case):
            places = (rows * T).tolist()
            x = torch.stack([torch.from_numpy(data[i : i + T].astype(np.int64)) for i in places])
            y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + T].astype(np.int64)) for i in places])
            yield x, y

    return Side("nanoGPT-style loop", raw, lambda batch: batch)


def hugging_face(case: Case) -> Side:
    """An Arrow table of fixed-length rows, memory-mapped, numpy format, whole batches by a list of indices."""
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"ids": datasets.List(datasets.Value("uint16"), length=case.context_length + 1)})

    def rows() -> Iterator[dict[str, np.ndarray]]:
        for row in case.windows(0, case.samples):
            yield {"ids": row}

    made = datasets.Dataset.from_generator(rows, features=features, cache_dir=str(case.folder / "hf"))
    dataset = made.with_format("numpy")

    def raw() -> Iterator[np.ndarray]:
        for numbers in shuffled(case):
            yield dataset[numbers.tolist()]["ids"]

    return Side(f"Hugging Face datasets {datasets.__version__}", raw, pair)


def litdata(case: Case) -> Side:
    """Its own chunks of raw tokens, read by its token loader in its shuffled order, collated as its batches are."""
    import litdata as library
    from litdata.streaming.item_loader import TokensLoader

    length, folder = case.context_length + 1, str(case.folder / "litdata")
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        library.optimize(
            fn=partial(_litdata_rows, case.folder / "windows.bin", length),
            inputs=list(range(0, case.samples, 1024)),
            output_dir=folder,
            num_workers=1,
            chunk_size=length * 8192,
            item_loader=TokensLoader(block_size=length),
        )

    def raw() -> Iterator[torch.Tensor]:
        while True:
            dataset = library.StreamingDataset(folder, item_loader=TokensLoader(block_size=length), shuffle=True)
            rows = []
            for row in dataset:
                rows.append(row)
                if len(rows) == case.batch_size:
                    yield torch.stack(rows)
                    rows = []

    def ready(windows: torch.Tensor) -> Pair:
        return windows[:, :-1].to(torch.int64), windows[:, 1:].to(torch.int64)

    return Side(f"litdata {library.__version__}", raw, ready)


def _litdata_rows(path: Path, length: int, start: int) -> Iterator[torch.Tensor]:
    windows = np.memmap(path, dtype=np.uint16, mode="r").reshape(-1, length)
    for row in windows[start : start + 1024]:
        yield torch.from_numpy(np.array(row))


def shuffled(case: Case) -> Iterator[np.ndarray]:
    """Endless batches of sample numbers, a new shuffle each epoch."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(case.samples)
        for start in range(0, len(order) - case.batch_size + 1, case.batch_size):
            yield order[start : start + case.batch_size]


def check(case: Case, side: Side) -> None:
    """Every window of one epoch's whole batches must be a sample of the stream, and none may come twice."""
    known = {row.tobytes() for row in case.windows(0, case.samples)}
    source = side.raw()
    batches = case.samples // case.batch_size
    for _ in range(batches):
        inputs, targets = side.ready(next(source))
        assert inputs.dtype == targets.dtype == torch.int64
        windows = torch.cat([inputs, targets[:, -1:]], dim=1).numpy()
        assert np.array_equal(windows[:, 1:], targets.numpy()), side.name
        for row in windows.astype(np.uint16):
            known.remove(row.tobytes())  # a KeyError names a row that is no sample or came before
    source.close()  # type: ignore[attr-defined]


def speed(case: Case, side: Side, ready: bool, batches: int) -> float:
    source = side.raw()
    next(source)
    start = time.perf_counter()
    for _ in range(batches):
        batch = next(source)
        if ready:
            side.ready(batch)
    seconds = time.perf_counter() - start
    source.close()  # type: ignore[attr-defined]
    return batches * case.batch_size / seconds


def contenders(case: Case) -> tuple[list[Side], list[str]]:
    sides = [corestone(case, False, 0), corestone(case, True, 0), corestone(case, True, 4), nanogpt_style(case)]
    missing = []
    for build, package in ((hugging_face, "datasets"), (litdata, "litdata")):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"{package}: not installed (pip install {package})")
            continue
        sides.append(build(case))
    return sides, missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--context-length", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        tokens = np.random.default_rng(0).integers(1, 50_000, options.tokens, dtype=np.uint16)
        case = Case(tokens, Path(name), options.context_length, options.batch_size)
        tokens.tofile(case.folder / "stream.bin")
        case.windows(0, case.samples).tofile(case.folder / "windows.bin")  # what litdata's own chunks are written from
        sides, missing = contenders(case)
        for side in sides:
            check(case, side)
        batches = max(1, case.samples // case.batch_size // 2)
        figures: dict[tuple[str, bool], list[float]] = {}
        for _ in range(options.rounds):
            for side in sides:
                for ready in (False, True):
                    figures.setdefault((side.name, ready), []).append(speed(case, side, ready, batches))
    report(case, sides, missing, figures, options.rounds)


def report(
    case: Case, sides: list[Side], missing: list[str], figures: dict[tuple[str, bool], list[float]], rounds: int
) -> None:
    print(f"{len(case.tokens):,} tokens, samples of {case.context_length:,}, batches of {case.batch_size}, ", end="")
    print(f"median of {rounds} alternating rounds; {platform.machine()}, {os.cpu_count()} cores, ", end="")
    print(f"torch {torch.__version__}, numpy {np.__version__}; one process; contents equal")
    medians = {key: statistics.median(values) for key, values in figures.items()}
    ours = [medians[sides[0].name, ready] for ready in (False, True)]
    print(f"{'samples/s':<52}{'raw':>12}{'ready':>12}{'corestone/raw':>16}{'corestone/ready':>18}")
    for side in sides:
        raw, ready = medians[side.name, False], medians[side.name, True]
        print(f"{side.name:<52}{raw:>12,.0f}{ready:>12,.0f}{ours[0] / raw:>15.1f}x{ours[1] / ready:>17.1f}x")
    for line in missing:
        print(line)


if __name__ == "__main__":
    main()
