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

import torch
import torch.nn.functional as F

from corestone.core.batch import ImageBatch
from corestone.interop.vision import TIMM
from corestone.interop.weights import to_theirs
from corestone.models.image_encoder import build_image_encoder
from corestone.models.picture_spec import ClassHead, ImageEncoder
from corestone.objectives.classification import ClassificationObjective
from corestone.objectives.spec import Classification
from corestone.parallel.precision import compute_dtype
from corestone.zoo.vit import vit
from ours import CPU, Corestone
from peers import Loop
from rounds import OURS, Times, add_rounds, check_same, conditions, rows, take_turns

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


def timm(spec: ImageEncoder, dtype: torch.dtype) -> Loop:
    """timm's model, in bf16 (autocast) or float32, from the weights that ours starts with."""
    from timm.models import VisionTransformer

    block = spec.stack.blocks[0]
    model = VisionTransformer(
        img_size=spec.embedding.image_size,
        patch_size=spec.embedding.patch_size,
        num_classes=spec.head.classes,
        embed_dim=spec.stack.width,
        depth=len(spec.stack.blocks),
        num_heads=block.mixer.num_heads,
        mlp_ratio=block.feedforward.hidden_dim / spec.stack.width,
    )
    weights = {name: p.detach() for name, p in build_image_encoder(spec).named_parameters()}
    model.load_state_dict(to_theirs(TIMM, spec, weights, spec.head.classes))
    return Loop(model, lambda images, classes: F.cross_entropy(model(images), classes), dtype == torch.bfloat16)


MAKERS = {OURS: Ours, "timm": timm}


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


def make(name: str, size: str, dtype: torch.dtype) -> Times:
    spec, rows = SIZES[size]
    runner = MAKERS[name](spec, dtype)
    return lambda steps: runner.times(data(spec, rows, steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="ti4-32")
    add_rounds(parser, SIDES, rounds=4, precision="bfloat16")
    given = parser.parse_args()
    spec, count = SIZES[given.model]
    dtype = compute_dtype(given.precision, CPU)
    measured, peak = take_turns(given, dtype, make, given.model, dtype)
    check_same(measured, SAME)
    flops = count * build_image_encoder(spec, device="meta").training_flops()
    print(f"{given.model}: {conditions(dtype, peak)}")
    shares = {side: flops / found.median / peak for side, found in measured.items()}
    print("\n".join(rows(measured, count, "images", shares)))


if __name__ == "__main__":
    main()
