"""How the cost of H3 grows with the context, beside attention: training steps, and generation token by token.

    python benchmarks/h3_scaling.py [--contexts 256 512 1024 2048 4096] [--width 256] [--repeats 7] [--plot PATH.png]

Both sides are decoders of the same width and depth in float32, one with H3 in every layer, one with attention. A step
is forward and backward on one row; a token is the last of a row of so many. At every context it checks that recurrence
and convolution give the same logits (and cached attention those of the whole row). Sides take turns; medians are
printed, and how the cost grew beside how n log n and n^2 grow.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure

from corestone.core.batch import TextBatch, plain_batch
from corestone.core.mask import Mask
from corestone.models.decoder import DecoderModel, build_decoder
from corestone.nn.cache import H3State, KVCache
from corestone.nn.cross_entropy import linear_cross_entropy
from corestone.zoo.h3 import h3

VOCAB_SIZE, TOLERANCE, NEW_TOKENS = 512, 1e-4, 16
Times = dict[str, list[float]]
"""Median milliseconds by side, one per context."""


def build(width: int, depth: int, context: int) -> dict[str, DecoderModel]:
    """Both sides, without dropout."""
    heads, layers = width // 64, {"H3": (), "attention": range(depth)}
    specs = {name: h3(width, depth, heads, attend, None, VOCAB_SIZE, context) for name, attend in layers.items()}
    return {name: build_decoder(spec).eval() for name, spec in specs.items()}


def train_step(model: DecoderModel, tokens_BT: torch.Tensor) -> list[float]:
    """Seconds of forward and backward on one row."""
    start = time.perf_counter()
    hidden = model(plain_batch(tokens_BT)).hidden[0]
    loss, _ = linear_cross_entropy(hidden, model.head, tokens_BT[0])
    loss.backward()
    return [time.perf_counter() - start]


def read(model: DecoderModel, tokens_BT: torch.Tensor, start: int, cache: KVCache) -> torch.Tensor:
    """Hidden values of tokens that begin at a position of the row."""
    positions = torch.arange(start, start + tokens_BT.shape[1])[None]
    return model(TextBatch(tokens_BT, tokens_BT, positions, Mask()), cache).hidden


def generating(model: DecoderModel, tokens_BT: torch.Tensor) -> tuple[list[float], float, int]:
    """Of the last tokens, read one by one: seconds of each, how far their logits are from those of the whole row
    relative to the largest, and bytes of the cache."""
    T, found, seconds = tokens_BT.shape[1], [], []
    cache = model.empty_cache(1, T, torch.float32)
    with torch.inference_mode():
        read(model, tokens_BT[:, : T - NEW_TOKENS], 0, cache)
        for place in range(T - NEW_TOKENS, T):
            start = time.perf_counter()
            found.append(model.head(read(model, tokens_BT[:, place : place + 1], place, cache)))
            seconds.append(time.perf_counter() - start)
        whole = model.head(model(plain_batch(tokens_BT)).hidden[:, T - NEW_TOKENS :])
    distance = (torch.cat(found, dim=1) - whole).abs().max() / whole.abs().max()
    return seconds, float(distance), state_bytes(cache)


def state_bytes(cache: KVCache) -> int:
    """Of what the layers keep of past tokens."""
    tensors = []
    for state in cache.layers:
        two = (
            (state.shift_BDN, state.diagonal_BDN)
            if isinstance(state, H3State)
            else (state.keys_BNSH, state.values_BNSH)
        )
        tensors += two
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def alternate(
    sides: dict[str, DecoderModel], call: Callable[[DecoderModel], list[float]], repeats: int
) -> dict[str, float]:
    """Median milliseconds of what is measured on each side, the sides taking turns; the first round only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(repeats + 1):
        for name, model in sides.items():
            found = call(model)
            seconds[name] += found if round_ else []
    return {name: 1e3 * statistics.median(found) for name, found in seconds.items()}


def measure(contexts: list[int], width: int, depth: int, repeats: int) -> tuple[Times, Times]:
    """Training steps and generated tokens, printed as they come."""
    sides = build(width, depth, max(contexts))
    training: Times = {name: [] for name in sides}
    generation: Times = {name: [] for name in sides}
    for T in contexts:
        tokens = torch.randint(0, VOCAB_SIZE, (1, T), generator=torch.Generator().manual_seed(T))
        checks = {name: generating(model, tokens)[1:] for name, model in sides.items()}
        for name, (distance, _) in checks.items():
            if distance > TOLERANCE:
                raise SystemExit(f"{name}, {T} tokens: cached and whole-row logits differ by {distance:.1e}")
        step = alternate(sides, partial(train_step, tokens_BT=tokens), repeats)
        token = alternate(sides, lambda model, tokens=tokens: generating(model, tokens)[0], 3)
        for name, (distance, size) in checks.items():
            training[name].append(step[name])
            generation[name].append(token[name])
            print(
                f"{T:6} tokens  {name:10} step {step[name]:8.1f} ms   token {token[name]:6.2f} ms   cache "
                f"{size / 1e6:6.2f} MB   cached logits off by {distance:.1e} of the largest",
                flush=True,
            )
    return training, generation


def growth(title: str, contexts: list[int], times: Times) -> None:
    """How much more the last context costs than the first."""
    a, b = contexts[0], contexts[-1]
    print(f"{title}, {b} tokens over {a}: " + ", ".join(f"{name} {t[-1] / t[0]:.2f}x" for name, t in times.items()))


def plot(path: Path, contexts: list[int], training: Times, generation: Times) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, title, times in zip(
        figure.subplots(1, 2), ("Training step, one row", "Generation, per token"), (training, generation), strict=True
    ):
        for name, found in times.items():
            axes.plot(contexts, found, marker="o", label=name)
        axes.set(title=title, xlabel="tokens", ylabel="milliseconds", xscale="log")
        axes.set_xticks(contexts, [str(T) for T in contexts])
        axes.set_xticks([], minor=True)
    last = training["H3"][-1] / (contexts[-1] * math.log2(contexts[-1]))  # shorter rows pay for the kernels too
    figure.axes[0].plot(contexts, [last * T * math.log2(T) for T in contexts], ":", color="grey", label="n log n")
    figure.axes[0].set(yscale="log")
    figure.axes[1].set(ylim=(0, None))
    for axes in figure.axes:
        axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, load average {os.getloadavg()[0]:.1f}")
    training, generation = measure(options.contexts, options.width, options.depth, options.repeats)
    growth("training step", options.contexts, training)
    growth("generated token", options.contexts, generation)
    a, b = options.contexts[0], options.contexts[-1]
    print(f"n log n would be {b * math.log2(b) / (a * math.log2(a)):.2f}x, n^2 {(b / a) ** 2:.0f}x")
    if options.plot is not None:
        plot(options.plot, options.contexts, training, generation)
        print(options.plot)
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
