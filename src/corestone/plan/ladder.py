"""A ladder of small runs towards a target: which sizes and lengths to train under a budget, to fit a law to.

The batch is the target's, so lengths are steps. The largest rung costs at most an eighth of the target's operations.
Where the budget holds them, the rungs are the target's own model at lengths up to an eighth of the target's: then there
is one thing to extrapolate, and no other model's shape, learning rate or first steps are taken for an effect of size.

Otherwise sizes vary too. A rung's path is the length that gives its model as many units per parameter as the target
has. Rungs stand on that path, and off it at a half, twice, a quarter, ... of it, so that what size does and what length
does can be told apart. Where a budget holds no such ladder, all lengths become shorter by powers of two, and a note
says so. Where there are fewer than three sizes, lengths alone vary, whatever they reach.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product, takewhile
from typing import Literal

from corestone.core.errors import DataError, SpecError
from corestone.core.format import si
from corestone.plan.bootstrap import largest_apart
from corestone.plan.fit import check
from corestone.plan.rows import Row

LARGEST = 1 / 8
"""Operations of the largest rung over those of the target, at most."""
FEWEST_STEPS = 20
"""Steps of a rung, at least: under these a run has hardly begun."""
BETTER_STEPS = (80, 40, FEWEST_STEPS)
"""The same, where a budget holds such ladders: the first of these is tried first."""
LENGTHS = 16
"""Longest over shortest rung of one size, at most. A wider range holds the first steps, in which a loss falls as it
never does again, and bends the law; a narrower one leaves floor and exponent to the noise of the runs."""
SETTLED_STEPS = 30
"""Steps of the shortest rung of one size, at least, where the longest has eight times as many: shorter runs are mostly
those first steps."""
SPAN = 2.5
"""Largest over smallest number of parameters, at least, where sizes vary."""
OFF_PATH = (1.0, 0.5, 2.0, 0.25, 4.0, 0.125)
"""Lengths of a size over its path, in the order in which they are taken."""
COUNTS = (16, 12, 10, 8)
"""Rungs where it is not said how many: as many as let the largest one be half as large, at least, as fewer would."""
SHRINK = 0.85
"""Factor between the largest rungs that are tried, from the largest allowed one downwards."""
BOTH, LENGTH = ("parameters", "tokens"), ("tokens",)
Vary = Literal["sizes", "length"]
"""What differs between rungs: sizes and lengths, or lengths alone."""


@dataclass(frozen=True)
class Size:
    """A model that may be trained, with what it costs on this machine.

    Attributes:
        seconds_per_step: as measured.
        seconds_besides: of a whole run, for its start, its scoring on held-out data and its report.
    """

    parameters: int
    flops_per_step: float
    seconds_per_step: float
    seconds_besides: float


@dataclass(frozen=True)
class Rung:
    """One run of a ladder."""

    size: Size
    steps: int

    @property
    def flops(self) -> float:
        """Of its training."""
        return self.size.flops_per_step * self.steps

    @property
    def seconds(self) -> float:
        """Predicted, from its start to its report."""
        return self.size.seconds_per_step * self.steps + self.size.seconds_besides


@dataclass(frozen=True)
class Target:
    """The run that is extrapolated to."""

    parameters: int
    steps: int
    flops_per_step: float

    @property
    def flops(self) -> float:
        """Of its training."""
        return self.flops_per_step * self.steps


@dataclass(frozen=True)
class Budget:
    """What all runs together may cost, in `seconds` or `flops`."""

    amount: float
    unit: str

    def cost(self, rungs: Sequence[Rung], seeds: int) -> float:
        """Predicted, in its unit."""
        return seeds * sum(rung.seconds if self.unit == "seconds" else rung.flops for rung in rungs)

    def told(self, amount: float) -> str:
        """An amount in its unit, for people."""
        return si(amount, "FLOPs") if self.unit == "flops" else f"{amount / 60:.1f} minutes"


@dataclass(frozen=True)
class Ladder:
    """Rungs, smallest first.

    Attributes:
        variables: of the law that they allow: parameters and tokens, or tokens alone.
        path: units per parameter over the target's, on its path; 1 unless the budget is too small for that.
    """

    rungs: tuple[Rung, ...]
    variables: tuple[str, ...]
    path: float


def choose(
    sizes: Sequence[Size],
    target: Target,
    budget: Budget,
    count: int | None = None,
    seeds: int = 1,
    vary: Vary | None = None,
) -> Ladder:
    """The ladder that says most of the target under a budget.

    Args:
        sizes: the target's own among them, unless it is too costly for a rung; alone where it cannot be made smaller.
        count: rungs, each of which is run with `seeds` seeds; None: as `COUNTS` has it.
        vary: None: length alone where the budget holds rungs of the target's own model up to an eighth of its length.

    Raises:
        SpecError: the budget holds no ladder, with the least that one needs; or the target is too short for any.
    """
    counts = COUNTS if count is None else (count,)
    own = max(sizes, key=lambda size: size.parameters)
    settled = target.steps * LARGEST >= LENGTHS / 2 * SETTLED_STEPS
    if vary is None and own.parameters >= target.parameters and settled:
        for some in counts:
            rungs = _over_lengths(own, target.steps * LARGEST, some)
            if _allows(rungs, LENGTH, some, seeds) and budget.cost(rungs, seeds) <= budget.amount:
                return Ladder(rungs, LENGTH, 1.0)
    if vary == "length":
        sizes = [size for size in sizes if size.parameters >= target.parameters]
    return _farthest(sizes, target, budget, counts, seeds)


def _farthest(sizes: Sequence[Size], target: Target, budget: Budget, counts: Sequence[int], seeds: int) -> Ladder:
    """Of several numbers of rungs the first whose largest one is half as large, at least, as with fewer."""
    found = []
    for some in counts:
        try:
            found.append(_of_count(sizes, target, budget, some, seeds))
        except SpecError:
            if some == counts[-1] and not found:
                raise
    kind = max((len(ladder.variables), ladder.path) for ladder in found)
    alike = [ladder for ladder in found if (len(ladder.variables), ladder.path) == kind]
    far = max(ladder.rungs[-1].flops for ladder in alike)
    return next(ladder for ladder in alike if ladder.rungs[-1].flops >= far / 2)


def _of_count(sizes: Sequence[Size], target: Target, budget: Budget, count: int, seeds: int) -> Ladder:
    cheapest = math.inf
    for ladder in _ladders(sorted(sizes, key=lambda size: size.parameters), target, count, seeds):
        cost = budget.cost(ladder.rungs, seeds)
        if cost <= budget.amount:
            return ladder
        cheapest = min(cheapest, cost)
    if math.isinf(cheapest):
        raise SpecError(
            f"plan ladder: no {count} rungs of {FEWEST_STEPS} steps or more, an eighth of the target's operations or "
            f"less, and models that suit the budget: the target makes {target.steps:,} steps, and {len(sizes)} size(s) "
            "suit; give a longer training.length, a larger --budget, or fewer --rungs"
        )
    raise SpecError(
        f"plan ladder: {count} rungs with {seeds} seed(s) need {budget.told(1.05 * cheapest)} at least, and "
        f"{budget.told(budget.amount)} of the budget are left; raise --budget, or give fewer --rungs or --seeds"
    )


def _ladders(sizes: Sequence[Size], target: Target, count: int, seeds: int) -> Iterator[Ladder]:
    """Those that allow a fit, from the best one on: of the target's path first, and the largest rungs first."""
    if not sizes:
        return
    found = False
    shares = takewhile(lambda share: share * target.steps >= FEWEST_STEPS, (0.5**place for place in range(20)))
    least_flops = min(size.flops_per_step for size in sizes)
    for share, fewest in product(shares, BETTER_STEPS):
        before: tuple[Rung, ...] = ()
        for most in _downwards(target.flops * LARGEST, fewest * least_flops):
            path = share * target.steps / target.parameters
            rungs = _over_both(sizes, path, (fewest, most), count)
            if rungs != before and _allows(rungs, BOTH, count, seeds):
                found = True
                yield Ladder(rungs, BOTH, share)
            before = rungs
    own = sizes[-1]
    if found or own.parameters < target.parameters:  # lengths alone tell of the model that is trained
        return
    for most in _downwards(target.flops * LARGEST / own.flops_per_step, FEWEST_STEPS):
        rungs = _over_lengths(own, most, count)
        if _allows(rungs, LENGTH, count, seeds):
            yield Ladder(rungs, LENGTH, 1.0)


def _downwards(high: float, low: float) -> Iterator[float]:
    """From one value down to another, in equal ratios."""
    while high >= low:
        yield high
        high *= SHRINK


def _over_both(sizes: Sequence[Size], path: float, bounds: tuple[float, float], count: int) -> tuple[Rung, ...]:
    """Rungs on the path, and off it.

    Args:
        path: steps per parameter.
        bounds: fewest steps, and most operations, of each.
    """
    usable = [size for size in sizes if any(_lengths(size, path, bounds))]
    slots = [(size, _lengths(size, path, bounds)) for size in spread(usable, max(3, count // 2))]
    chosen: list[Rung] = []
    for place in range(len(OFF_PATH)):
        rungs = [Rung(size, steps) for size, lengths in slots if (steps := lengths[place])]
        rungs.sort(key=lambda rung: -rung.flops)  # the larger ones tell more where not all fit
        chosen += [rung for rung in rungs if rung not in chosen][: count - len(chosen)]
    return tuple(sorted(chosen, key=lambda rung: rung.flops))


def _lengths(size: Size, path: float, bounds: tuple[float, float]) -> list[int]:
    """Steps at each place of `OFF_PATH`; 0 where they are too few or cost too much."""
    fewest, most = bounds
    found = [round(factor * path * size.parameters) for factor in OFF_PATH]
    return [steps if steps >= fewest and steps * size.flops_per_step <= most else 0 for steps in found]


def spread(sizes: Sequence[Size], count: int) -> list[Size]:
    """At most so many of some sizes, which are in order: the ends, and those nearest to equal ratios between them."""
    if len(sizes) <= count:
        return list(sizes)
    low, high = (math.log(size.parameters) for size in (sizes[0], sizes[-1]))
    left, kept = list(sizes), []
    for place in range(count):
        wanted = low + (high - low) * place / (count - 1)
        nearest = min(left, key=lambda size: abs(math.log(size.parameters) - wanted))
        left.remove(nearest)
        kept.append(nearest)
    return sorted(kept, key=lambda size: size.parameters)


def _over_lengths(size: Size, most: float, count: int) -> tuple[Rung, ...]:
    """One size at lengths in equal ratios, each at most twice the one before; without the first steps where the longest
    leaves a range worth fitting."""
    fewest = SETTLED_STEPS if most >= LENGTHS / 2 * SETTLED_STEPS else FEWEST_STEPS
    ratio = min(2.0, min(LENGTHS, most / fewest) ** (1 / max(1, count - 1)))
    lengths = {math.floor(most / ratio**place + 1e-9) for place in range(count)}
    return tuple(Rung(size, steps) for steps in sorted(lengths))


def _allows(rungs: Sequence[Rung], variables: Sequence[str], count: int, seeds: int) -> bool:
    """Whether runs of these rungs let a law be fitted, without the largest ones too, by which it is judged."""
    if len(rungs) < count or min(rung.steps for rung in rungs) < FEWEST_STEPS:
        return False
    sizes = [rung.size.parameters for rung in rungs]
    if len(variables) == 2 and max(sizes) < SPAN * min(sizes):
        return False
    rows = [Row(rung.size.parameters, rung.steps, 1.0, rung.flops) for rung in rungs for _ in range(seeds)]
    try:
        check(rows, variables)
        check(largest_apart(rows, variables)[2], variables)
    except DataError:
        return False
    return True
