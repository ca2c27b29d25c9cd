"""The page of a plan, with plots."""

from __future__ import annotations

from pathlib import Path

from corestone.core.format import si
from corestone.report.planned import Tree, others, rows, rules
from corestone.report.plots import Look, Series
from corestone.report.sections import Chart, chart
from corestone.report.write import render, write


def write_plan(plan: Tree, path: Path) -> Path:
    """Write a plan as a page with plots."""
    return write(
        path,
        render(
            "plan.html.j2",
            {
                "title": f"Plan of {plan['recipe']}",
                "rows": rows(plan),
                "others": others(plan),
                "rules": rules(plan),
                "advice": plan["suggestions"]["notes"],
                "warnings": plan["warnings"],
                "charts": charts(plan),
                "alternatives": [
                    (one["name"], si(one["parameters"]), si(one["tokens"]), f"{one['loss']:.3f}")
                    for one in (plan["loss"] or {}).get("alternatives", [])
                ],
            },
        ),
    )


def charts(plan: Tree) -> list[Chart]:
    """Throughput over devices, beside what it would be without waiting."""
    points = plan["curve"]["points"]
    x = tuple(float(point["devices"]) for point in points)
    rate = tuple(point["units_per_second"] for point in points)
    alone = tuple(rate[0] * devices for devices in x)
    look = Look(over="devices", log=True)
    unit = plan["data"]["unit"]
    return [
        chart(
            "plan-throughput",
            "Throughput",
            f"{unit}/s",
            [Series(x, alone, "without waiting", "c3"), Series(x, rate, "planned", "c1")],
            look,
        ),
        chart(
            "plan-days",
            "Time of the run",
            "days",
            [Series(x, tuple(point["days"] for point in points), "planned", "c2")],
            look,
        ),
    ]
