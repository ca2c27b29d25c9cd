"""Schedules against their formulas."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestone.core.errors import SpecError
from corestone.core.units import Duration, duration
from corestone.optim.schedule import build_schedule
from corestone.optim.spec import Constant, Cosine, ExponentialRise, InverseSquareRoot, Linear, WarmupStableDecay


def steps(length: Duration) -> int:
    return length.steps(batch_tokens=100, batch_examples=10, epoch_tokens=1000)


def curve(spec, total):
    factor = build_schedule(spec, total, steps)
    return [factor(step) for step in range(total)]


@given(total=st.integers(2, 200), warmup=st.integers(0, 199))
def test_warmup_is_linear_and_the_peak_is_one(total, warmup):
    for spec in (Constant, Cosine, Linear):
        if warmup > total:
            continue
        values = curve(spec(warmup=duration(f"{warmup} steps")), total)
        assert values[:warmup] == [(step + 1) / warmup for step in range(min(warmup, total))]
        assert max(values) <= 1
        assert all(a >= b for a, b in zip(values[warmup:], values[warmup + 1 :], strict=False))


def test_ends_stand_at_the_final_factor():
    assert curve(Cosine(final=0.1), 11)[-1] == pytest.approx(0.1)
    assert curve(Cosine(final=0.0), 11)[5] == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert curve(Linear(final=0.2), 11)[-1] == pytest.approx(0.2)
    assert curve(Linear(), 11)[5] == pytest.approx(0.5)
    assert curve(Constant(), 11) == [1.0] * 11
    stable = curve(WarmupStableDecay(warmup=duration("2 steps"), decay=duration("4 steps")), 10)
    assert stable == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])


def test_a_cosine_may_end_before_the_run_or_after_it():
    whole = curve(Cosine(warmup=duration("2 steps"), final=0.1), 12)
    early = curve(Cosine(warmup=duration("2 steps"), until=duration("12 steps"), final=0.1), 20)
    assert early == [*whole, *[pytest.approx(0.1)] * 8]
    assert curve(Cosine(warmup=duration("2 steps"), until=duration("1200 tokens"), final=0.1), 7) == whole[:7]


@given(total=st.integers(2, 200), flat=st.integers(1, 300))
def test_the_inverse_square_root_is_flat_at_first(total, flat):
    values = curve(InverseSquareRoot(flat=duration(f"{flat} steps")), total)
    assert values[:flat] == [1.0] * min(flat, total)
    # T5's words: 1 / sqrt(max(n, k)), here relative to the flat part's 1 / sqrt(k)
    assert values == pytest.approx([math.sqrt(flat) / math.sqrt(max(n, flat)) for n in range(1, total + 1)])


def test_an_exponential_rise_spends_as_many_steps_on_each_power_of_ten():
    assert curve(ExponentialRise(initial=1e-6), 7) == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0])
    assert curve(ExponentialRise(initial=0.25), 3) == pytest.approx([0.25, 0.5, 1.0])
    assert curve(ExponentialRise(initial=0.25), 1) == [0.25]


def test_units_convert_to_steps():
    assert [steps(duration(text)) for text in ("7 steps", "650 tokens", "20 examples", "2.5 epochs")] == [7, 7, 2, 25]


def test_a_run_shorter_than_its_schedule_is_refused():
    with pytest.raises(SpecError, match="longer than the run of 5 steps"):
        curve(Cosine(warmup=duration("6 steps")), 5)
    with pytest.raises(SpecError, match="are longer than the run"):
        curve(WarmupStableDecay(warmup=duration("3 steps"), decay=duration("4 steps")), 6)
