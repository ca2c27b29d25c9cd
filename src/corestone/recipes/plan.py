"""Where a recipe meets the plan: its model without values, a step of made-up data, and the numbers of its settings."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from corestone.core.environment import began, environment
from corestone.core.errors import CorestoneError, SpecError
from corestone.core.format import clock, si
from corestone.core.protocols import Objective
from corestone.core.rng import Draws
from corestone.core.spec import fingerprint, plain
from corestone.core.units import Duration
from corestone.data.images.spec import Images
from corestone.data.spec import Data
from corestone.nn.modes import freeze
from corestone.objectives.spec import Contrastive, NextToken
from corestone.optim.build import frozen_names
from corestone.parallel.collectives import World
from corestone.parallel.precision import compute_dtype
from corestone.plan.calibration import factors
from corestone.plan.cluster import CURVE
from corestone.plan.ending import Ending
from corestone.plan.expected import compute_optimal
from corestone.plan.hardware import devices, find_hardware, find_region, this_device, this_machine
from corestone.plan.law import FLOPS_PER_PARAMETER_AND_TOKEN
from corestone.plan.memory import Sharding
from corestone.plan.own import OwnLaw, read_law
from corestone.plan.prediction import Scale, Subject, memory_of, predict
from corestone.plan.probed import Probed
from corestone.plan.shapes import Activations, block_count, largest_block, parameter_parts, trace
from corestone.plan.spec import CPU, Hardware
from corestone.recipes.made_up import Known, guessed, in_steps, in_whole_steps, made_up, step_size
from corestone.recipes.probe import SECONDS, STEPS, probe
from corestone.recipes.registry import OBJECTIVES
from corestone.recipes.sizes import shaped_model
from corestone.recipes.spec import Run
from corestone.recipes.suggested import noise_scale, with_suggestions

PLAN = "plan.json"
"""In a run's folder: what was predicted before its first step."""

TRACED = (2, 4)
"""Rows of the two traced steps; an even number, which pairs of sentences need."""

MORE_LOADED = 75e6
"""Bytes that a process which trains has loaded beyond one that plans (888 against 812 MB, measured once); put right by
calibration."""

STARTUP_SECONDS = 5.0
"""From the start of a process on a CPU to its first step, where data is prepared; assumed, until it is measured."""

PROBE_SHARE = 1 / 20
"""Of the planned time from the first step on, which `pretrain` may spend on trying some steps in a process of their own
before it says how long the run will take."""

PROBE_STARTUP_SECONDS = 5.0
"""What a probe costs beside its steps where the peak is known: loading, an evaluation, samples, a checkpoint; measured
with the recipe `shakespeare` (docs/planning.md)."""

USUAL = "h100"
"""What a run that does not fit this machine is planned for unless it is said."""


def model_of(run: Run) -> Any:
    """The run's model on the meta device, with what it freezes frozen."""
    model = shaped_model(run.model, run.seed)
    freeze(model, frozen_names(run.optimiser, dict(model.named_parameters())))
    return model


def activations(run: Run, known: Known, model: Any, objective: Objective, dtype: torch.dtype, cpu: bool) -> Activations:
    """What two small steps keep for backward; the model is spent."""
    batches = [objective.corrupt(made_up(run, known, model, rows), Draws(run.seed, range(rows))) for rows in TRACED]
    return Activations(*trace(model, objective.loss, batches, dtype, cpu))


def subject_of(run: Run, known: Known, model: Any, precision: str, cpu: bool) -> Subject:
    """The run in numbers; SpecError where its length is in epochs of unknown length.

    Args:
        model: as `model_of` makes it; it is spent.
    """
    objective = OBJECTIVES.build(run.objective, known.vocabulary)
    trained = [tuple(p.shape) for p in model.parameters() if p.requires_grad]
    parts = parameter_parts(model)
    rows, units = step_size(run)
    steps = partial(in_steps, rows=rows, units=units, epoch=known.available)
    total, rhythm = steps(run.training.length), run.rhythm
    text, writes = isinstance(run.data, Data), model.generates != "nothing"
    bound = run.evaluation.tokens_while_training if text else run.evaluation.pictures_while_training
    evaluated = bound if known.held_out is None else known.held_out
    ending = known.ending or Ending(evaluated, captions=evaluated if model.generates == "captions" else 0.0)
    return Subject(
        name=run.name,
        parts=parts,
        shapes=trained,
        body=sum(size for part, size in parts.items() if "embedding" not in part and not part.startswith("head")),
        frozen=sum(p.numel() for p in model.parameters() if not p.requires_grad),
        largest_block=largest_block(model),
        blocks=block_count(model),
        unit="tokens" if text else "pictures",
        units_per_step=units,
        rows=rows,
        micro_rows=run.training.micro_batch or rows,
        steps=total,
        flops_per_unit=objective.training_flops(model, known.row_tokens),
        recompute=run.training.recompute,
        activations=activations(run, known, model, objective, getattr(torch, precision), cpu),
        logits_width=0 if isinstance(run.data, Images) or isinstance(run.objective, Contrastive) else model.vocab_size,
        row_tokens=known.row_tokens,
        optimiser=run.optimiser,
        averages=run.training.average is not None,
        precision=precision,
        available=known.available,
        text=isinstance(run.objective, NextToken),
        checkpoints=_times(total, rhythm.checkpoint, steps),
        evaluations=_times(total, rhythm.evaluate, steps),
        evaluated_units=evaluated,
        evaluated_rows=evaluated / max(1, units // rows),
        samples=_times(total, rhythm.sample, steps),
        ending=ending,
        ended_rows=ending.units / max(1, units // rows),
        sampled_tokens=run.samples.sampling.max_tokens if text and run.samples.prompts and writes else 0,
    )


def _times(total: int, every: Duration | None, steps: Callable[[Duration], int]) -> int:
    """How often something is done, the last step included, by its rhythm."""
    return 1 if every is None else math.ceil(total / max(1, steps(every)))


@dataclass(frozen=True)
class Wanted:
    """What the user says about a plan; None: as the house thinks best.

    Attributes:
        hardware: a name of the table, or cpu; devices: how many.
        mfu: the share of the peak that a device reaches on what it computes, recomputed operations among them.
        price: USD per device and hour.
        budget: as `parse_budget` reads it.
        available: tokens or pictures of the training side.
        probe: whether to try a few steps on this machine first.
        noise_from: folder of a run that measured its noise scale, in the unit of this one.
        fit: study.json of `plan fit` or ladder.json of `plan ladder`, whose law tells the loss.
    """

    hardware: str | None = None
    devices: int | None = None
    sharding: Sharding | None = None
    mfu: float | None = None
    price: float | None = None
    region: str = "world"
    budget: str | None = None
    available: float | None = None
    probe: bool = False
    noise_from: Path | None = None
    fit: Path | None = None


def plan_recipe(run: Run, wanted: Wanted, known: Known | None = None) -> dict[str, Any]:
    """The plan of a run; SpecError for a probe on other hardware than this machine's processor, or beside --mfu.

    Args:
        known: of its data, where that is prepared.
    """
    own = None if wanted.fit is None else read_law(wanted.fit)
    model = model_of(run)
    name = (wanted.hardware or (CPU if _fits_here(model) else USUAL)).lower()
    cpu = name == CPU
    precision = run.training.precision
    if precision == "auto":
        precision = _format(compute_dtype("auto", torch.device("cpu"))) if cpu else "bfloat16"  # type: ignore[assignment]
    if wanted.probe and not (cpu and (wanted.devices or 1) == 1):
        raise SpecError(f"--probe: tries one process on this machine's processor, and the plan is for {name}")
    if wanted.probe and wanted.mfu:
        raise SpecError(f"--mfu {wanted.mfu:g}: a probe measures the utilisation; leave out --mfu or --probe")
    known = known or guessed(run, wanted.available, model)
    subject = subject_of(run, known, model, precision, cpu)
    probed = probe(in_whole_steps(run, known.available), precision) if wanted.probe else None
    hardware = find_hardware(name, precision)
    count, sharding = _layout(subject, hardware, wanted)
    learnt, told = factors(_machine(), _kind(run)) if cpu else ({}, "")
    scale = Scale(
        hardware=hardware,
        devices=count,
        sharding=sharding,
        utilisation=wanted.mfu or hardware.utilisation * learnt.get("utilisation", 1.0),
        price=hardware.price_usd_hour if wanted.price is None else wanted.price,
        region=find_region(wanted.region),
        base_bytes=resident_bytes() + MORE_LOADED if cpu else 0.0,
        factors=learnt,
        calibrated_by=told,
        startup_seconds=0.0 if not cpu else STARTUP_SECONDS if probed is None else probed.startup_seconds,
    )
    plan = predict(subject, scale, own)
    if cpu and count == 1:
        known_time = plan if probed is None else with_probe(plan, subject, scale, probed, own)[0]
        scale = replace(scale, startup_seconds=scale.startup_seconds + _probed_by_itself(known_time))
        plan = predict(subject, scale, own)
    plan["utilisation_from"] = "--mfu" if wanted.mfu else told or "the default for this kind of device"
    if probed is not None:
        plan, scale = with_probe(plan, subject, scale, probed, own)
    measured = None if wanted.noise_from is None else noise_scale(wanted.noise_from, subject.unit)
    plan = with_suggestions(plan, run, subject, measured)
    plan["warnings"] += [] if own is None else off_fit(run, subject, own)
    plan["others"] = [] if cpu else _others(subject, scale, wanted.mfu)
    if wanted.budget is not None:
        plan["budget"] = within(plan, *parse_budget(wanted.budget), own)
    return plan


def with_probe(
    unprobed: dict[str, Any], subject: Subject, scale: Scale, probed: Probed, own: OwnLaw | None = None
) -> tuple[dict[str, Any], Scale]:
    """The plan by what a few steps took, and how far the one without them was off; and the scale that it rests on.

    Args:
        scale: of the plan without them.
    """
    plain = predict(subject, replace(scale, factors={}))
    done = unprobed["flops"]["done"] / subject.steps
    utilisation = done / probed.step_seconds / probed.peak_flops
    told = f"a probe of {probed.steps} steps"
    hardware = scale.hardware.model_copy(update={"peak_bf16": probed.peak_flops})
    scale = replace(
        scale,
        hardware=hardware,
        utilisation=utilisation,
        factors={
            "memory": probed.peak_bytes / plain["memory"]["peak_bytes"],
            "utilisation": utilisation / hardware.utilisation,
        },
        calibrated_by=told,
        probed=probed,
    )
    plan = predict(subject, scale, own) | {"utilisation_from": told}
    earlier = {"step_seconds": unprobed["time"]["step_seconds"], "peak_bytes": unprobed["memory"]["peak_bytes"]}
    plan["probe"] = asdict(probed) | {"unprobed": earlier | {"by": unprobed["calibrated_by"]}}
    return plan, scale


def learns_from(run: Run) -> str:
    """A fingerprint of data and objective: losses of runs that differ in these do not compare."""
    return fingerprint({"data": plain(run.data), "objective": plain(run.objective)})


def off_fit(run: Run, subject: Subject, own: OwnLaw) -> list[str]:
    """Where a law of own runs is of other runs than this one, in words."""
    found = []
    if own.learns_from is not None and own.learns_from != learns_from(run):
        found.append(
            f"the fit is of runs with other data or another objective ({own.source}): its loss is not this run's"
        )
    if own.parameters is not None and not 0.9 < subject.parameters / own.parameters < 1.1:
        found.append(
            f"the fit is of {si(own.parameters)} parameters alone, and knows nothing of a model of "
            f"{si(subject.parameters)}"
        )
    return found


def _fits_here(model: Any) -> bool:
    parameters = sum(p.numel() for p in model.parameters())
    return bool(16.0 * parameters < this_machine(torch.float32, 1.0).memory_bytes)


def _layout(subject: Subject, hardware: Hardware, wanted: Wanted) -> tuple[int, Sharding]:
    """What was asked; else nothing sharded where that fits, and full sharding on the fewest devices that hold it."""
    scale = Scale(hardware, 1, "none", 1.0, None, find_region("world"))
    if hardware.name == CPU:
        return wanted.devices or 1, wanted.sharding or "none"
    counts = [wanted.devices] if wanted.devices else [n for n in CURVE if n <= max(1, subject.rows)]
    levels: list[Sharding] = [wanted.sharding] if wanted.sharding else ["none", "zero3"]
    for count in counts:
        for level in levels:
            if memory_of(subject, scale, count, level)["fits"]:
                return count, level
    return counts[-1], levels[-1]


def _others(subject: Subject, scale: Scale, mfu: float | None) -> list[dict[str, Any]]:
    """The same run on as many devices of each other kind, with their own utilisation where none was asked for."""
    rows = []
    for hardware in devices().values():
        if hardware.name == scale.hardware.name or (subject.precision == "float32" and hardware.peak_float32 is None):
            continue
        utilisation = mfu or hardware.utilisation
        other = replace(scale, hardware=hardware, price=hardware.price_usd_hour, utilisation=utilisation)
        found = predict(subject, other)
        rows.append(
            {
                "name": hardware.name,
                "fits": found["memory"]["fits"],
                "days": found["time"]["total_seconds"] / 86_400,
                "usd": found["cost"]["usd"],
                "co2_kg": found["cost"]["co2_kg"],
                "unverified": found["hardware"]["unverified"],
            }
        )
    return rows


def parse_budget(text: str) -> tuple[float, str]:
    """`100USD`, `20minutes`, `10hours` or `1e21FLOPs` as an amount and a unit: usd, hours, flops."""
    units = "usd|minutes?|hours?|flops?"
    found = re.fullmatch(rf"([0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?)\s*({units})", text.strip(), re.IGNORECASE)
    if found is None:
        raise SpecError(
            f"--budget {text}: expected an amount and a unit, such as 100USD, 20minutes, 10hours or 1e21FLOPs"
        )
    unit = found[2].lower().rstrip("s")
    return float(found[1]) / (60 if unit == "minute" else 1), {"usd": "usd", "flop": "flops"}.get(unit, "hours")


def within(plan: dict[str, Any], amount: float, unit: str, own: OwnLaw | None = None) -> dict[str, Any]:
    """What a budget buys: its share of this run, and the parameters and units of least loss for it, where a law
    tells these."""
    spent = {"usd": plan["cost"]["usd"], "hours": plan["time"]["total_seconds"] / 3600, "flops": plan["flops"]["total"]}
    if not spent[unit]:
        raise SpecError("--budget in USD: no price is known of this hardware; say one by --price")
    share = amount / spent[unit]
    best: tuple[float, float] | tuple[None, None] = None, None
    if plan["loss"] and plan["loss"]["alternatives"]:
        # In 6 operations a parameter and unit, as laws count: a unit really takes more, a picture one set per patch.
        work = share * FLOPS_PER_PARAMETER_AND_TOKEN * plan["parameters"]["total"] * plan["data"]["needed"]
        best = compute_optimal(work, own.law) if own else compute_optimal(work)
    return {
        "amount": amount,
        "unit": unit,
        "share_of_this_run": share,
        "units": share * plan["data"]["needed"],
        "least_loss_parameters": best[0],
        "least_loss_tokens": best[1],
    }


def plan_built(
    run: Run, known: Known, precision: str, peak: float, world: World, begun: float | None = None
) -> dict[str, Any]:
    """The plan of a run that is about to begin on this machine.

    What a process holds beside the model, and what runs taught, count on a processor: of an accelerator's memory only
    what the run allocates is measured.

    Args:
        peak: FLOP/s of a rank, as measured.
        begun: when the run began, in unix seconds; None: with this process.
    """
    begun = begun or began()
    cpu = world.device.type == "cpu"
    subject = subject_of(run, known, model_of(run), precision, cpu)
    hardware = this_device(world.device, getattr(torch, precision), peak)
    learnt, told = factors(_machine(), _kind(run)) if cpu else ({}, "")
    own = (4.0 if precision == "float32" else 6.0) * subject.parameters + 4.0 * subject.parameters * subject.averages
    scale = Scale(
        hardware=hardware,
        devices=world.size,
        sharding="none",
        utilisation=hardware.utilisation * learnt.get("utilisation", 1.0),
        price=None,
        region=find_region("world"),
        base_bytes=max(0.0, resident_bytes() - own) if cpu else 0.0,
        factors=learnt,
        calibrated_by=told,
        startup_seconds=time.time() - begun,
    )
    plan = predict(subject, scale)
    seconds = _probe_seconds(plan) if cpu and world.size == 1 else 0.0
    if seconds:
        try:
            probed = probe(in_whole_steps(run, known.available), precision, seconds, peak)
            plan, _ = with_probe(plan, subject, replace(scale, startup_seconds=time.time() - begun), probed)
        except CorestoneError as error:
            plan["warnings"].append(str(error))
    return with_suggestions(plan, run, subject)


def _probe_seconds(plan: Mapping[str, Any]) -> float:
    """What the steps of a probe may take that is to cost no more than its share of the planned time from the first step
    on; 0 where that is not enough for the fewest of them, or there is no room for the run twice: it is there already
    while it is tried."""
    time, memory = plan["time"], plan["memory"]
    left = PROBE_SHARE * (time["total_seconds"] - time["startup_seconds"]) - PROBE_STARTUP_SECONDS
    fits = 2 * memory["peak_bytes"] < memory["capacity_bytes"]
    return min(SECONDS, left) if fits and left >= STEPS[0] * time["step_seconds"] else 0.0


def _probed_by_itself(plan: Mapping[str, Any]) -> float:
    """Seconds that `pretrain` will spend on a probe of the planned run."""
    seconds = _probe_seconds(plan)
    return PROBE_STARTUP_SECONDS + max(seconds, STEPS[0] * plan["time"]["step_seconds"]) if seconds else 0.0


def resident_bytes() -> float:
    """What this process holds in memory now; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return sum(int(line.split()[1]) * 1024.0 for line in lines if line.startswith("VmRSS"))


def _format(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _kind(run: Run) -> str:
    return str(plain(run.model)["kind"])


def _machine() -> str:
    return machine_name(environment())


def machine_name(told: Mapping[str, Any]) -> str:
    """A machine's name in the calibration, of what `environment` tells: processor and usable cores."""
    return f"{told['machine']['cpu']}, {told['machine']['cores']} cores"


def store_plan(
    run: Run,
    known: Callable[[], Known],
    folder: Path,
    precision: str,
    peak: float,
    world: World,
    fresh: bool = True,
    begun: float | None = None,
) -> str:
    """Keep the plan of a run that is about to begin as `plan.json` in its folder.

    Of one that is `fresh` no step was taken, and what stands there is of an earlier attempt; another keeps what it has.

    A plan must not stop a run, nor change it: whatever goes wrong is told, and random state is put back.

    Args:
        known: looks at the data, which may go wrong too.

    Returns:
        One line for the user; "" where there is nothing to say.
    """
    path = folder / PLAN
    if path.exists() and not fresh:
        return ""
    path.unlink(missing_ok=True)
    try:
        with torch.random.fork_rng(devices=[]):
            plan = plan_built(run, known(), precision, peak, world, begun)
        path.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    except Exception as error:
        return f"no plan was kept ({type(error).__name__}: {error})".splitlines()[0]
    memory, times = plan["memory"]["peak_bytes"], plan["time"]
    training, whole = times["training_seconds"], times["total_seconds"]
    return f"{si(memory, 'B')} at most, {clock(training)} of training, {clock(whole)} until its end" + (
        f", calibrated by {plan['calibrated_by']}" if plan["calibrated_by"] else ""
    )
