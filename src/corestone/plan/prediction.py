"""A plan: what a run will need, reach and cost, as one record that can be printed, kept and held to account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import prod
from typing import Any

from corestone.core.errors import SpecError
from corestone.core.format import si
from corestone.core.spec import Spec
from corestone.plan import cluster, expected, memory
from corestone.plan.ending import Ending
from corestone.plan.own import OwnLaw, expect
from corestone.plan.probed import Probed
from corestone.plan.rows import Row
from corestone.plan.shapes import Activations
from corestone.plan.spec import CPU, Hardware, Region

POWER_OVERHEAD = 1.2
"""What a data centre draws for each watt of its devices and hosts; assumed (power usage effectiveness)."""


SAMPLED_TOKEN_SECONDS = 0.005
"""To write one token behind each prompt of a sample; assumed, until a probe measures it."""

WRITTEN_AT_ONCE = 64
"""Captions that are written together, of each of which a token takes as long as one of a sample; assumed likewise."""


CONCLUSION_SECONDS = 0.7
"""After training: to load the best weights and to write the report; measured on runs of minutes (docs/planning.md)."""


@dataclass(frozen=True)
class Subject:
    """What a plan is of: the run's model and step, as numbers.

    Attributes:
        parts: parameters by part.
        blocks: pieces that full sharding gathers one after the other.
        shapes: of the trained parameters.
        body: parameters without tables of tokens and positions, as the rules of Kaplan et al. count them; the law of
            loss counts all (Pearce and Song 2024, arXiv 2406.12907).
        unit, units_per_step: tokens or pictures.
        flops_per_unit: forward and backward, without what is recomputed.
        micro_rows: rows of a forward pass; rows: of a step.
        logits_width: of the vocabulary that tokens are predicted from; 0: none are. row_tokens: of a row.
        available: units of the training side; None: not known.
        text: whether the run predicts next tokens, which laws of loss are about.
        checkpoints, evaluations, samples: how often the run makes them; evaluated_units, evaluated_rows: what one
            evaluation sees; sampled_tokens: that continue a prompt, 0 where the run writes none.
        ending, ended_rows: what comes after training, and the rows that are scored then.
    """

    name: str
    parts: Mapping[str, int]
    shapes: Sequence[tuple[int, ...]]
    body: int
    frozen: int
    largest_block: int
    blocks: int
    unit: str
    units_per_step: int
    rows: int
    micro_rows: int
    steps: int
    flops_per_unit: float
    recompute: bool
    activations: Activations
    logits_width: int
    row_tokens: int
    optimiser: Spec
    averages: bool
    precision: str
    available: float | None
    text: bool
    checkpoints: int
    evaluations: int
    evaluated_units: float
    evaluated_rows: float
    samples: int
    sampled_tokens: int
    ending: Ending
    ended_rows: float

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(self.parts.values())

    @cached_property
    def trained(self) -> int:
        """Those that are not frozen."""
        return sum(prod(shape) for shape in self.shapes)

    @cached_property
    def optimiser_bytes(self) -> float:
        """Of the optimiser's state."""
        return memory.optimiser_state(self.optimiser, self.shapes)

    @property
    def units(self) -> int:
        """Of the whole run."""
        return self.steps * self.units_per_step


@dataclass(frozen=True)
class Scale:
    """On what a run is to run.

    Attributes:
        utilisation: share of the peak that a device reaches on what it computes, recomputed operations among them.
        base_bytes: what a process holds before it trains.
        startup_seconds: until the first step.
        factors, calibrated_by: measured over predicted, and where they are from; empty where there are none. The
            utilisation has its factor already.
        probed: what a few steps of the run took here, from which the factors then are; None: there was no probe.
    """

    hardware: Hardware
    devices: int
    sharding: memory.Sharding
    utilisation: float
    price: float | None
    region: Region
    base_bytes: float = 0.0
    factors: Mapping[str, float] = field(default_factory=dict)
    calibrated_by: str = ""
    startup_seconds: float = 0.0
    probed: Probed | None = None


def predict(subject: Subject, scale: Scale, own: OwnLaw | None = None) -> dict[str, Any]:
    """The plan, as a JSON tree: `what` is of each section what it is about; numbers carry their unit in their name.

    Args:
        own: a law of own runs, by which the loss is told in place of the published one.
    """
    held = memory_of(subject, scale, scale.devices, scale.sharding)
    time, steps = _time(subject, scale)
    plan: dict[str, Any] = {
        "recipe": subject.name,
        "hardware": {
            "name": scale.hardware.name,
            "title": scale.hardware.title,
            "devices": scale.devices,
            "sharding": scale.sharding,
            "precision": subject.precision,
            "peak_flops": scale.hardware.peak(subject.precision),
            "utilisation": scale.utilisation,
            "unverified": rests_on(scale, subject.precision),
        },
        "parameters": {"total": subject.parameters, "trained": subject.trained, "parts": dict(subject.parts)},
        "flops": _flops(subject),
        "memory": held,
        "time": time,
        "cost": _cost(scale, time["total_seconds"]),
        "data": _data(subject, scale),
        "loss": _loss(subject) if own is None else _own_loss(subject, own),
        "curve": _curve(subject, scale, steps),
        "calibrated_by": scale.calibrated_by,
        "factors": dict(scale.factors),
    }
    plan["warnings"] = warnings(subject, scale, plan)
    return plan


def rests_on(scale: Scale, precision: str) -> list[str]:
    """Figures that were not seen at their source and that this plan rests on."""
    node = scale.hardware.devices_per_node
    peak = "peak_float32" if precision == "float32" else "peak_bf16"
    link = "within_bytes" if scale.devices <= node else "between_bytes"
    used = {peak, link, "memory_bytes", "memory_bandwidth", "power_w"}
    if scale.price == scale.hardware.price_usd_hour:
        used.add("price_usd_hour")
    return [name for name in scale.hardware.unverified if name in used]


def _flops(subject: Subject) -> dict[str, float]:
    """Per unit, step and run. Backward is twice forward; recomputing is one more forward, heads included, at most."""
    forward = subject.flops_per_unit / 3
    again = forward if subject.recompute else 0.0
    return {
        "forward_per_unit": forward,
        "backward_per_unit": 2 * forward,
        "recomputed_per_unit": again,
        "per_step": subject.flops_per_unit * subject.units_per_step,
        "total": subject.flops_per_unit * subject.units,
        "done": (subject.flops_per_unit + again) * subject.units,
    }


def memory_of(subject: Subject, scale: Scale, devices: int, sharding: memory.Sharding) -> dict[str, Any]:
    """Bytes per device by what they are for, and whether they fit."""
    low = subject.precision != "float32"
    rows = max(1, min(subject.micro_rows, subject.rows // devices))
    activations, largest = subject.activations.at(rows, subject.recompute)
    parts = {
        "process": scale.base_bytes,
        **memory.held(
            subject.trained,
            subject.frozen,
            low,
            subject.optimiser_bytes,
            subject.averages,
            sharding,
            devices,
        ),
        **memory.passing(
            activations,
            largest,
            subject.logits_width,
            rows * subject.row_tokens,
            low,
        ),
        "buffers": memory.buffers(max(map(prod, subject.shapes)), subject.largest_block, low, sharding, devices),
    }
    total = memory.totalled(parts) * scale.factors.get("memory", 1.0)
    return {
        "parts_bytes": {name: size for name, size in parts.items() if size},
        "peak_bytes": total,
        "capacity_bytes": scale.hardware.memory_bytes,
        "fits": total <= scale.hardware.memory_bytes,
        "rows_at_a_time": rows,
    }


def _work(subject: Subject) -> cluster.Work:
    low = subject.precision != "float32"
    return cluster.Work(
        flops=_flops(subject)["done"] / max(1, subject.steps),
        parameters=subject.trained,
        frozen=subject.frozen,
        blocks=subject.blocks,
        rows=subject.rows,
        micro_rows=subject.micro_rows,
        weight_bytes=2.0 if low else 4.0,
        updated_bytes=memory.updated(subject.trained, subject.optimiser_bytes, low),
    )


def _time(subject: Subject, scale: Scale) -> tuple[dict[str, Any], list[cluster.Step]]:
    """Seconds of the run and what they are for."""
    work, peak = _work(subject), scale.hardware.peak(subject.precision)
    step = cluster.step_on(work, scale.hardware, peak, scale.utilisation, scale.sharding, scale.devices)
    training = step.seconds * subject.steps
    nodes = 1 if scale.sharding == "none" else -(-scale.devices // scale.hardware.devices_per_node)  # that write
    writing = _checkpoint_bytes(subject) / nodes / cluster.DISK_BYTES_PER_SECOND
    forward = _flops(subject)["forward_per_unit"] / (scale.devices * peak * scale.utilisation)
    evaluating = subject.evaluations * subject.evaluated_units * forward
    if (probed := scale.probed) is not None:
        writing = probed.checkpoint_seconds
        one = probed.settle_seconds + subject.evaluated_rows * probed.evaluated_row_seconds
        evaluating = subject.evaluations * one
    sampling = subject.samples * (probed.sample_seconds if probed else subject.sampled_tokens * SAMPLED_TOKEN_SECONDS)
    ending = _ending(subject, probed, forward)
    lost = cluster.failures(scale.devices, training, writing, subject.checkpoints)
    unlucky = 0.0 if scale.hardware.name == CPU else training * lost.lost
    return {
        "steps": subject.steps,
        "step_seconds": step.seconds,
        "update_seconds_per_step": step.update_seconds,
        "communication_seconds_per_step": step.communication_seconds,
        "efficiency": step.efficiency,
        "units_per_second": subject.units_per_step / step.seconds,
        "mfu": subject.flops_per_unit * subject.units_per_step / step.seconds / (scale.devices * peak),
        "training_seconds": training,
        "checkpoint_seconds": writing * subject.checkpoints,
        "evaluation_seconds": evaluating,
        "failures": lost.expected,
        "checkpoint_interval_seconds": lost.interval_seconds,
        "failure_seconds": unlucky,
        "startup_seconds": scale.startup_seconds,
        "sample_seconds": sampling,
        "conclusion_seconds": ending,
        "total_seconds": sum(
            (scale.startup_seconds, training, writing * subject.checkpoints, evaluating, sampling, unlucky, ending)
        ),
    }, cluster.curve(work, scale.hardware, peak, scale.utilisation, scale.sharding)


def _ending(subject: Subject, probed: Probed | None, forward: float) -> float:
    """Seconds from the end of training to that of the command.

    Args:
        forward: seconds of a unit's forward pass by what is counted.
    """
    ending = subject.ending
    if probed is not None:
        model = subject.ended_rows * probed.evaluated_row_seconds + ending.captions * probed.caption_seconds
    else:
        model = ending.units * forward + ending.captions * subject.row_tokens * SAMPLED_TOKEN_SECONDS / WRITTEN_AT_ONCE
    return model + ending.seconds + CONCLUSION_SECONDS


def _curve(subject: Subject, scale: Scale, steps: Sequence[cluster.Step]) -> dict[str, Any]:
    rates = [
        {
            "devices": step.devices,
            "units_per_second": subject.units_per_step / step.seconds,
            "efficiency": step.efficiency,
            "days": step.seconds * subject.steps / 86_400,
        }
        for step in steps
    ]
    return {"points": rates, "pays_up_to": cluster.stops_paying(steps), "doubling": cluster.PAYS, "rows": subject.rows}


def _cost(scale: Scale, seconds: float) -> dict[str, Any]:
    """Money, energy and CO2; None where the table does not know."""
    hours = scale.devices * seconds / 3600
    power = scale.hardware.power_w
    energy = None if power is None else hours * power / 1000 * POWER_OVERHEAD
    return {
        "device_hours": hours,
        "price_usd_hour": scale.price,
        "price_source": scale.hardware.price_source if scale.price == scale.hardware.price_usd_hour else "--price",
        "usd": None if scale.price is None else hours * scale.price,
        "power_overhead": POWER_OVERHEAD,
        "kwh": energy,
        "region": scale.region.name,
        "co2_kg": None if energy is None else energy * scale.region.grams_per_kwh / 1000,
        "region_unverified": scale.region.unverified,
    }


def _data(subject: Subject, scale: Scale) -> dict[str, Any]:
    """Units needed and there, what repeated ones are worth (of tokens), and disk."""
    known = subject.available
    tokens = subject.unit == "tokens"
    return {
        "unit": subject.unit,
        "needed": subject.units,
        "available": known,
        "epochs": None if not known else subject.units / known,
        "worth_in_new_tokens": expected.effective_tokens(known, subject.units) if known and tokens else None,
        "shards_bytes": None if known is None or not tokens else known * (2 if subject.logits_width < 65_536 else 4),
        "checkpoint_bytes": _checkpoint_bytes(subject),
    }


def _checkpoint_bytes(subject: Subject) -> float:
    """Float32 weights, their averages where there are any, and the optimiser's state."""
    copies = 2 if subject.averages else 1
    return subject.optimiser_bytes + 4.0 * copies * subject.parameters


def _loss(subject: Subject) -> dict[str, Any] | None:
    """By the published law, of runs that predict next tokens and are of a size it was fitted on; None of others."""
    if not subject.text or not expected.is_lawful(subject.parameters, subject.units):
        return None
    known = subject.available
    worth = expected.effective_tokens(known, subject.units) if known else float(subject.units)
    return {
        "nats_per_token": expected.expected_loss(subject.parameters, worth),
        "caveat": expected.CAVEAT,
        "alternatives": [asdict(one) for one in expected.alternatives(subject.parameters, subject.units)],
    }


def _own_loss(subject: Subject, own: OwnLaw) -> dict[str, Any]:
    """By a law of own runs; SpecError where these saw another material."""
    if own.material != subject.unit:
        raise SpecError(f"--fit {own.source}: is of runs on {own.material}, and this one is on {subject.unit}")
    flops = subject.flops_per_unit * subject.units
    found = expect(own, Row(subject.parameters, subject.units, 1.0, flops))
    both = len(own.variables) == 2
    known = {"parameters": subject.parameters, "tokens": subject.units}
    other = expected.alternatives(known["parameters"], known["tokens"], own.law) if both else []
    return {
        "value": found.value,
        "interval": None if found.interval is None else list(found.interval),
        "of": own.loss,
        "nats_per_token": found.value if subject.text and own.loss.startswith("nats_per_token ") else None,
        "caveat": f"law of {' and '.join(own.variables)}; {_reach(own, found.beyond)}",
        "fit": own.source,
        "alternatives": [asdict(one) for one in other],
    }


def _reach(own: OwnLaw, beyond: float) -> str:
    """How far a law of own runs is stretched, and how well it did when it was tried, in words."""
    tried = (
        "how far it holds was not tried"
        if own.error is None or own.factor is None
        else f"the largest runs, {own.factor:.3g} times beyond the rest, were missed by {own.error:.2%}"
    )
    return f"{tried}; this run lies {beyond:.3g} times outside" if beyond > 1 else f"{tried}; this run lies inside"


SHORT_STEP = 0.02
"""Seconds: some thousand kernels a step at 5 to 10 microseconds each, as eager training of a few dozen layers has."""


def warnings(subject: Subject, scale: Scale, plan: Mapping[str, Any]) -> list[str]:
    """What is likely to go wrong, in plain words."""
    found = []
    held = plan["memory"]
    if not held["fits"]:
        found.append(
            f"does not fit: {si(held['peak_bytes'], 'B')} per device of {si(held['capacity_bytes'], 'B')}; take more "
            "devices with --sharding zero3, a smaller training.micro_batch, or training.recompute=true"
        )
    if scale.devices > subject.rows:
        found.append(
            f"{scale.devices:,} devices for {subject.rows:,} rows of a step: data parallelism needs a row for each"
        )
    if subject.precision == "float32" and not scale.hardware.measured:
        share = scale.hardware.peak("float32") / scale.hardware.peak_bf16
        found.append(f"float32 has {share:.0%} of bfloat16's peak there; take training.precision=bfloat16")
    seconds = plan["time"]["step_seconds"]
    if seconds < SHORT_STEP and not scale.hardware.measured:
        found.append(
            f"a step of {1000 * seconds:.2g} ms is short for such a device: launching its kernels, which is not "
            "counted, takes about as long or longer; take a larger batch or model, or compile"
        )
    epochs = plan["data"]["epochs"]
    if epochs is None:
        found.append("how much data there is was not said (--available N): epochs and over-fitting are not predicted")
    elif epochs > 4 and subject.unit == "tokens":
        worth = plan["data"]["worth_in_new_tokens"] / subject.units
        found.append(
            f"each token is seen {epochs:.1f} times: {si(subject.units)} tokens are worth {worth:.0%} as many new "
            "ones (Muennighoff et al. 2023), and the loss on training text will fall below that on new text"
        )
    return found + _rules(subject, plan)


def _rules(subject: Subject, plan: Mapping[str, Any]) -> list[str]:
    """By rules that are about models that predict next tokens."""
    if not subject.text:
        return []
    found = []
    least = expected.least_tokens(subject.body) if subject.body else 0.0
    if subject.available is not None and subject.available < least:
        found.append(
            f"data is small for the model: {si(subject.available)} tokens where {si(least)} avoid over-fitting "
            "(Kaplan et al. 2020, equation 4.4)"
        )
    loss = (plan["loss"] or {}).get("nats_per_token")
    critical = None if loss is None else expected.critical_batch(loss)
    if critical is not None and subject.units_per_step > critical:
        found.append(
            f"batch above critical: {si(subject.units_per_step)} tokens where about {si(critical)} save steps at the "
            "expected loss (Kaplan et al. 2020, equation 1.4)"
        )
    return found
