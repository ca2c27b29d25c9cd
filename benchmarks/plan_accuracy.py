"""Plans held to account: predicted against measured, on small recipes of sizes that calibration did not see.

    OMP_NUM_THREADS=2 python benchmarks/plan_accuracy.py --seconds 75

First some recipes of the house are trained for a third of that time and calibrate a plan file of this benchmark's own.
Then each held-out recipe is planned twice, by that calibration and by a probe, trained in a process of its own, and
compared: peak memory; training time; what follows training (evaluation, floors, report); the time from the process's
start to its end; parameters; and the operations of one real step as torch's counter finds them. Those hold products
with keys that causality hides, since the kernel takes 128 rows of queries at a time. A plan counts keys that are seen;
for this row it is made once more with the kernel's. Needs a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from corestone.core.rng import Draws
from corestone.core.spec import to_yaml
from corestone.core.units import duration
from corestone.data.cache import cache_dir
from corestone.models import flops
from corestone.models.picture_spec import ClassHead
from corestone.nn.attend import BLOCK_ROWS
from corestone.nn.spec import PatchEmbedding
from corestone.parallel.allocator import TUNABLES
from corestone.parallel.collectives import World
from corestone.parallel.precision import compute_dtype
from corestone.recipes.build import Built
from corestone.recipes.calibrate import calibrate
from corestone.recipes.catalogue import find_recipe
from corestone.recipes.load import open_data
from corestone.recipes.made_up import Known, known_of
from corestone.recipes.plan import Wanted, plan_recipe
from corestone.recipes.registry import OBJECTIVES
from corestone.recipes.spec import Run
from corestone.report import figures
from corestone.report.folder import read_run
from corestone.zoo.bert import bert
from corestone.zoo.gpt import gpt2
from corestone.zoo.mnist_cnn import mnist_cnn
from corestone.zoo.t5 import t5
from corestone.zoo.vit import vit

CPU = World(rank=0, size=1, device=torch.device("cpu"))
TRAIN = """
import sys
from pathlib import Path
from corestone.core.spec import read_yaml
from corestone.recipes.pretrain import pretrain
from corestone.recipes.registry import OBJECTIVES
from corestone.recipes.spec import Run
pretrain(read_yaml(Run, Path(sys.argv[1])), Path(sys.argv[2]))
"""

CALIBRATION = ("shakespeare", "shakespeare-bert", "shakespeare-t5", "mnist-vit", "mnist")


def digits_vit(width: int, depth: int, heads: int) -> object:
    """A Vision Transformer of grey pictures of 28 x 28."""
    model = vit(width, depth, heads, 4, image_size=(28, 28), head=ClassHead(classes=10))
    embedding: PatchEmbedding = model.embedding.model_copy(update={"channels": 1})
    return model.model_copy(update={"embedding": embedding})


HELD_OUT: dict[str, tuple[str, Callable[[], object]]] = {
    "gpt-160": ("shakespeare", lambda: gpt2(160, 6, 5, vocab_size=4096, context_length=256)),
    "gpt-384": ("shakespeare", lambda: gpt2(384, 3, 6, vocab_size=4096, context_length=256)),
    "bert-320": (
        "shakespeare-bert",
        lambda: bert(320, 3, 5, 4096, 128, dropout=0.0).model_copy(update={"pooler": None}),
    ),
    "t5-192": ("shakespeare-t5", lambda: t5(192, 4, 3, 64, 384, gated=True, vocab_size=4096, dropout=0.0)),
    "vit-192": ("mnist-vit", lambda: digits_vit(192, 3, 6)),
    "cnn-5x5": ("mnist-m5", lambda: mnist_cnn(5, range(24, 121, 24))),
}
"""Each a recipe of the house with another model."""


def lasting(run: Run, steps: int) -> Run:
    """The run with another length, and looking at itself a few times."""
    training = run.training.model_copy(update={"length": duration(f"{steps} steps")})
    third = duration(f"{max(1, steps // 3)} steps")
    rhythm = run.rhythm.model_copy(update={"evaluate": third, "checkpoint": third, "sample": None})
    warm = run.schedule.model_copy(update={"warmup": duration("2 steps")}) if "warmup" in dict(run.schedule) else None
    return run.model_copy(update={"training": training, "rhythm": rhythm, "schedule": warm or run.schedule})


def known_here(run: Run) -> Known:
    """What its prepared data tells a plan."""
    data = open_data(run, CPU)
    objective = OBJECTIVES.build(run.objective, data.vocabulary)
    loader = data.loader(run, data.batch(run)[0], CPU)
    known = known_of(run, data, objective, loader.epoch_units)
    loader.close()
    return known


def trained(run: Run, folder: Path) -> dict[str, float]:
    """Train in a process of its own; what was measured."""
    recipe = folder.with_suffix(".yaml")
    recipe.write_text(to_yaml(run), encoding="utf-8")
    command = [sys.executable, "-c", TRAIN, str(recipe), str(folder)]
    subprocess.run(command, env=os.environ | {"GLIBC_TUNABLES": TUNABLES}, check=True, stdout=subprocess.DEVNULL)
    return figures.measured(read_run(folder))


def counted(run: Run) -> float:
    """Operations of one real step, forward and backward, by torch's counter."""
    data = open_data(run, CPU)
    built = Built(run, data, CPU, torch.float32)
    batch = built.objective.corrupt(built.loader.batch(0), Draws(0, range(built.examples)))
    with FlopCounterMode(display=False) as counter:
        built.objective.loss(built.model, batch).total.backward()
    built.loader.close()
    return float(counter.get_total_flops())


def multiplied(_: Any, tokens: int, causal: bool) -> float:
    """Keys that the kernel multiplies a token with, on average over a row: those up to the end of its block."""
    if not causal:
        return tokens
    ends = [min(begin + BLOCK_ROWS, tokens) for begin in range(0, tokens, BLOCK_ROWS)]
    return sum((end - begin) * end for begin, end in zip([0, *ends], ends, strict=False)) / tokens


def told_operations(run: Run, known: Known) -> float:
    """A plan's operations of a step, hidden keys among them."""
    with mock.patch.object(flops, "_keys", multiplied):
        return float(plan_recipe(run, Wanted(hardware="cpu"), known)["flops"]["per_step"])


def planned(run: Run, wanted: Wanted, known: Known) -> dict:
    """The plan, made in a fresh process as `corestone plan` makes it: this one holds more memory with every recipe, and
    what a process holds is part of a plan."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(plan_recipe, run, wanted, known).result()


def steps_for(run: Run, seconds: float, known: Known) -> int:
    """So many that training takes about as long, by a probe."""
    plan = planned(run, Wanted(hardware="cpu", probe=True), known)
    return max(6, round(seconds / plan["time"]["step_seconds"]))


def held_out(precision: str) -> Iterator[Run]:
    for name, (base, model) in HELD_OUT.items():
        run = with_precision(find_recipe(base, []), precision)
        yield run.model_copy(update={"name": name, "model": model()})


def with_precision(run: Run, precision: str) -> Run:
    """The run in a number format that is measured once, lest a busy moment choose another."""
    return run.model_copy(update={"training": run.training.model_copy(update={"precision": precision})})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=75.0, help="of training, of each held-out recipe")
    parser.add_argument("--only", nargs="*", default=list(HELD_OUT), choices=HELD_OUT)
    asked = parser.parse_args()
    precision = str(compute_dtype("auto", CPU.device)).removeprefix("torch.")
    console = Console(width=150)
    with tempfile.TemporaryDirectory(prefix="corestone-plans-") as name:
        work = Path(name)
        own = work / "cache"
        own.mkdir()
        for part in cache_dir().iterdir():  # all but this machine's own calibration
            if part.is_dir():
                (own / part.name).symlink_to(part)
        os.environ["CORESTONE_CACHE"] = str(own)
        folders = []
        for recipe in CALIBRATION:
            run = with_precision(find_recipe(recipe, []), precision)
            run = lasting(run, steps_for(run, asked.seconds / 3, known_here(run)))
            console.print(f"calibration: {recipe}, {run.training.length}")
            trained(run, work / recipe)
            folders.append(work / recipe)
        for line in calibrate(folders)[1]:
            console.print(line, soft_wrap=True)
        judge(asked, precision, work, console)


def judge(asked: argparse.Namespace, precision: str, work: Path, console: Console) -> None:
    """Plan, train and compare the held-out recipes."""
    table = Table("recipe", "figure", "measured", "by probe", "error", "by calibration", "error")
    errors: dict[tuple[str, str], list[float]] = {}
    for run in held_out(precision):
        if run.name not in asked.only:
            continue
        known = known_here(run)
        run = lasting(run, steps_for(run, asked.seconds, known))
        probed = planned(run, Wanted(hardware="cpu", probe=True), known)
        plain = planned(run, Wanted(hardware="cpu"), known)
        operations = told_operations(run, known)
        found = trained(run, work / run.name) | {"step_flops": counted(run)}
        for figure, told in (
            ("peak memory, MB", lambda plan: plan["memory"]["peak_bytes"] / 1e6),
            ("training, s", lambda plan: plan["time"]["training_seconds"]),
            ("after training, s", lambda plan: plan["time"]["conclusion_seconds"]),
            ("start to end, s", lambda plan: plan["time"]["total_seconds"]),
            ("parameters", lambda plan: plan["parameters"]["total"]),
            ("FLOPs of a step", lambda _, operations=operations: operations),
        ):
            real = found[MEASURED[figure]] / (1e6 if figure.endswith("MB") else 1)
            off = [told(plan) / real - 1 for plan in (probed, plain)]
            for way, error in zip(("probe", "calibration"), off, strict=True):
                errors.setdefault((figure, way), []).append(abs(error))
            cells = [f"{told(probed):,.4g}", f"{off[0]:+.1%}", f"{told(plain):,.4g}", f"{off[1]:+.1%}"]
            table.add_row(run.name, figure, f"{real:,.4g}", *cells)
        table.add_section()
        console.print(f"{run.name}: {run.training.length} done")
    console.print(table)
    for (figure, way), off in errors.items():
        console.print(f"{figure}, by {way}: median {statistics.median(off):.1%}, worst {max(off):.1%} off")


MEASURED = {
    "peak memory, MB": "peak_bytes",
    "training, s": "training_seconds",
    "after training, s": "conclusion_seconds",
    "start to end, s": "total_seconds",
    "parameters": "parameters",
    "FLOPs of a step": "step_flops",
}
"""What `report.figures.measured` calls them."""


if __name__ == "__main__":
    main()
