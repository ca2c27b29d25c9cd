"""What published rules say of a recipe's learning rate, batch, warm-up, decay and length, beside what it has.

A rule that is about other models, objectives or optimisers is not named. One that is about these but was measured
elsewhere (other sizes, batches, computes) is named with the reason why it suggests nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from corestone.core.format import si
from corestone.core.spec import Spec
from corestone.optim.spec import LAMB, SGD, AdamW, Lion, WarmupStableDecay
from corestone.plan import chinchilla, expected, kaplan, rules
from corestone.plan.prediction import Subject
from corestone.plan.spec import Published

MUP = (
    "a rate that was tuned on a narrow model holds for a wide one in muP (Yang et al. 2022): corestone show RECIPE "
    "--mup-base WIDTH"
)
RANGE_TEST = "no rule for the learning rate holds here; a range test measures one: corestone sweep RECIPE --range-test"
CHANCE = "the run begins with trained weights, and the rule is about runs that begin by chance"


@dataclass(frozen=True)
class Measured:
    """A noise scale that a run measured.

    Attributes:
        run: its folder's name; `step`: at which it was measured.
        unit: tokens or pictures, in which `batch`, about the critical one, is counted.
    """

    run: str
    step: int
    unit: str
    batch: float


@dataclass(frozen=True)
class Settings:
    """What rules ask of a recipe beside the plan's subject.

    Attributes:
        model, objective: kinds of records.
        warmup_steps, decay_steps: of the schedule; None: its kind has no such part, or it is in epochs of unknown size.
        by_chance: whether the run begins so, and not with the weights of another.
        widens: whether its model can be written in muP.
        measured: None: no run was named.
    """

    model: str
    objective: str
    schedule: Spec
    warmup_steps: int | None
    decay_steps: int | None
    by_chance: bool
    widens: bool
    measured: Measured | None = None


@dataclass(frozen=True)
class Said:
    """What a rule says.

    Attributes:
        rule: its name; `source`: paper and place.
        low, high: the setting by the rule, equal where it names one value; None where it suggests nothing.
        range: where the rule was measured, in words.
        outside: why it suggests nothing here; "" where it does.
        remark: what else is to be known.
    """

    rule: str
    source: str
    range: str
    low: float | None = None
    high: float | None = None
    outside: str = ""
    remark: str = ""


def suggest(subject: Subject, settings: Settings, loss: Mapping[str, Any] | None) -> dict[str, Any]:
    """Settings with what each rule that is about such runs says of them, as a JSON tree; a setting that the recipe
    does not have, or that is not known, is left out.

    Args:
        loss: of the plan: what is expected at the end; None: nothing is.
    """
    text = subject.unit
    rows: list[tuple[str, str, float | None, list[Said]]] = [
        ("learning rate", "", subject.optimiser.learning_rate, list(_rates(subject, settings))),  # type: ignore[attr-defined]
        ("batch", text, subject.units_per_step, list(_batches(subject, settings, loss))),
        ("warm-up", "steps", settings.warmup_steps, list(_warmups(subject, settings))),
        ("decay", "steps", settings.decay_steps, list(_decays(subject, settings))),
        ("length", text, subject.units, list(_lengths(subject, settings))),
    ]
    notes = [] if any(one.low is not None for one in rows[0][3]) else [RANGE_TEST]
    if settings.widens and isinstance(subject.optimiser, AdamW | Lion):
        notes.append(MUP)
    return {
        "settings": [
            {"of": name, "unit": unit, "has": has, "rules": [asdict(one) for one in said]}
            for name, unit, has, said in rows
            if has is not None
        ],
        "notes": notes,
    }


def off_the_rules(suggestions: dict[str, Any]) -> list[str]:
    """A warning where a learning rate is far below the lowest or above the highest that a rule suggests."""
    (found,) = [one for one in suggestions["settings"] if one["of"] == "learning rate"]
    said = [one for one in found["rules"] if one["low"] is not None]
    if not said:
        return []
    low, high = min(said, key=lambda one: one["low"]), max(said, key=lambda one: one["high"])
    rate = found["has"]
    if low["low"] / rules.OFF <= rate <= high["high"] * rules.OFF:
        return []
    nearest, value = (low, low["low"]) if rate < low["low"] else (high, high["high"])
    return [
        f"learning rate off the rule: {rate:.2g}, more than {rules.OFF:g} times "
        f"{'below' if rate < value else 'above'} {value:.2g}, the nearest that a rule suggests ({nearest['rule']})"
    ]


def _first(*conditions: tuple[bool, str]) -> str:
    """The first reason whose condition is not met; "" where all are."""
    return next((reason for met, reason in conditions if not met), "")


def _said(rule: str, source: str, where: str, outside: str, value: tuple[float, float], remark: str = "") -> Said:
    if outside:
        return Said(rule, source, where, outside=outside)
    return Said(rule, source, where, value[0], value[1], remark=remark)


def _near(value: float, measured: float) -> bool:
    return measured / rules.NEAR <= value <= measured * rules.NEAR


def _long_enough(subject: Subject, length: float | None) -> tuple[bool, str]:
    """Whether a run is long enough for a rate that was measured in one of that length; yes, where it is not known."""
    long = length is None or subject.units >= rules.SHORTEST * length
    return long, f"the run has {si(subject.units)} {subject.unit}, less than a hundredth of {si(length or 0.0)}"


def _rates(subject: Subject, settings: Settings) -> Iterator[Said]:
    optimiser = subject.optimiser
    if isinstance(optimiser, AdamW | Lion) and settings.objective == "next_token" and settings.model == "decoder":
        yield from _decoder_rates(subject, settings, rules.LION_SHARE if isinstance(optimiser, Lion) else (1.0, 1.0))
    rows = rules.family(settings.model, settings.objective, subject.unit)
    if isinstance(optimiser, AdamW) and rows:
        yield _scaled(subject, settings, rows, optimiser.beta1)
    if isinstance(optimiser, SGD) and settings.objective == "classification":
        bounds, batch = rules.SGD_BATCH, subject.units_per_step
        outside = _first(
            (settings.by_chance, CHANCE),
            (bounds.low <= batch <= bounds.high, f"the batch has {batch:,} pictures"),
            (optimiser.momentum == 0.9, f"the momentum is {optimiser.momentum:g}"),
        )
        rate = rules.linear_scaling(batch)
        where = f"batches of {bounds.low:,.0f} to {bounds.high:,.0f} pictures, momentum 0.9; ResNet-50 on ImageNet"
        yield _said("linear scaling", "Goyal et al. 2017, section 2.1", where, outside, (rate, rate), "after a warm-up")


def _decoder_rates(subject: Subject, settings: Settings, share: tuple[float, float]) -> Iterator[Said]:
    """AdamW's rules for models that predict next tokens; Lion's are shares of them."""
    batch, size, flops = subject.units_per_step, subject.body, _flops(subject)
    lion = " over 10 to 3 (Lion, Chen et al. 2023)" if share != (1.0, 1.0) else ""

    def both(rate: float | None) -> tuple[float, float]:
        return (rate or 0.0) * share[0], (rate or 0.0) * share[1]

    bounds = kaplan.LEARNING_RATE_RANGE
    yield _said(
        "Kaplan et al." + lion,
        "Kaplan et al. 2020, eq. D.1",
        f"{si(bounds.low)} to {si(bounds.high)} parameters outside of embeddings; batches within {rules.NEAR:g} times "
        f"of {si(rules.KAPLAN_BATCH)} tokens, where it was found, {_shortest(rules.KAPLAN_LENGTH, 'tokens')}",
        _first(
            (settings.by_chance, CHANCE),
            (bounds.low <= size <= bounds.high, f"{si(size)} parameters outside of embeddings"),
            (_near(batch, rules.KAPLAN_BATCH), f"the batch has {si(batch)} tokens"),
            _long_enough(subject, rules.KAPLAN_LENGTH),
        ),
        both(expected.learning_rate(size)),
    )
    rows = rules.family("decoder", "next_token", "tokens")
    rate, usual = rules.interpolated(rows, subject.parameters)
    yield _said(
        "GPT-3's table" + lion,
        "Brown et al. 2020, table 2.1, interpolated in the logarithm of the parameters",
        f"{_sizes(rows)}; batches within {rules.NEAR:g} times of the table's, {_shortest(rows[0].length, 'tokens')}",
        _first(
            (settings.by_chance, CHANCE),
            (_within_sizes(rows, subject.parameters), f"{si(subject.parameters)} parameters"),
            (_near(batch, usual), f"the batch has {si(batch)} tokens, the table's {si(usual)}"),
            _long_enough(subject, rows[0].length),
        ),
        both(rate),
    )
    best = rules.deepseek_batch(flops)
    yield _said(
        "DeepSeek LLM" + lion,
        "DeepSeek-AI 2024 (arXiv 2401.02954), section 3.1, eq. 1",
        f"{_computes()}; batches within {rules.NEAR:g} times of its own rule's",
        _first(
            (settings.by_chance, CHANCE),
            _compute_condition(flops),
            (_near(batch, best), f"the batch has {si(batch)} tokens, by its rule {si(best)}"),
        ),
        both(rules.deepseek_learning_rate(flops)),
    )


def _scaled(subject: Subject, settings: Settings, rows: Sequence[Published], beta1: float) -> Said:
    """A published rate at the recipe's batch."""
    rate, batch = rules.interpolated(rows, subject.parameters)
    near = min(rows, key=lambda one: abs(one.parameters - subject.parameters))
    low, high = rows[0].parameters / rules.NEAR, rows[-1].parameters * rules.NEAR
    ratio, most = subject.units_per_step / batch, 1 / (1 - beta1)
    value = rules.square_root_scaling(rate, batch, subject.units_per_step)
    return _said(
        "root of the batch",
        f"Malladi et al. 2022 (arXiv 2205.10287), from {rate:.2g} at {si(batch)} {subject.unit}, "
        f"{'published for' if rate == near.learning_rate else 'interpolated near'} {near.name} ({near.source})",
        f"{si(low)} to {si(high)} parameters, up to {most:.3g} times the published batch (1 / (1 - beta1)), "
        f"{_shortest(near.length, subject.unit)}",
        _first(
            (settings.by_chance, CHANCE),
            (low <= subject.parameters <= high, f"{si(subject.parameters)} parameters"),
            (ratio < most, f"the batch is {ratio:.3g} times the published one"),
            _long_enough(subject, near.length),
        ),
        (value, value),
        "1 - beta of both betas is to grow by the same ratio as the batch",
    )


def _batches(subject: Subject, settings: Settings, loss: Mapping[str, Any] | None) -> Iterator[Said]:
    measured, batch = settings.measured, subject.units_per_step
    if measured is not None:
        data, steps = rules.costs(batch, measured.batch)
        yield Said(
            "measured noise scale",
            f"McCandlish et al. 2018, eq. 2.11; {measured.run} at step {measured.step:,}",
            "the measured run, at that step; it grows while a run learns",
            measured.batch,
            measured.batch,
            remark=f"this batch takes {data:.3g} times the least {subject.unit} and {steps:.3g} times the least steps",
        )
    if settings.objective != "next_token" or settings.model != "decoder":
        return
    nats = None if loss is None else loss["nats_per_token"]
    critical = None if nats is None else expected.critical_batch(nats)
    yield _said(
        "critical, at most",
        "Kaplan et al. 2020, eq. 1.4, at the expected loss",
        "runs whose loss a law predicts, in nats per token",
        _first(
            (loss is not None, "no law predicts the loss of so small or short a run"),
            (nats is not None, f"the fit predicts {(loss or {}).get('of')}, not nats per token"),
        ),
        (critical or 0.0, critical or 0.0),
        "beyond it a batch saves few steps",
    )
    rows = rules.family("decoder", "next_token", "tokens")
    usual = rules.interpolated(rows, subject.parameters)[1]
    yield _said(
        "GPT-3's table",
        "Brown et al. 2020, table 2.1, interpolated in the logarithm of the parameters",
        _sizes(rows),
        _first((_within_sizes(rows, subject.parameters), f"{si(subject.parameters)} parameters")),
        (usual, usual),
    )
    flops = _flops(subject)
    best = rules.deepseek_batch(flops)
    yield _said(
        "DeepSeek LLM",
        "DeepSeek-AI 2024 (arXiv 2401.02954), section 3.1, eq. 1",
        _computes(),
        _first(_compute_condition(flops)),
        (best, best),
    )


def _warmups(subject: Subject, settings: Settings) -> Iterator[Said]:
    optimiser, batch = subject.optimiser, subject.units_per_step
    if isinstance(optimiser, AdamW | LAMB):
        steps = rules.untuned_warmup(optimiser.beta2)
        yield _said(
            "2 / (1 - beta2)",
            "Ma and Yarats 2021 (arXiv 1910.04209)",
            "runs of more steps",
            _first((steps < subject.steps, f"{steps:,.0f} steps are the whole run of {subject.steps:,}, or more")),
            (steps, steps),
        )
    if settings.objective == "next_token" and settings.model == "decoder" and isinstance(optimiser, AdamW):
        steps, tokens = rules.GPT3_WARMUP / batch, subject.units
        yield _said(
            "GPT-3",
            "Brown et al. 2020, appendix B: 375 M tokens",
            f"runs within {rules.NEAR:g} times of {si(rules.GPT3_LENGTH)} tokens",
            _first(
                (settings.by_chance, CHANCE),
                (_near(tokens, rules.GPT3_LENGTH), f"the run has {si(tokens)} tokens"),
            ),
            (steps, steps),
        )
    if isinstance(optimiser, SGD) and settings.objective == "classification":
        known = subject.available
        steps = rules.WARMUP_EPOCHS * (known or 0.0) / batch
        yield _said(
            "5 epochs",
            "Goyal et al. 2017, section 2.2",
            "batches of more than 256 pictures, runs of more epochs",
            _first(
                (settings.by_chance, CHANCE),
                (known is not None, "how many pictures there are was not said (--available N)"),
                (batch > 256, f"the batch has {batch:,} pictures"),
                (steps < subject.steps, f"{steps:,.0f} steps are the whole run of {subject.steps:,}, or more"),
            ),
            (steps, steps),
        )


def _decays(subject: Subject, settings: Settings) -> Iterator[Said]:
    if isinstance(settings.schedule, WarmupStableDecay):
        steps = rules.DECAY_SHARE * subject.steps
        where = "language models; measured on 36 M parameters"
        outside = _first((subject.text, "the run predicts no next tokens"))
        yield _said("a tenth of the run", "Hu et al. 2024, section 4.3", where, outside, (steps, steps))


def _lengths(subject: Subject, settings: Settings) -> Iterator[Said]:
    if settings.objective != "next_token" or settings.model != "decoder":
        return
    bounds = chinchilla.PARAMETERS
    tokens = rules.TOKENS_PER_PARAMETER * subject.parameters
    yield _said(
        "20 tokens a parameter",
        "Hoffmann et al. 2022, table 3",
        f"{si(bounds.low)} to {si(bounds.high)} parameters, each token seen about once",
        _first(
            (settings.by_chance, CHANCE),
            (bounds.low <= subject.parameters <= bounds.high, f"{si(subject.parameters)} parameters"),
        ),
        (tokens, tokens),
        "of least loss at this compute; a model that is to serve long is trained longer",
    )


def _flops(subject: Subject) -> float:
    """Of the run without those of the vocabulary, which are 6 a weight and token."""
    head = max((prod(shape) for shape in subject.shapes if shape and shape[0] == subject.logits_width), default=0)
    return max(1.0, subject.flops_per_unit - 6.0 * head) * subject.units


def _compute_condition(flops: float) -> tuple[bool, str]:
    bounds = rules.DEEPSEEK_FLOPS
    return bounds.low <= flops <= bounds.high, f"{flops:.2g} FLOPs"


def _shortest(length: float | None, unit: str) -> str:
    return (
        "its length was not seen at its source"
        if length is None
        else f"runs of {si(rules.SHORTEST * length)} {unit} or more"
    )


def _computes() -> str:
    return f"{rules.DEEPSEEK_FLOPS.low:.0e} to {rules.DEEPSEEK_FLOPS.high:.0e} FLOPs outside of the vocabulary"


def _sizes(rows: Sequence[Published]) -> str:
    return f"{si(rows[0].parameters)} to {si(rows[-1].parameters)} parameters"


def _within_sizes(rows: Sequence[Published], parameters: float) -> bool:
    """A size is what was published to its two digits."""
    return bool(0.95 * rows[0].parameters <= parameters <= 1.05 * rows[-1].parameters)
