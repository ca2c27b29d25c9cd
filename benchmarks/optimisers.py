"""Lion beside AdamW at tuned rates, on a recipe of picture classifiers.

    python benchmarks/optimisers.py [--recipe mnist-vit] [--steps 400] [--seeds 3] [--out runs/optimisers]

Every rate trains once with the recipe's own seed; an optimiser's rate is the one that names most pictures of the
validation side at the end; while that one ends the grid, the grid goes on. It then trains with further seeds, and its
runs are scored on the test side, which chose nothing. Lion's first rates are those of AdamW over ten, as its authors
found to fit (Chen et al. 2023, section 5). Finished runs are not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from corestone.recipes.catalogue import find_recipe
from corestone.recipes.pretrain import pretrain

RATES = {"adamw": (1e-3, 2e-3, 4e-3), "lion": (1e-4, 2e-4, 4e-4)}


def train(recipe: str, steps: int, optimiser: str, rate: float, seed: int, out: Path) -> Path:
    """The folder of the finished run."""
    folder = out / f"{optimiser}-{rate:g}-seed-{seed}"
    record = f"optimiser={{kind: {optimiser}, learning_rate: {rate:f}, weight_decay: 0.0}}"
    length = f"training.length={steps} steps"
    if not (folder / "report.html").is_file():
        pretrain(find_recipe(recipe, [record, length, f"rhythm.evaluate={steps} steps", f"seed={seed}"]), folder)
    return folder


def validation(folder: Path) -> float:
    """Top-1 on the validation side at the end of a run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return float([line for line in lines if line["event"] == "evaluate"][-1]["metrics"]["top1_accuracy"])


def test(folder: Path) -> tuple[float, int]:
    """Top-1 on the test side, and how many pictures it has."""
    found = json.loads((folder / "evaluation.json").read_text())
    (metric,) = (metric for metric in found["model"] if metric["name"] == "top1_accuracy")
    return float(metric["value"]), int(metric["n"])


def searched(recipe: str, steps: int, optimiser: str, out: Path) -> dict[float, float]:
    """The validation side's top-1 by rate, in order of rates; the best one has neighbours on both sides."""
    found: dict[float, float] = {}
    wanted = list(RATES[optimiser])
    while wanted:
        found |= {rate: validation(train(recipe, steps, optimiser, rate, 0, out)) for rate in wanted}
        best = max(found, key=lambda rate: found[rate])
        wanted = [best / 2] if best == min(found) else [best * 2] if best == max(found) else []
    return dict(sorted(found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="mnist-vit")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/optimisers"))
    given = parser.parse_args()
    told = []
    for optimiser in RATES:
        found = searched(given.recipe, given.steps, optimiser, given.out)
        best = max(found, key=lambda rate: found[rate])
        scored = [
            test(train(given.recipe, given.steps, optimiser, best, seed, given.out)) for seed in range(given.seeds)
        ]
        values, n = [value for value, _ in scored], scored[0][1]
        grid = ", ".join(f"{rate:g}: {value:.1%}" for rate, value in found.items())
        told.append(
            f"{optimiser:6} validation by rate {grid}\n       at {best:g}, {given.seeds} seeds, test side (n = {n}): "
            f"{statistics.mean(values):.2%} ({', '.join(f'{value:.2%}' for value in values)})"
        )
    print("\n".join(told))


if __name__ == "__main__":
    main()
