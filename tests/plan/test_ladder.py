"""Ladders: never above the budget, always enough for a law, and a planted law comes back at the target."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from corestone.core.errors import SpecError
from corestone.plan.bootstrap import largest_apart
from corestone.plan.fit import check
from corestone.plan.ladder import (
    BOTH,
    COUNTS,
    FEWEST_STEPS,
    LARGEST,
    LENGTH,
    LENGTHS,
    SETTLED_STEPS,
    Budget,
    Ladder,
    Rung,
    Size,
    Target,
    choose,
)
from corestone.plan.own import expect, of_judged
from corestone.plan.rows import Row
from corestone.plan.study import Judged, study

BATCH = 2048


def size(parameters: float, speed: float = 2e11, besides: float = 10.0) -> Size:
    """Of a machine of so many FLOP/s; a run takes `besides` seconds beside its steps."""
    flops = 6.0 * parameters * BATCH
    return Size(int(parameters), flops, flops / speed, besides)


SIZES = [size(count) for count in (378_624, 953_856, 1_350_000, 2_172_000, 4_273_664)]
TARGET = Target(4_273_664, 2000, SIZES[-1].flops_per_step)


@settings(deadline=None, max_examples=60)
@given(
    ratios=st.lists(st.floats(1.3, 4.0), max_size=5),
    steps=st.integers(100, 30_000),
    amount=st.floats(1.0, 5.0),
    unit=st.sampled_from(["seconds", "flops"]),
    count=st.sampled_from([None, 6, 8, 10, 16]),
    seeds=st.integers(1, 3),
    vary=st.sampled_from([None, "sizes", "length"]),
)
def test_a_ladder_never_exceeds_its_budget_and_allows_its_law(ratios, steps, amount, unit, count, seeds, vary):
    """Whatever the sizes, the length and the budget: the prediction of all runs together stays within it."""
    counts = 3e5 * np.cumprod([1.0, *ratios])
    sizes = [size(parameters) for parameters in counts]
    target = Target(sizes[-1].parameters, steps, sizes[-1].flops_per_step)
    budget = Budget(10**amount if unit == "seconds" else 10 ** (amount + 9), unit)
    try:
        found = choose(sizes, target, budget, count, seeds, vary)
    except SpecError:  # one line that names the least that is needed: below
        assume(False)
    assert budget.cost(found.rungs, seeds) <= budget.amount
    assert len(found.rungs) == len(set(found.rungs))
    assert len(found.rungs) == count or (count is None and len(found.rungs) in COUNTS)
    flops = [rung.flops for rung in found.rungs]
    assert flops == sorted(flops)
    assert flops[-1] <= LARGEST * target.flops
    assert min(rung.steps for rung in found.rungs) >= FEWEST_STEPS
    if vary == "length":
        assert found.variables == LENGTH
    if found.variables == LENGTH:
        assert {rung.size.parameters for rung in found.rungs} == {target.parameters}
    rows = [
        Row(rung.size.parameters, rung.steps * BATCH, 1.0, rung.flops) for rung in found.rungs for _ in range(seeds)
    ]
    check(rows, found.variables)  # raises where they do not
    check(largest_apart(rows, found.variables)[2], found.variables)


def test_rungs_stand_on_the_targets_path_and_off_it():
    found = choose(SIZES, TARGET, Budget(1200.0, "seconds"), 10, vary="sizes")
    assert (found.variables, found.path) == (BOTH, 1.0)
    path = TARGET.steps / TARGET.parameters
    factors = {round(rung.steps / rung.size.parameters / path, 2) for rung in found.rungs}
    assert {1.0, 0.5, 2.0} <= factors
    assert factors <= {1.0, 0.5, 2.0, 0.25, 4.0, 0.12, 0.13}
    assert len({rung.size for rung in found.rungs}) >= 4


def test_a_budget_that_is_too_small_for_the_path_shortens_all_lengths_and_says_by_how_much():
    long = Target(TARGET.parameters, 400_000, TARGET.flops_per_step)
    found = choose(SIZES, long, Budget(600.0, "seconds"), 10)
    assert found.path < 1
    assert math.log2(found.path).is_integer()


def test_more_budget_reaches_farther():
    found = [choose(SIZES, TARGET, Budget(60.0 * minutes, "seconds"), 10, vary="sizes") for minutes in (3, 5, 30)]
    reach = [ladder.rungs[-1].flops for ladder in found]
    assert reach[0] < reach[1] <= reach[2]


def test_a_target_too_costly_for_any_rung_is_no_reason_to_vary_the_length_of_another_model():
    with pytest.raises(SpecError, match=r"and 1 size\(s\) suit; give a longer training.length, a larger --budget"):
        choose(SIZES[:1], TARGET, Budget(1e9, "seconds"), 8)


def test_one_size_gives_lengths_alone():
    found = choose(SIZES[-1:], TARGET, Budget(1200.0, "seconds"), 8)
    assert found.variables == LENGTH
    assert found.rungs[-1].steps == TARGET.steps // 8
    assert len({rung.steps for rung in found.rungs}) == 8


@pytest.mark.parametrize(
    ("target", "budget", "said"),
    [
        (
            TARGET,
            Budget(60.0, "seconds"),
            r"need 2\.\d minutes at least, and 1\.0 minutes of the budget are left; raise --budget",
        ),
        (TARGET, Budget(1e10, "flops"), r"need [\d.]+ TFLOPs at least"),
        (
            Target(TARGET.parameters, 150, TARGET.flops_per_step),
            Budget(1e9, "seconds"),
            "the target makes 150 steps, and 5 size",
        ),
    ],
)
def test_what_cannot_be_chosen_is_one_line(target, budget, said):
    with pytest.raises(SpecError, match=said) as caught:
        choose(SIZES, target, budget, 10)
    assert "\n" not in str(caught.value)


def test_the_least_that_a_refusal_names_is_enough():
    with pytest.raises(SpecError) as caught:
        choose(SIZES, TARGET, Budget(60.0, "seconds"), 10)
    (least,) = re.findall(r"need ([\d.]+) minutes", str(caught.value))
    assert choose(SIZES, TARGET, Budget(60 * float(least), "seconds"), 10).rungs


def test_length_alone_varies_where_the_budget_holds_it_and_no_rung_is_of_few_steps():
    """Else sizes vary too, and where they are asked for."""
    long = Target(TARGET.parameters, 8 * LENGTHS * SETTLED_STEPS, TARGET.flops_per_step)
    found = choose(SIZES, long, Budget(long.flops, "flops"))
    assert (found.variables, len(found.rungs)) == (LENGTH, COUNTS[0])
    assert [found.rungs[0].steps, found.rungs[-1].steps] == [SETTLED_STEPS, LENGTHS * SETTLED_STEPS]
    assert choose(SIZES, long, Budget(long.flops, "flops"), vary="sizes").variables == BOTH
    assert choose(SIZES, long, Budget(long.flops / 8, "flops")).variables == BOTH
    half = Target(TARGET.parameters, 4 * LENGTHS * SETTLED_STEPS, TARGET.flops_per_step)
    found = choose(SIZES, half, Budget(half.flops, "flops"))
    assert [found.rungs[0].steps, found.rungs[-1].steps] == [SETTLED_STEPS, LENGTHS // 2 * SETTLED_STEPS]
    short = Target(TARGET.parameters, half.steps - 8, TARGET.flops_per_step)
    assert choose(SIZES, short, Budget(short.flops, "flops")).variables == BOTH
    assert choose(SIZES, short, Budget(short.flops, "flops"), vary="length").variables == LENGTH


def planted(parameters: float, tokens: float) -> float:
    """A law such as small language models follow: 4.4 nats at the smallest rung, 2.9 at the target."""
    return 1.4 + 60 / parameters**0.30 + 190 / tokens**0.38


def told_by(ladder: Ladder, target: Target, loss: Callable[[Rung], float]) -> float:
    """What the law of a ladder says of the target, over what the target reaches, less 1."""
    rows = [Row(rung.size.parameters, rung.steps * BATCH, loss(rung), rung.flops) for rung in ladder.rungs]
    judged = study(rows, seed=0, resamples=1).laws[" and ".join(ladder.variables)]
    assert isinstance(judged, Judged), judged
    row = Row(target.parameters, target.steps * BATCH, 1.0, target.flops)
    reached = loss(Rung(SIZES[-1], target.steps))
    return expect(of_judged(judged, "nats", "tokens"), row).value / reached - 1


def test_first_steps_bend_the_law_and_are_left_out():
    """A loss that falls fast in its first steps, as a GPT's did: 4.6 % off where rungs begin at the fewest steps that a
    run may have, 2.2 % as the ladder is chosen."""
    target = Target(TARGET.parameters, 4000, TARGET.flops_per_step)

    def falling(rung: Rung) -> float:
        return planted(rung.size.parameters, rung.steps * BATCH) + 1.5 * math.exp(-rung.steps / 12)

    found = choose(SIZES, target, Budget(target.flops, "flops"))
    steps = np.geomspace(FEWEST_STEPS, target.steps / 8, len(found.rungs)).round().astype(int)
    wide = Ladder(tuple(Rung(SIZES[-1], int(count)) for count in steps), LENGTH, 1.0)
    assert abs(told_by(found, target, falling)) < 0.03
    assert abs(told_by(wide, target, falling)) > 0.04


@pytest.mark.parametrize(("noise", "seeds", "tolerance"), [(0.0, 1, 1e-5), (0.003, 1, 0.03), (0.003, 3, 0.02)])
def test_a_planted_law_is_extrapolated_to_the_target(noise, seeds, tolerance):
    """By the whole path from choosing to the interval, 8 times beyond the largest rung; noise is in proportion to the
    loss. Worst of the draws: 1.4e-10, 1.2 % and 1.1 %; the true loss was within all nine intervals."""
    ladder = choose(SIZES, TARGET, Budget(1200.0, "seconds"), None, seeds, "sizes")
    true = planted(TARGET.parameters, TARGET.steps * BATCH)
    target = Row(TARGET.parameters, TARGET.steps * BATCH, 1.0, TARGET.flops)
    inside, draws = 0, 4 if noise else 1
    for draw in range(draws):
        generator = np.random.default_rng(draw)
        rows = [
            Row(
                rung.size.parameters,
                rung.steps * BATCH,
                planted(rung.size.parameters, rung.steps * BATCH) * math.exp(noise * generator.normal()),
                rung.flops,
            )
            for rung in ladder.rungs
            for _ in range(seeds)
        ]
        judged = study(rows, seed=0, resamples=60).laws[" and ".join(BOTH)]
        assert isinstance(judged, Judged), judged
        found = expect(of_judged(judged, "nats", "tokens"), target)
        assert found.value == pytest.approx(true, rel=tolerance)
        low, high = found.interval
        inside += low - 1e-4 <= true <= high + 1e-4
    assert inside >= draws - 1  # one in twenty may miss


def test_a_planted_law_of_length_alone_is_extrapolated():
    """Error rates of a classifier, from 130 to 10 % down to 4 %; worst of four draws of 1 % noise: 12.6 %."""
    ladder = choose(SIZES[-1:], Target(TARGET.parameters, 8000, TARGET.flops_per_step), Budget(1e9, "seconds"), 12)
    for draw in range(4):
        generator = np.random.default_rng(draw)
        rows = [
            Row(
                r.size.parameters,
                r.steps * 120,
                0.02 + 300 / (r.steps * 120) ** 0.7 * math.exp(0.01 * generator.normal()),
            )
            for r in ladder.rungs
        ]
        judged = study(rows, seed=0, resamples=60).laws["tokens"]
        assert isinstance(judged, Judged), judged
        found = expect(of_judged(judged, "1 - accuracy", "pictures"), Row(TARGET.parameters, 8000 * 120, 1.0))
        assert found.value == pytest.approx(0.02 + 300 / (8000 * 120) ** 0.7, rel=0.15)
        assert found.interval[0] < found.interval[1]
