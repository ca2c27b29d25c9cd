"""A plan in words: for the terminal, for a page of its own, and beside what was measured in a run's report.

Draws nothing, so that the command line answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corestone.core.format import clock, si

Tree = Mapping[str, Any]
DAY = 86_400
MARK = "*"
"""Behind what rests on a figure that was not seen at its source."""
TIME = ("peak_bf16", "peak_float32", "memory_bandwidth", "within_bytes", "between_bytes")
"""Figures of a device that the time of a run rests on."""


def rows(plan: Tree) -> list[tuple[str, str]]:
    """The plan's figures, label and value, in the order of a reader's questions."""
    return [*_what(plan), *_where(plan), *_price(plan), *_result(plan)]


def _what(plan: Tree) -> list[tuple[str, str]]:
    parameters, flops, unit = plan["parameters"], plan["flops"], plan["data"]["unit"].rstrip("s")
    parts = sorted(parameters["parts"].items(), key=lambda pair: -pair[1])[:4]
    again = f", {si(flops['recomputed_per_unit'])} recomputed" if flops["recomputed_per_unit"] else ""
    counted = ", what is recomputed not counted" if again else ""
    return [
        ("parameters", f"{parameters['total']:,}: " + ", ".join(f"{name} {si(size)}" for name, size in parts)),
        (
            "operations",
            f"FLOPs a {unit}: {si(flops['forward_per_unit'])} forward, {si(flops['backward_per_unit'])} backward"
            f"{again}; {flops['total']:.3g} in all{counted}",
        ),
    ]


def _where(plan: Tree) -> list[tuple[str, str]]:
    machine, memory, time = plan["hardware"], plan["memory"], plan["time"]
    parts = sorted(memory["parts_bytes"].items(), key=lambda pair: -pair[1])[:5]
    fits = "" if memory["fits"] else ", DOES NOT FIT"
    told = plan.get("utilisation_from", "the default for this kind of device")
    return [
        (
            "hardware",
            f"{machine['devices']:,} x {machine['title']}, sharding {machine['sharding']}, {machine['precision']}, "
            f"peak {si(machine['peak_flops'], 'FLOP/s')}{_mark(plan, 'peak_bf16', 'peak_float32')}",
        ),
        (
            "memory",
            f"{si(memory['peak_bytes'], 'B')} of {si(memory['capacity_bytes'], 'B')} a device{fits}: "
            + ", ".join(f"{name} {si(size, 'B')}" for name, size in parts),
        ),
        (
            "utilisation",
            f"{machine['utilisation']:.0%} of the peak while it computes ({told}); of the whole time, and without what "
            f"is recomputed, {time['mfu']:.0%} (MFU)",
        ),
        (
            "time",
            f"{span(time['total_seconds'])}{_mark(plan, *TIME)}: "
            f"{time['steps']:,} steps of {time['step_seconds']:.3g} s, "
            f"{si(time['units_per_second'], plan['data']['unit'])}/s, {1 - time['efficiency']:.0%} waiting for others; "
            f"start {span(time['startup_seconds'])}, checkpoints {span(time['checkpoint_seconds'])}, evaluation "
            f"{span(time['evaluation_seconds'])}, samples {span(time['sample_seconds'])}, what follows "
            f"training {span(time['conclusion_seconds'])}",
        ),
        *_failures(plan),
        *_curve(plan),
    ]


def _failures(plan: Tree) -> list[tuple[str, str]]:
    time = plan["time"]
    if time["failures"] < 0.01:
        return []
    return [
        (
            "failures",
            f"about {time['failures']:.1f}; a checkpoint every {span(time['checkpoint_interval_seconds'])} loses least "
            f"(Daly 2006); {span(time['failure_seconds'])} go to them",
        )
    ]


def _curve(plan: Tree) -> list[tuple[str, str]]:
    curve = plan["curve"]
    if plan["hardware"]["name"] == "cpu":
        return []
    return [
        (
            "more devices",
            f"pay up to {curve['pays_up_to']:,} (each doubling {curve['doubling']:g} times as fast); "
            f"rows for {curve['rows']:,}",
        )
    ]


def _price(plan: Tree) -> list[tuple[str, str]]:
    cost = plan["cost"]
    found = []
    if cost["usd"] is not None:
        mark = _mark(plan, "price_usd_hour", *TIME)
        found.append(
            (
                "money",
                f"{cost['usd']:,.0f} USD{mark} at {cost['price_usd_hour']:.2f} a device-hour ({cost['price_source']})",
            )
        )
    if cost["kwh"] is not None:
        mark = _mark(plan, "power_w", *TIME) or (MARK if cost["region_unverified"] else "")
        found.append(
            (
                "energy",
                f"{cost['kwh']:,.0f} kWh, {mass(cost['co2_kg'])} CO2{mark} on the grid of {cost['region']}, "
                f"power usage effectiveness {cost['power_overhead']:g} (assumed)",
            )
        )
    return found


def _result(plan: Tree) -> list[tuple[str, str]]:
    data, loss = plan["data"], plan["loss"]
    seen = "how many there are is not known" if data["epochs"] is None else f"{data['epochs']:.2f} epochs"
    found = [
        ("data", f"{si(data['needed'], data['unit'])}, {seen}; a checkpoint takes {si(data['checkpoint_bytes'], 'B')}")
    ]
    if loss is not None:
        found.append(("loss", _loss(loss)))
    if loss is not None and loss["alternatives"]:
        best = loss["alternatives"][-1]
        found.append(
            (
                "least loss",
                f"the same operations with {si(best['parameters'])} parameters and {si(best['tokens'])} "
                f"{data['unit']}: {best['loss']:.4g}",
            )
        )
    budget = plan.get("budget")
    if budget is not None:
        best = budget["least_loss_parameters"]
        enough = f"{si(best)} parameters, {si(budget['least_loss_tokens'])} {data['unit']}" if best else ""
        least = f"; of least loss: {enough}" if best else ""
        found.append(
            (
                "budget",
                f"{budget['amount']:g} {budget['unit']} buy {budget['share_of_this_run']:.2%} of this run, "
                f"{si(budget['units'], data['unit'])}{least}",
            )
        )
    if (probe := plan.get("probe")) is not None:
        found.append(("probed", _probed(plan, probe)))
    elif plan["calibrated_by"]:
        found.append(("calibrated", f"by {plan['calibrated_by']}"))
    return found


def _loss(loss: Tree) -> str:
    """By the published law, or by a fit to own runs, with its interval."""
    if "fit" not in loss:
        return f"about {loss['nats_per_token']:.2f} nats a token ({loss['caveat']})"
    ends = loss["interval"]
    shown = "no interval of under 8 runs" if ends is None else f"{ends[0]:.4g} to {ends[1]:.4g} (95 %)"
    return f"about {loss['value']:.4g} {loss['of']}, {shown}, by own runs in {loss['fit']}: {loss['caveat']}"


def _probed(plan: Tree, probe: Tree) -> str:
    """What a few steps took, and how far the plan without them would have been off."""
    without = probe["unprobed"]
    by = f"calibrated by {without['by']}" if without["by"] else "not calibrated"
    return (
        f"{probe['steps']} steps in a process of their own: {probe['step_seconds']:.3g} s a step, "
        f"{si(probe['peak_bytes'], 'B')}; without them ({by}) {without['step_seconds']:.3g} s "
        f"({without['step_seconds'] / probe['step_seconds'] - 1:+.0%}), {si(without['peak_bytes'], 'B')} "
        f"({without['peak_bytes'] / probe['peak_bytes'] - 1:+.0%})"
    )


def _mark(plan: Tree, *fields: str) -> str:
    return _behind(plan["hardware"], *fields)


def _behind(hardware: Tree, *fields: str) -> str:
    return MARK if set(fields) & set(hardware["unverified"]) else ""


def others(plan: Tree) -> list[tuple[str, str, str, str, str]]:
    """The run elsewhere: name, time, USD, CO2, whether it fits."""
    return [
        (
            row["name"],
            span(row["days"] * DAY) + _behind(row, *TIME),
            "" if row["usd"] is None else f"{row['usd']:,.0f}{_behind(row, 'price_usd_hour', *TIME)}",
            "" if row["co2_kg"] is None else mass(row["co2_kg"]) + _behind(row, "power_w", *TIME),
            "yes" if row["fits"] else "no",
        )
        for row in plan.get("others", [])
    ]


def suggested(plan: Tree) -> list[tuple[str, str, str]]:
    """A line of each setting: its name, what the recipe has, and what rules say of it, those that hold first."""
    return [
        (found["of"], setting(found["has"], found["unit"]), _in_a_line(found))
        for found in plan["suggestions"]["settings"]
    ]


def _in_a_line(found: Tree) -> str:
    told = [f"{_value(rule, found['unit'])} ({rule['rule']})" for rule in found["rules"] if not rule["outside"]]
    outside = [f"{rule['rule']} ({rule['outside']})" for rule in found["rules"] if rule["outside"]]
    if outside:
        told.append(("outside its range: " if len(outside) == 1 else "outside their ranges: ") + ", ".join(outside))
    return "; ".join(told) or "no rule is known for such a run"


def rules(plan: Tree) -> list[tuple[str, str, list[tuple[str, str, str, str]]]]:
    """All of it, for a page: setting, what the recipe has; of each rule its name, value, range, and source or why it
    suggests nothing."""
    return [
        (
            found["of"],
            setting(found["has"], found["unit"]),
            [(rule["rule"], _value(rule, found["unit"]), rule["range"], _reading(rule)) for rule in found["rules"]],
        )
        for found in plan["suggestions"]["settings"]
    ]


def _reading(rule: Tree) -> str:
    here = f"here {rule['outside']}" if rule["outside"] else ""
    return "; ".join(part for part in (rule["source"], rule["remark"], here) if part)


def _value(rule: Tree, unit: str) -> str:
    """A rule's value, or from its least to its greatest; "" where it suggests none."""
    if rule["low"] is None:
        return ""
    ends = dict.fromkeys(setting(end, unit) for end in (rule["low"], rule["high"]))
    return " to ".join(ends)


def setting(value: float, unit: str) -> str:
    """A setting with its unit: a rate to two digits, whole steps, and amounts with a prefix."""
    if not unit:
        return f"{value:.2g}"
    return f"{value:,.0f} {unit}" if unit == "steps" else si(value, unit)


def span(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds >= 2 * DAY:
        return f"{seconds / DAY:,.1f} days"
    return clock(seconds) if seconds >= 60 else f"{seconds:.2g} s"


def mass(kilograms: float) -> str:
    """A mass in the unit that suits it."""
    if kilograms >= 1000:
        return f"{kilograms / 1000:,.1f} t"
    return f"{kilograms:.0f} kg" if kilograms >= 10 else f"{kilograms:.2g} kg"


@dataclass(frozen=True)
class Held:
    """A figure of a plan beside the measured one."""

    name: str
    predicted: str
    measured: str
    difference: str


def held_to_account(plan: Tree | None, measured: Mapping[str, float]) -> list[Held]:
    """Predicted beside measured, of what was both; empty without a plan."""
    if plan is None or not isinstance(plan.get("memory"), Mapping):
        return []
    named: Sequence[tuple[str, str, float | None, str]] = [
        ("Parameters", "parameters", plan["parameters"]["total"], ""),
        ("Operations", "flops", plan["flops"]["total"], "FLOPs"),
        ("Peak memory", "peak_bytes", plan["memory"]["peak_bytes"], "B"),
        ("Training time", "training_seconds", plan["time"]["training_seconds"], "s"),
        ("After training", "conclusion_seconds", plan["time"].get("conclusion_seconds"), "s"),
        ("From start to end", "total_seconds", plan["time"].get("total_seconds"), "s"),
        ("Loss at the end", "loss", plan["loss"]["nats_per_token"] if plan["loss"] else None, "nats/token"),
    ]
    return [
        Held(name, told(value, unit), told(measured[key], unit), f"{measured[key] / value - 1:+.1%}")
        for name, key, value, unit in named
        if value and key in measured
    ]


def told(value: float, unit: str) -> str:
    """A number with its unit; exact where it has none."""
    return f"{value:,.0f}" if not unit else span(value) if unit == "s" else si(value, unit, 4)
