"""A study as a plain tree, for JSON and for tables. What a study does not have is `{"reason": ...}`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from corestone.plan.bootstrap import Extrapolation
from corestone.plan.isoflop import Envelope, IsoFlop, Line
from corestone.plan.law import Optimum, OutsideRange, SaturatingLaw, compute_exponents, optimum
from corestone.plan.rows import Dropped, counted
from corestone.plan.study import Judged, Study

Tree = dict[str, Any]

FURTHER = (1.0, 10.0)
"""Computes at which the best size is told, as factors of the largest run's."""


def told(found: Study) -> Tree:
    """All numbers of a study."""
    both = found.laws["parameters and tokens"]
    return {
        "rows": len(found.rows),
        "dropped": {"counts": counted(found.dropped), "rows": _dropped(found.dropped)},
        "laws": {name: {"reason": law} if isinstance(law, str) else _law(law) for name, law in found.laws.items()},
        "best": {"reason": both} if isinstance(both, str) else _best(both),
        "isoflop": {"reason": found.isoflop} if isinstance(found.isoflop, str) else _isoflop(found.isoflop),
        "envelope": {"reason": found.envelope} if isinstance(found.envelope, str) else _envelope(found.envelope),
    }


def unusable(dropped: Sequence[Dropped]) -> list[dict[str, str]]:
    """Runs that give no row, with the reasons."""
    return [{"name": one.row.label, "reason": one.reason} for one in dropped]


def _dropped(dropped: tuple[Dropped, ...]) -> list[Tree]:
    return [{"name": one.row.label, "reason": one.reason, "found": one.found} for one in dropped]


def constants(law: SaturatingLaw) -> dict[str, float]:
    """The constants of a law by name, such as `floor` and `tokens_exponent`."""
    found = {"floor": law.floor}
    for term in law.terms:
        found |= {f"{term.over.name}_scale": term.scale, f"{term.over.name}_exponent": term.exponent}
    return found


def _law(judged: Judged) -> Tree:
    fitted, resampled = judged.fit, judged.resampled
    held = judged.extrapolation

    def one(name: str) -> Tree:
        return _with_interval(judged, lambda law: constants(law)[name])

    return {
        "constants": {name: one(name) for name in constants(fitted.law)},
        "ranges": {term.over.name: [term.over.low, term.over.high] for term in fitted.law.terms},
        "rows": len(fitted.rows),
        "outliers": _dropped(fitted.dropped),
        "median_error": fitted.error,
        "worst_error": fitted.worst,
        "descents": fitted.descents,
        "agreeing_descents": fitted.agreeing,
        "resamples": {"fitted": len(resampled.laws), "failed": resampled.failed},
        "draws": [[float(f"{value:.8g}") for value in constants(law).values()] for law in resampled.laws],
        "notes": list(fitted.notes),
        "extrapolation": {"reason": held} if isinstance(held, str) else _extrapolation(held),
    }


def _with_interval(judged: Judged, value: Callable[[SaturatingLaw], float]) -> Tree:
    found = judged.resampled.interval(value)
    return {"value": value(judged.fit.law), "interval": None if found is None else list(found)}


def _extrapolation(held: Extrapolation) -> Tree:
    return {
        "by": held.by,
        "factor": held.factor,
        "mean_error": held.error,
        "worst_error": held.worst,
        "bias": held.bias,
        "runs": [
            {"name": run.row.label, "measured": run.row.loss, "predicted": run.loss, "error": run.error}
            for run in held.runs
        ],
    }


def _best(judged: Judged) -> Tree:
    """The best use of compute by the law of parameters and tokens: exponents, and at the largest compute and beyond.

    FLOPs per parameter and token are the median of the rows."""
    rows = judged.fit.rows
    rates = sorted(row.compute / (row.parameters * row.tokens) for row in rows)
    per, most = rates[len(rates) // 2], max(row.compute for row in rows)

    def at(law: SaturatingLaw, flops: float) -> Optimum:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OutsideRange)  # to leave it is what is asked for, and the factor says so
            return optimum(law, flops, per)

    def figures(flops: float) -> Tree:
        return {
            "parameters": _with_interval(judged, lambda law: at(law, flops).parameters),
            "tokens": _with_interval(judged, lambda law: at(law, flops).tokens),
            "loss": _with_interval(judged, lambda law: at(law, flops).loss),
        }

    return {
        "flops_per_parameter_and_token": per,
        "parameters_exponent": _with_interval(judged, lambda law: compute_exponents(law)[0]),
        "tokens_exponent": _with_interval(judged, lambda law: compute_exponents(law)[1]),
        "at": [{"factor": factor, "flops": factor * most, **figures(factor * most)} for factor in FURTHER],
    }


def _isoflop(found: IsoFlop) -> Tree:
    return {
        "valleys": [
            {
                "flops": one.flops,
                "runs": len(one.rows),
                "parameters": one.parameters,
                "tokens": one.tokens,
                "loss": one.loss,
                "bottom_outside_of_the_sizes": one.edge,
            }
            for one in found.valleys
        ],
        "skipped": [{"flops": one.flops, "runs": one.count, "reason": one.reason} for one in found.skipped],
        "parameters": _line(found.parameters),
        "tokens": _line(found.tokens),
    }


def _line(line: Line | None) -> Tree:
    if line is None:
        return {"reason": "fewer than two valleys"}
    return {"scale": line.scale, "exponent": line.exponent, "interval": line.interval and list(line.interval)}


def _envelope(found: Envelope) -> Tree:
    return {
        "runs": [row.label for row in found.rows],
        "constants": constants(found.fit.law),
        "median_error": found.fit.error,
        "outliers": _dropped(found.fit.dropped),
        "parameters": _line(found.parameters),
    }
