"""A loss predicted by a law that was fitted to own runs, with an interval; and such a law read back from its file.

The interval is that of the resampled laws (95 %), with both ends moved outwards by the mean error with which the law of
the smaller runs missed the largest ones: resampling knows how the law would move with other runs of the same kind, and
that error how far the law itself may be wrong beyond them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corestone.core.errors import DataError
from corestone.plan.bootstrap import Extrapolation, interval, predict
from corestone.plan.law import Range, SaturatingLaw, Term
from corestone.plan.rows import Row
from corestone.plan.study import LAWS, Judged


@dataclass(frozen=True)
class OwnLaw:
    """A law of own runs and how far it can be trusted.

    Attributes:
        law: its terms are over `variables`, in their order; their ranges are those of the runs.
        draws: the laws of resampled runs; none where there were too few runs.
        error: mean error of the largest runs by the law of the rest, as a fraction; None where it could not be told.
        factor: how many times larger they were.
        loss: what the loss is, with its unit. material: what runs see: tokens or pictures.
        source: the file, or what it was fitted to.
        learns_from: a fingerprint of the runs' data and objective; None where it is not known.
        parameters: of all runs, where lengths alone vary; None where they differ, or are not known.
    """

    variables: tuple[str, ...]
    law: SaturatingLaw
    draws: tuple[SaturatingLaw, ...]
    error: float | None
    factor: float | None
    loss: str
    material: str
    source: str
    learns_from: str | None = None
    parameters: float | None = None


@dataclass(frozen=True)
class Expected:
    """A predicted loss.

    Attributes:
        interval: see the head of this file; None where runs were too few to resample.
        beyond: the largest factor by which what was asked lies outside of what the runs measured; 1: inside.
    """

    value: float
    interval: tuple[float, float] | None
    beyond: float


def of_judged(judged: Judged, loss: str, material: str) -> OwnLaw:
    """The law of a study."""
    held = judged.extrapolation if isinstance(judged.extrapolation, Extrapolation) else None
    return OwnLaw(
        judged.fit.variables,
        judged.fit.law,
        judged.resampled.laws,
        held.error if held else None,
        held.factor if held else None,
        loss,
        material,
        judged.fit.law.source,
    )


def expect(own: OwnLaw, row: Row) -> Expected:
    """The loss of a run; its own `loss` is not looked at.

    Args:
        row: parameters, tokens (or pictures) and FLOPs.
    """
    value = predict(own.law, row, own.variables)
    drawn = interval([predict(law, row, own.variables) for law in own.draws])
    room = own.error or 0.0
    pairs = zip(own.law.terms, own.variables, strict=True)
    beyond = max(max(row.value(name) / term.over.high, term.over.low / row.value(name)) for term, name in pairs)
    ends = None if drawn is None else (drawn[0] * (1 - room), drawn[1] * (1 + room))
    return Expected(value, ends, max(1.0, beyond))


def read_law(path: Path) -> OwnLaw:
    """The law with which to predict, from the study.json of `plan fit` or the ladder.json of `plan ladder`.

    Raises DataError: no such file, or none that holds a fitted law.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a study.json or ladder.json") from None
    except ValueError:
        raise DataError(
            f"{path}: not valid JSON; give the study.json of plan fit or ladder.json of plan ladder"
        ) from None
    if isinstance(tree, dict) and "ladder" in tree and "laws" not in tree:
        raise DataError(f"{path}: has no fit yet, since its runs are not finished; run plan ladder again")
    try:
        return _read(tree, str(path))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: is not of plan fit or plan ladder, or of an earlier release ({type(error).__name__}: {error}); "
            "fit anew"
        ) from None


def _read(tree: Mapping[str, Any], source: str) -> OwnLaw:
    for variables in LAWS:
        told = tree["laws"].get(" and ".join(variables))
        if told is None or "reason" in told:
            continue
        ranges = [Range(name, *map(float, told["ranges"][name])) for name in variables]
        names = [name for one in variables for name in (f"{one}_scale", f"{one}_exponent")]
        held, ladder = told["extrapolation"], tree.get("ladder", {})
        return OwnLaw(
            variables,
            _law([told["constants"][name]["value"] for name in ("floor", *names)], ranges, source),
            tuple(_law(draw, ranges, source) for draw in told["draws"]),
            held.get("mean_error"),
            held.get("factor"),
            str(tree["loss"]),
            str(tree["material"]),
            source,
            ladder.get("learns_from"),
            ladder["target"]["parameters"] if ladder.get("variables") == ["tokens"] else None,
        )
    raise DataError(f"{source}: no law could be fitted there; add runs")


def _law(numbers: Sequence[float], ranges: Sequence[Range], source: str) -> SaturatingLaw:
    """A law from its numbers: the floor, then scale and exponent of each term."""
    floor, *rest = map(float, numbers)
    pairs = zip(ranges, rest[::2], rest[1::2], strict=True)
    return SaturatingLaw(floor, tuple(Term(over, scale, exponent) for over, scale, exponent in pairs), source)
