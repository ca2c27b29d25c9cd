"""Texts that say what a recipe means, reviewed in diffs. `python tests/golden/record.py` writes them anew."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from rich.console import Console

from corestone.core.spec import override, to_yaml
from corestone.optim.build import rules_of
from corestone.parallel.collectives import World
from corestone.recipes.build import Built
from corestone.recipes.catalogue import SMALL
from corestone.recipes.hooks import Watch
from corestone.recipes.language.shakespeare import shakespeare
from corestone.recipes.load import open_data
from corestone.recipes.pretrain import train
from corestone.recipes.registry import MODELS
from corestone.train.loop import Hook
from corestone.train.meter import Meter
from corestone.train.state import State

LOSSES = "first-losses.txt"
SHORT = ["training.length=20 steps", "schedule.warmup=5 steps", "training.batch_tokens=1024"]
HERE = Path(__file__).parent


def parameters(run) -> str:
    """One line per parameter: name, shape, standard deviation of its initial values, weight decay."""
    model = MODELS.build(run.model, seed=run.seed, device=torch.device("cpu"))
    named = {name: parameter.detach() for name, parameter in model.named_parameters()}
    rules = rules_of(run.optimiser, named)
    lines = []
    for name, parameter in named.items():
        deviation = float(parameter.double().std()) if parameter.numel() > 1 else 0.0
        start = f"std {deviation:.3g}" if deviation > 0 else f"constant {float(parameter.flatten()[0]):g}"
        lines.append(f"{name:45} {list(parameter.shape)!s:15} {start:15} decay {rules[name].weight_decay:g}")
    return "\n".join(lines) + "\n"


class OnlyLosses(Watch):
    """Keeps each step's loss and writes nothing."""

    def hooks(self) -> list[Hook]:
        self.losses: list[float] = []
        return [Hook(1, lambda state, result: self.losses.append(result.loss)), Hook(None, self.progress)]


def first_losses() -> list[float]:
    """Nats per token of the main job's first 20 steps, in float32: data, order, start, model and optimiser at once."""
    run = override(shakespeare(), SHORT)
    world = World(rank=0, size=1, device=torch.device("cpu"))
    built = Built(run, open_data(run, world), world, torch.float32)
    meter = Meter(1.0, 1.0, world.device)
    watch = OnlyLosses(built, HERE, None, meter, Console(quiet=True), built.data.held_out(run, built.objective))
    try:
        train(built, watch, State())
    finally:
        built.loader.close()
    return watch.losses


@cache
def texts() -> dict[str, str]:
    """What every recipe's golden files should hold, by file name."""
    found = {}
    for name, build in SMALL.items():
        stem, run = name.replace("/", "-"), build()
        found[f"{stem}.yaml"] = to_yaml(run)
        found[f"{stem}.parameters.txt"] = parameters(run)
    return found


if __name__ == "__main__":
    for file, text in texts().items():
        (HERE / file).write_text(text, encoding="utf-8")
    (HERE / LOSSES).write_text("".join(f"{loss:.6f}\n" for loss in first_losses()), encoding="utf-8")
