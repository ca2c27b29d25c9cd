"""Checks of gradients: how a batch is split, who computes it, by what means and in which format, and where it goes."""

from __future__ import annotations

import math
import re

import torch

from corestone.parallel.compiled import Compiled
from corestone.recipes.checks.children import gradients_of_ranks
from corestone.recipes.checks.context import Context, distance, gradients
from corestone.recipes.checks.finding import Finding, failed, judged
from corestone.recipes.steps import train_steps

FULL = 1e-4
"""Of gradients that are the same sums in another order, relative (see `context.distance`)."""
COSINE, HALF_LOSS = 0.005, 0.01
"""How far a gradient in bfloat16 may turn (1 - cosine) and its loss may move (relative)."""
RATIO = 1e3
"""How much larger than another the gradient of a layer of one stack may be, root mean square against root mean
square."""
LAYER = re.compile(r"^(.*?\.\d+)\.")


def accumulation(ctx: Context) -> Finding:
    """Any split of a batch over micro-batches gives the same gradient (design, promise 2)."""
    whole, rows = gradients(ctx.build()), ctx.data.batch(ctx.run)[0]
    sizes = sorted({1, 3, rows - 1} & set(range(1, rows)))
    found = {size: distance(gradients(ctx.build(), micro_batch=size), whole) for size in sizes}
    size = max(found, key=lambda one: found[one][0])
    worst, where = found[size]
    told = ", ".join(map(str, sizes))
    return judged(
        f"gradients of {rows} rows at once and of micro-batches of {told}", worst, FULL, f"{where}, by {size}"
    )


def ranks(ctx: Context) -> Finding:
    """Two processes give the gradient of one (design, promise 2)."""
    worst, where = distance(gradients_of_ranks(ctx, 2), gradients(ctx.build()))
    return judged("gradients of 1 process and of 2 over gloo", worst, FULL, where)


def compiled(ctx: Context) -> Finding:
    """Compiled is eager (design, promise 6): by the compiler of the recipe, or where it has none by the one that
    traces the model and makes no kernels, which is quick."""
    backend = "inductor" if ctx.whole.training.compile else "aot_eager"
    plain, built = gradients(ctx.build(), 1), ctx.build()  # of another step texts may be of another length: minutes
    torch._dynamo.reset()
    worst, where = distance(gradients(built, 1, model=Compiled(built.model, backend)), plain)
    note = where if backend == "inductor" else f"{where}; traced only, as training.compile is off"
    return judged(f"gradients compiled by {backend} and eager", worst, FULL, note)


def precision(ctx: Context) -> Finding:
    """bfloat16 arithmetic with float32 masters points where float32 does."""
    full, half = gradients(ctx.build(), 1)[0], gradients(ctx.build(dtype=torch.bfloat16), 1)[0]
    products = [(half.tensors[name] * tensor).sum() for name, tensor in full.tensors.items()]
    sizes = [sum(float(t.square().sum()) for t in one.tensors.values()) for one in (full, half)]
    turned = 1 - float(sum(products)) / math.sqrt(sizes[0] * sizes[1])
    moved = abs(half.loss - full.loss) / max(abs(full.loss), 1e-6)
    compared = "gradients in float32 and bfloat16 (1 - cosine)"
    note = f"the loss moved by {moved:.2g} of itself (at most {HALF_LOSS:g})"
    finding = judged(compared, turned, COSINE, note, {"cosine": 1 - turned, "loss_moved": moved})
    return finding if moved <= HALF_LOSS else failed(compared, note)


def gradient_flow(ctx: Context) -> Finding:
    """Every trained tensor gets a gradient, and no layer's is out of proportion, once the first steps have moved heads
    that begin at zero."""
    built = ctx.build()
    train_steps(built, 2)
    found = gradients(built, chance=True)
    trained = [name for name, parameter in built.model.named_parameters() if parameter.requires_grad]
    sizes = {name: math.hypot(*(float(one.tensors[name].norm()) for one in found)) for name in trained}
    compared = "root mean squares of the gradients of the layers of a stack"
    for what, names in (
        ("no gradient reaches", [name for name, size in sizes.items() if size == 0]),
        ("not finite:", [name for name, size in sizes.items() if not math.isfinite(size)]),
    ):
        if names:
            return failed(compared, f"{what} {', '.join(names[:5])}{f' and {len(names) - 5} more' * (len(names) > 5)}")
    counts = {name: parameter.numel() for name, parameter in built.model.named_parameters()}
    layers: dict[str, list[str]] = {}
    for name in trained:
        layers.setdefault(match[1] if (match := LAYER.match(name)) else name.rpartition(".")[0] or name, []).append(
            name
        )
    norms = {
        layer: math.sqrt(sum(sizes[name] ** 2 for name in names) / sum(counts[name] for name in names))
        for layer, names in layers.items()
    }
    stacks: dict[str, list[float]] = {}
    for layer, norm in norms.items():
        if layer.rpartition(".")[2].isdigit():
            stacks.setdefault(layer.rpartition(".")[0], []).append(norm)
    worst = max((max(found) / min(found) for found in stacks.values()), default=1.0)
    low, high = (choose(norms, key=lambda layer: norms[layer]) for choose in (min, max))
    note = f"smallest {norms[low]:.2g} in {low}, largest {norms[high]:.2g} in {high}"
    return judged(compared, worst, RATIO, note, norms)
