"""A learning-rate range test (Smith 2017, Cyclical learning rates, section 3.3): what its curve says, and its drawing.

Each rate stands beside the loss of the batch that came after its step, the first one that the step could change. Losses
are drawn over the logarithm of the rate, smoothed by a bell that does not lag (`plots.smooth`).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from corestone.core.runlog import spelled
from corestone.report.folder import RANGE_TEST, Run, Tree
from corestone.report.plots import Look, Series, picture, smooth
from corestone.report.sections import chart
from corestone.report.units import BITS, quality

BLOWN_UP = 2.0
"""A test ends where the mean loss of the last steps is so many times its best."""

SPANS = 25
"""The smoothing reaches over one part in so many of the planned steps."""

FEWEST = 20
"""Steps below which nothing is read off."""

NOISES = 3.0
"""A fall counts where it is as many times the standard error of a smoothed loss."""

DONE = 0.8
RULE = "where four fifths of the fall are done"
"""How a rate is suggested: the lowest one at which that share of the whole fall, from the first loss to the least, is
done. It stands for the place where the gain slows, Smith's bound for the largest useful rate; the share is ours. On a
tiny decoder, against the best of a grid of half powers of ten over 100 steps, it was there with Lion, Adafactor and
LAMB, half a power of ten above with AdamW, and a whole one below with SGD."""


@dataclass(frozen=True)
class RangeTest:
    """A test: what was tried, measured and read off.

    Attributes:
        low, high: rates that it was to rise from and to.
        steps: how many it was to take; `span` of them are smoothed over.
        rates, losses: of each step, and of the batch after it (nats, and per token of text).
        ended: why it ended, in words.
        steepest, least, diverged, suggested: rates; None where the curve has no such place.
        why_none: why no rate is suggested; "" where one is.
    """

    low: float
    high: float
    steps: int
    span: int
    rates: Sequence[float]
    losses: Sequence[float]
    smoothed: Sequence[float]
    ended: str
    steepest: float | None
    least: float | None
    diverged: float | None
    suggested: float | None
    why_none: str
    rule: str = RULE


def span_of(steps: int) -> int:
    """How many steps of a test are smoothed over."""
    return max(2, round(steps / SPANS))


def read_off(
    bounds: tuple[float, float], steps: int, rates: Sequence[float], losses: Sequence[float], ended: str, blew_up: bool
) -> RangeTest:
    """What a test's curve says.

    The least loss is the smoothed curve's; the steepest descent is its most negative slope over the logarithm of the
    rate, before that, which says little where the loss falls in several steps. A single loss counts for at most twice
    the first one, so that the rest of the curve can be seen beside a blown-up step.

    Args:
        bounds: lowest and highest rate.
        losses: of the batch after each step; the last one may not be finite.
        blew_up: whether the loss grew beyond `BLOWN_UP` or was not finite, at the last of the rates.
    """
    span = span_of(steps)
    known = [loss for loss in losses[: span + 1] if math.isfinite(loss)]
    cap = 2 * statistics.fmean(known) if known else math.inf
    capped = [min(loss, cap) if math.isfinite(loss) else math.nan for loss in losses]
    curve = smooth(capped, span)
    steepest, slows, least, why = _places(rates, capped, curve, span, blew_up)
    suggested = None if why or slows is None else rates[slows]
    return RangeTest(
        low=bounds[0],
        high=bounds[1],
        steps=steps,
        span=span,
        rates=list(rates),
        losses=list(losses),
        smoothed=curve,
        ended=ended,
        steepest=None if steepest is None else rates[steepest],
        least=None if least is None else rates[least],
        diverged=rates[-1] if blew_up and rates else None,
        suggested=suggested,
        why_none=why,
    )


def _places(
    rates: Sequence[float], losses: Sequence[float], curve: Sequence[float], span: int, blew_up: bool
) -> tuple[int | None, int | None, int | None, str]:
    """Where the steepest descent is, where the fall slows, where the loss is least, and why no rate is suggested."""
    whole = [place for place, loss in enumerate(curve) if math.isfinite(loss)]
    if len(whole) < FEWEST:
        few = f"it ended after {len(whole)} steps, too few to read"
        return None, None, None, f"{few}; begin at a lower rate or take more steps"
    least = min(whole, key=lambda place: curve[place])
    rests = [losses[place] - curve[place] for place in whole[: max(span, least)] if math.isfinite(losses[place])]
    error = statistics.pstdev(rests) / math.sqrt(span)
    if curve[whole[0]] - curve[least] <= NOISES * error:
        return None, None, None, "the loss never fell by more than its noise; take more steps, or reach higher"
    slopes = {
        place: (curve[place + 1] - curve[place - 1]) / math.log10(rates[place + 1] / rates[place - 1])
        for place in whole[1:-1]
        if place <= least
    }
    steepest = min(slopes, key=lambda place: slopes[place]) if slopes else least
    slows = next(p for p in whole if curve[p] <= curve[least] + (1 - DONE) * (curve[whole[0]] - curve[least]))
    if not blew_up and least >= whole[-1] - span:
        return steepest, slows, least, "the loss was still falling at the highest rate; reach higher"
    return steepest, slows, least, ""


def lines(test: Tree) -> list[tuple[str, float | None, float | None]]:
    """What was read off: name, rate and smoothed loss there; None where there is none.

    Args:
        test: the record, as a tree.
    """
    rates, curve = test["rates"], test["smoothed"]
    loss = {rate: _number(value) for rate, value in zip(rates, curve, strict=True)}
    return [
        ("steepest descent", test["steepest"], loss.get(test["steepest"])),
        ("suggested", test["suggested"], loss.get(test["suggested"])),
        ("least loss", test["least"], loss.get(test["least"])),
        ("diverged", test["diverged"], loss.get(test["diverged"])),
    ]


def files(test: RangeTest, run: Run) -> dict[str, bytes]:
    """What the run's folder keeps of a test, by name: its JSON and its drawing."""
    tree = spelled(asdict(test))
    title = f"Learning-rate range test of {(run.recipe or {}).get('name', run.name)}"
    return {
        RANGE_TEST: json.dumps(tree, indent=1, allow_nan=False).encode(),
        "range-test.png": picture(_series(tree), title, _unit(run), LOOK),
    }


def range_test(run: Run) -> dict[str, Any] | None:
    """The section of a run's page; None where the run is no such test."""
    test = run.range_test
    if test is None:
        return None
    unit = _unit(run)
    return {
        "about": f"The learning rate was to rise from {test['low']:g} to {test['high']:g} in {test['steps']} steps, by "
        f"one factor each step; {test['ended']}. Each rate stands beside the loss of the batch after its step, "
        f"smoothed over {test['span']} steps. A rate is suggested {test['rule']}.",
        "why_none": test["why_none"],
        "rows": [
            (name, None if rate is None else f"{rate:.3g}", None if loss is None else f"{loss:.4g}")
            for name, rate, loss in lines(test)
        ],
        "unit": unit,
        "charts": [chart("range-test", "Loss against the learning rate", unit, _series(test), LOOK)],
    }


LOOK = Look(over="learning rate", free=True, log=True)


def _unit(run: Run) -> str:
    return "nats/token" if quality(run) is BITS else "nats"


def _number(value: Any) -> float:
    return float(value)  # `nan` and `inf` are texts in JSON


def _series(test: Tree) -> list[Series]:
    """Losses, their smoothed curve and the places on it. What is far above the curve's highest place is left out."""
    rates, curve = test["rates"], [_number(loss) for loss in test["smoothed"]]
    most = 1.1 * max((loss for loss in curve if math.isfinite(loss)), default=math.inf)
    raw = [loss if (loss := _number(value)) <= most else math.nan for value in test["losses"]]
    found = [
        Series(rates, raw, "loss of the batch after the step", "c1", "dots"),
        Series(rates, curve, f"smoothed over {test['span']} steps", "c1"),
    ]
    colours = {"steepest descent": "c2", "suggested": "c4", "least loss": "c5", "diverged": "c3"}
    found += [
        Series((rate,), (loss,), name, colours[name], "own")
        for name, rate, loss in lines(test)
        if rate is not None and loss is not None and math.isfinite(loss)
    ]
    return found
