"""Contrastive training of CLIP's ViT-B/32 beside open_clip's, same weights, same pairs, same kind of step.

    python benchmarks/contrastive_speed.py --captions full
    python benchmarks/contrastive_speed.py --captions natural
    python benchmarks/contrastive_speed.py --captions natural --activation quick_gelu

Pictures of 224 pixels, a vocabulary of 49,408, a context of 77 tokens, 512 shared values, the symmetric loss, AdamW,
clipping. open_clip's side is a loop as one writes it by hand around its model and its loss, in both of its bfloat16
precisions: float32 weights under autocast ("open_clip"), and bfloat16 weights without masters, which the optimiser
updates in bfloat16 ("open_clip-pure"). Natural captions have 8 to 24 tokens, both ends included, evenly drawn: ours
are cut to the longest of a batch, as its loader cuts them; open_clip pads to 77 always.

Each side lives in a process of its own, and the sides take turns; printed are medians of steps, ratios and each
process's peak memory. "+allocator" is a side with Corestone's allocator settings. Checked before anything is printed:
in float32 both models give the same loss, and all sides' first losses are the same. Under a foreign load,
OMP_NUM_THREADS=1 disturbs ratios least.
"""

from __future__ import annotations

import argparse
import sys
from multiprocessing.connection import Connection
from typing import Any

import torch

from corestone.core.batch import Colours, ImageBatch, ImageTextBatch
from corestone.core.vocabulary import Vocabulary
from corestone.data.images.pairs import caption_batch, caption_rows
from corestone.interop.two_tower import OPEN_CLIP, two_tower_to
from corestone.models.picture_spec import TwoTower
from corestone.models.two_tower import build_two_tower
from corestone.nn.spec import Stack
from corestone.objectives.contrastive import ContrastiveObjective
from corestone.objectives.spec import Contrastive
from corestone.parallel.precision import compute_dtype
from corestone.zoo.clip import clip_vit
from ours import CPU, Corestone
from peers import Loop
from rounds import OURS, Times, add_rounds, check_same, conditions, rows, start, take_turns

VOCABULARY = Vocabulary(size=49_408, separator=49_407, pad=0)
BEGIN, CONTEXT, SHORTEST, LONGEST = 49_406, 77, 8, 24
THEIR_NAMES = {"gelu": "ViT-B-32", "quick_gelu": "ViT-B-32-quickgelu"}
AUTOCAST, PURE = "open_clip", "open_clip-pure"
SIDES = [OURS, AUTOCAST, PURE, f"{AUTOCAST}+allocator", f"{PURE}+allocator"]

SAME = 0.01
"""First losses may differ by this share: each side computes in low precision and rounds in its own places. Worst case
measured: 0.13 %."""

SAME_FLOAT32 = 1e-5
"""The same of both models' losses in float32; worst case measured: 2.7e-7."""
CHECKED_PAIRS = 8


def spec_of(activation: str) -> TwoTower:
    """ViT-B/32, which differs between its trainers in the feed-forwards' activation."""
    spec = clip_vit(768, 12, 32, 512, 512)

    def stack(plain: Stack) -> Stack:
        forward = plain.blocks[0].feedforward.model_copy(update={"activation": activation})
        block = plain.blocks[0].model_copy(update={"feedforward": forward})
        return plain.model_copy(update={"blocks": (block,) * len(plain.blocks)})

    image = spec.image.model_copy(update={"stack": stack(spec.image.stack)})
    text = spec.text.model_copy(update={"stack": stack(spec.text.stack)})
    return spec.model_copy(update={"image": image, "text": text})


def data(captions: str, count: int, steps: int) -> list[ImageTextBatch]:
    """Random pictures and tokens: the speed does not depend on them."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(steps):
        lengths = torch.full((count,), CONTEXT)
        if captions == "natural":
            lengths = torch.randint(SHORTEST, LONGEST + 1, (count,), generator=generator)
        ids = [torch.randint(1, BEGIN, (int(n) - 2,), generator=generator).tolist() for n in lengths]
        texts = caption_batch(ids, caption_rows(None, VOCABULARY), CONTEXT)
        texts.tokens_BT[:, 0] = BEGIN  # open_clip reads a text at its largest id
        pixels_BCHW = torch.randint(0, 256, (count, 3, 224, 224), generator=generator, dtype=torch.uint8)
        colours = Colours(mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3))
        batches.append(ImageTextBatch(ImageBatch(pixels_BCHW, colours=colours), texts))
    return batches


def open_clip_model(activation: str, precision: str) -> Any:
    """Their model, from the weights that ours starts with."""
    import open_clip

    model = open_clip.create_model(THEIR_NAMES[activation], pretrained=None, precision=precision)
    spec = spec_of(activation)
    weights = {name: p.detach() for name, p in build_two_tower(spec).named_parameters()}
    model.load_state_dict(two_tower_to(OPEN_CLIP, spec, weights))
    return model


def their_batch(batch: ImageTextBatch, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.zeros(len(batch), CONTEXT, dtype=torch.int64)
    tokens[:, : batch.texts.tokens_BT.shape[1]] = batch.texts.tokens_BT
    return batch.images.images_BCHW.to(dtype), tokens


def make(name: str, activation: str, captions: str, count: int, dtype: torch.dtype) -> Times:
    if name == OURS:
        ours = Corestone(build_two_tower(spec_of(activation)), ContrastiveObjective(Contrastive()), dtype)
        return lambda steps: ours.times(data(captions, count, steps))
    import open_clip

    pure = name == PURE and dtype == torch.bfloat16
    model, loss = open_clip_model(activation, "pure_bf16" if pure else "fp32"), open_clip.ClipLoss()
    loop = Loop(model, lambda *pairs: loss(*model(*pairs)), autocast=dtype == torch.bfloat16 and not pure)
    images = torch.bfloat16 if pure else torch.float32
    return lambda steps: loop.times([their_batch(batch, images) for batch in data(captions, count, steps)])


@torch.no_grad()
def float32_losses(pipe: Connection, side: str, activation: str, captions: str) -> None:
    """Of the same pairs: ours and theirs."""
    import open_clip

    (batch,) = data(captions, CHECKED_PAIRS, 1)
    loss = ContrastiveObjective(Contrastive()).loss(build_two_tower(spec_of(activation)), batch)
    theirs = open_clip.ClipLoss()(*open_clip_model(activation, "fp32")(*their_batch(batch, torch.float32)))
    pipe.send((float(loss.total / loss.weight), float(theirs)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", choices=["full", "natural"], default="natural")
    parser.add_argument("--activation", choices=THEIR_NAMES, default="gelu", help="open_clip's own is gelu")
    parser.add_argument("--pairs", type=int, default=32, help="of a batch")
    add_rounds(parser, SIDES, rounds=3, precision="bfloat16")
    given = parser.parse_args()
    dtype = compute_dtype(given.precision, CPU)
    ours, theirs = start(float32_losses, OURS, given.activation, given.captions).recv()
    if not abs(ours - theirs) <= SAME_FLOAT32 * abs(theirs):
        sys.exit(f"the models do not compute the same: float32 losses {ours} and {theirs}")
    print(f"float32 losses of {CHECKED_PAIRS} pairs: {ours:.7f} and open_clip's {theirs:.7f}")
    measured, peak = take_turns(given, dtype, make, given.activation, given.captions, given.pairs, dtype)
    check_same(measured, SAME)
    batches = data(given.captions, given.pairs, given.steps)
    tokens = max(batch.texts.tokens_BT.shape[1] for batch in batches)
    model = build_two_tower(spec_of(given.activation), device="meta")
    shares = {
        side: given.pairs * model.training_flops(tokens if side == OURS else CONTEXT) / found.median / peak
        for side, found in measured.items()
    }
    print(f"ViT-B/32, {given.activation}, {given.captions} captions ({tokens} tokens), {conditions(dtype, peak)}")
    print("\n".join(rows(measured, given.pairs, "pairs", shares)))


if __name__ == "__main__":
    main()
