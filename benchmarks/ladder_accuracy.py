"""Ladders held to account: the loss that small runs predict of a recipe, beside the loss that it reaches.

    python benchmarks/ladder_accuracy.py [--only NAME ...] [--seeds 2] [--out runs/ladders]

Each recipe is trained whole. Then `corestone plan ladder` chooses small runs towards it, none of more than an eighth of
its operations and all together of as many, trains them, and predicts its loss without having seen it. Losses do not
depend on the machine's load. Finished runs are not trained again.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table

from corestone.recipes.catalogue import find_recipe
from corestone.recipes.ladder import Asked, ladder
from corestone.recipes.plan import Wanted, plan_recipe
from corestone.recipes.pretrain import pretrain
from corestone.recipes.smaller import smaller
from corestone.recipes.spec import Run

MANY_STEPS = ("training.length=4000 steps", "schedule.warmup=200 steps")
MORE_STEPS = ("training.length=32000 steps", "schedule.warmup=1600 steps")
"""So many that the first rung, a 128th, has learnt where the pixel above stands, as some 200 steps do."""
FEW_TOKENS = ("training.batch_tokens=512", *MANY_STEPS)
FEW_PICTURES = ("training.batch_examples=32", *MANY_STEPS)
AT_THE_END = ("rhythm.evaluate=null", "rhythm.sample=null")
"""Scored once, as rungs are: otherwise scoring pairs or tiles takes as long as many steps."""
RUNGS = 12
SHARE = 0.3
"""Parameters of what is trained over the recipe's own, about: a size that nothing was tuned at."""

CASES: dict[str, tuple[str, tuple[str, ...], str | None]] = {
    "GPT": ("shakespeare", FEW_TOKENS, None),
    "OPT": ("shakespeare-opt", FEW_TOKENS, None),
    "PaLM": ("shakespeare-palm", FEW_TOKENS, None),
    "H3": ("shakespeare-h3", FEW_TOKENS, None),
    "GPT-prefix": ("shakespeare", ("objective={kind: prefix}", "samples.prompts=[]", *FEW_TOKENS), None),
    "T5": ("shakespeare-t5", FEW_TOKENS, None),
    "photographs": ("photographs-h3", ("training.batch_tokens=576", *MORE_STEPS, *AT_THE_END), None),
    "digits": ("mnist-gpt", ("training.batch_tokens=1024", *MANY_STEPS), None),
    "ViT": ("mnist-vit", FEW_PICTURES, "nats"),
    "CNN": ("mnist", FEW_PICTURES, "nats"),
    "BASIC": ("basic-emoji-1", FEW_PICTURES, "nats"),
    "CLIP": ("clip-emoji", ("training.batch_examples=64", *MANY_STEPS, *AT_THE_END), None),
}
"""Recipe, what is changed in it, and the figure that is told: in small batches, so that small runs have many steps."""


def recipe_of(name: str, seed: int) -> Run:
    """The recipe with a smaller model."""
    recipe, changes, _ = CASES[name]
    run = find_recipe(recipe, [*changes, f"seed={seed}"])
    sizes = smaller(run, 6, SHARE / 2)
    return min(sizes, key=lambda one: abs(math.log(one.parameters / sizes[-1].parameters / SHARE))).run


def finished(name: str, seed: int, out: Path) -> dict:
    """What the ladder of a recipe says of it, with the recipe's own run beside it."""
    metric, run, target = CASES[name][2], recipe_of(name, seed), out / f"{name}-seed-{seed}"
    if not (target / "report.html").is_file():
        pretrain(run, target)
    flops = plan_recipe(run, Wanted(hardware="cpu", available=1e6))["flops"]["total"]
    asked = Asked(run, f"{flops:.4e}FLOPs", RUNGS, metric=metric, target=target)
    return ladder(asked, out / f"{name}-ladder-{seed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=CASES)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/ladders"))
    asked = parser.parse_args()
    numbers = ("seed", "runs", "times in compute", "predicted", "95 % interval", "reached", "error")
    table, errors = Table("recipe", "figure", *numbers), []
    for name in asked.only:
        for seed in range(asked.seeds):
            found = finished(name, seed, asked.out)
            told, own = found["prediction"], found["target_run"]
            errors.append(abs(own["error"]))
            ends = told["interval"]
            table.add_row(
                name,
                found["loss"],
                str(seed),
                str(len(found["runs"])),
                f"{told['compute_factor']:.1f}",
                f"{told['value']:.4g}",
                "" if ends is None else f"{ends[0]:.4g} to {ends[1]:.4g}",
                f"{own['loss']:.4g}",
                f"{own['error']:+.2%}",
            )
    console = Console(width=150)
    console.print(table)
    console.print(f"error: median {statistics.median(errors):.2%}, worst {max(errors):.2%}")


if __name__ == "__main__":
    main()
