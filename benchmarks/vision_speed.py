"""Training throughput and memory of Vision Transformers beside timm's, same model, same batches, same kind of step.

    python benchmarks/vision_speed.py --model s16-224
    python benchmarks/vision_speed.py --model ti4-32

timm's side is a loop as one writes it by hand: float32 weights, autocast, fused AdamW, clipping. Each side lives in a
process of its own, and the sides take turns; printed are medians of steps, ratios and each process's peak memory.
"+allocator" is a side with Corestone's allocator settings, which it would not have by itself. Checked before anything
is printed: the first loss of all sides is the same.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from functools import partial
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F
from torch import nn

from corestone.core.batch import ImageBatch
from corestone.interop.vision import TIMM
from corestone.interop.weights import to_theirs
from corestone.models.image_encoder import build_image_encoder
from corestone.models.picture_spec import ClassHead, ImageEncoder
from corestone.objectives.classification import ClassificationObjective
from corestone.objectives.spec import Classification
from corestone.parallel.allocator import keep_freed_memory
from corestone.parallel.peak import gemm_peak
from corestone.parallel.precision import compute_dtype
from corestone.train.meter import peak_memory
from corestone.zoo.vit import vit
from ours import CPU, Corestone
from peers import groups
from training_speed import has_our_allocator, start

SIZES = {  # spec, pictures per batch
    "s16-224": (vit(384, 12, 6, 16), 32),
    "ti4-32": (vit(192, 12, 3, 4, image_size=(32, 32), head=ClassHead(classes=10)), 128),
}
SIDES = ["corestone", "timm", "timm+allocator"]
SAME = 0.01
"""First losses may differ by this share: both sides compute in low precision, each rounding in its own places."""


class Ours(Corestone):
    """An image encoder under cross-entropy; batches are pairs of pictures and classes."""

    def __init__(self, spec: ImageEncoder, dtype: torch.dtype) -> None:
        self.classes = spec.head.classes
        super().__init__(build_image_encoder(spec), ClassificationObjective(Classification()), dtype)

    def times(self, batches) -> tuple[list[float], list[float]]:
        return super().times([ImageBatch(images, F.one_hot(y, self.classes).float()) for images, y in batches])


class Timm:
    """timm's model, in bf16 (autocast) or float32, from the weights that ours starts with."""

    def __init__(self, spec: ImageEncoder, dtype: torch.dtype, learning_rate: float = 3e-4) -> None:
        from timm.models import VisionTransformer

        block = spec.stack.blocks[0]
        self.model = VisionTransformer(
            img_size=spec.embedding.image_size,
            patch_size=spec.embedding.patch_size,
            num_classes=spec.head.classes,
            embed_dim=spec.stack.width,
            depth=len(spec.stack.blocks),
            num_heads=block.mixer.num_heads,
            mlp_ratio=block.feedforward.hidden_dim / spec.stack.width,
        )
        weights = {name: p.detach() for name, p in build_image_encoder(spec).named_parameters()}
        self.model.load_state_dict(to_theirs(TIMM, spec, weights, spec.head.classes))
        self.autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)
        self.optimiser = torch.optim.AdamW(groups(self.model), lr=learning_rate, betas=(0.9, 0.95), fused=True)

    def step(self, images, classes) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        with self.autocast():
            loss = F.cross_entropy(self.model(images), classes)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        return loss.item()

    def times(self, batches) -> tuple[list[float], list[float]]:
        """Seconds and loss of each step."""
        seconds, losses = [], []
        for images, classes in batches:
            begin = time.perf_counter()
            losses.append(self.step(images, classes))
            seconds.append(time.perf_counter() - begin)
        return seconds, losses


MAKERS = {"corestone": Ours, "timm": Timm}


def data(spec: ImageEncoder, rows: int, count: int):
    """Random pictures and classes: the speed does not depend on them."""
    generator, table = torch.Generator().manual_seed(0), spec.embedding
    return [
        (
            torch.randn(rows, table.channels, *table.image_size, generator=generator),
            torch.randint(spec.head.classes, (rows,), generator=generator),
        )
        for _ in range(count)
    ]


def worker(pipe: Connection, side: str, size: str, dtype: torch.dtype) -> None:
    """Train as many steps as asked, until told None: seconds and losses of the steps, peak bytes so far."""
    name = side.partition("+")[0]
    if has_our_allocator(side):
        keep_freed_memory()
    spec, rows = SIZES[size]
    runner = MAKERS[name](spec, dtype)
    while (steps := pipe.recv()) is not None:
        pipe.send((*runner.times(data(spec, rows, steps)), peak_memory(CPU)))


def check_same(first_loss: dict[str, float]) -> None:
    low, high = min(first_loss.values()), max(first_loss.values())
    if high - low > SAME * high:
        sys.exit(f"the sides do not compute the same: first losses {first_loss}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="ti4-32")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4, help="steps per side and round; the first is not counted")
    parser.add_argument("--precision", choices=["auto", "bfloat16", "float32"], default="bfloat16")
    given = parser.parse_args()
    spec, rows = SIZES[given.model]
    dtype = compute_dtype(given.precision, CPU)
    seconds: dict[str, list[float]] = {side: [] for side in given.sides}
    first_loss: dict[str, float] = {}
    memory: dict[str, int] = {}
    sides: dict[str, Connection] = {}
    peaks = []
    for _ in range(given.rounds):
        for side in given.sides:
            if side not in sides:
                sides[side] = start(worker, side, given.model, dtype)
            sides[side].send(given.steps)
            took, losses, memory[side] = sides[side].recv()
            seconds[side] += took[1:]
            first_loss.setdefault(side, losses[0])
        check_same(first_loss)
        peaks.append(gemm_peak(dtype, CPU, seconds=1.0))
    for pipe in sides.values():
        pipe.send(None)
    flops = build_image_encoder(spec, device="meta").training_flops()
    peak = statistics.median(peaks)
    name, threads = str(dtype).removeprefix("torch."), torch.get_num_threads()
    print(f"{given.model}: all sides in {name}, GEMM peak {peak / 1e9:.0f} GFLOP/s (median), {threads} threads")
    ours = statistics.median(seconds[given.sides[0]])
    for side in given.sides:
        median = statistics.median(seconds[side])
        rate = rows / median
        print(
            f"{side:24} {rate:6.1f} images/s  median {median * 1e3:5.0f} ms of {len(seconds[side])} steps "
            f"({min(seconds[side]) * 1e3:.0f} to {max(seconds[side]) * 1e3:.0f})  {rate * flops / peak:4.0%} of peak  "
            f"first loss {first_loss[side]:.4f}  memory {memory[side] / 1e9:.2f} GB  "
            f"{given.sides[0]} is {median / ours:.2f}x"
        )


if __name__ == "__main__":
    main()
