"""Valleys, frontiers, and a study of both."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corestone.core.errors import DataError
from corestone.plan.chinchilla import BESIROGLU
from corestone.plan.isoflop import envelope, frontier, isoflop, power_line, valley
from corestone.plan.law import compute_exponents, optimum
from corestone.plan.rows import Row
from corestone.plan.study import Judged, study


def made(noise: float = 0.0, sizes: int = 7, computes: int = 5) -> list[Row]:
    """Runs of several sizes around the best one at each compute, by the corrected Chinchilla law."""
    generator = np.random.default_rng(0)
    rows = []
    for flops in np.geomspace(1e18, 1e21, computes):
        best = 8.053e7 * (flops / 1e18) ** 0.5126
        for size in best * np.geomspace(1 / 4, 4, sizes):
            tokens = flops / (6 * size)
            loss = 1.8172 + 482.01 / size**0.3478 + 2085.43 / tokens**0.3658
            rows.append(Row(size, tokens, loss * math.exp(noise * generator.normal()), flops))
    return rows


@pytest.mark.filterwarnings("ignore::corestone.plan.law.OutsideRange")
def test_the_bottoms_are_the_optima_of_the_law():
    """A parabola is not quite the law's valley: worst 0.45 % of parameters and tokens, 0.015 % of loss."""
    found = isoflop(made(), seed=0)
    assert len(found.valleys) == 5
    for one in found.valleys:
        best = optimum(BESIROGLU, one.flops)
        assert one.parameters == pytest.approx(best.parameters, rel=0.01)
        assert one.tokens == pytest.approx(best.tokens, rel=0.01)
        assert one.loss == pytest.approx(best.loss, rel=0.0005)
        assert not one.edge
    a, b = compute_exponents(BESIROGLU)
    assert found.parameters.exponent == pytest.approx(a, abs=1e-5)
    assert found.tokens.exponent == pytest.approx(b, abs=1e-5)
    assert found.parameters.exponent + found.tokens.exponent == pytest.approx(1)


def test_noise_widens_the_interval_and_stays_inside_it():
    quiet, loud = (isoflop(made(noise), seed=0, resamples=100).parameters for noise in (0.001, 0.004))
    assert quiet.interval[1] - quiet.interval[0] < loud.interval[1] - loud.interval[0]
    for line in (quiet, loud):
        assert line.interval[0] < compute_exponents(BESIROGLU)[0] < line.interval[1]
    assert isoflop(made(0.004), seed=0, resamples=100).parameters == loud


def test_three_runs_of_a_compute_make_a_valley_without_an_interval():
    found = isoflop(made(sizes=3, computes=3), seed=0)
    assert len(found.valleys) == 3
    assert found.parameters.interval is None


def test_a_bottom_beyond_the_sizes_is_marked():
    rows = [row for row in made(computes=1) if row.parameters < 8e7]
    found = valley(rows)
    assert found.edge


def test_computes_without_a_valley_are_skipped_with_the_reason():
    rows = [
        *made(computes=2),
        Row(1e6, 1e6, 3.0, 1e10),
        *(Row(10**i, 1e6, 3 - (i - 7) ** 2 / 9, 1e12) for i in (6, 7, 8)),
        *(Row(2**i * 1e6, 1e6, 2 + 0.01 * (i + 5) ** 2, 1e13) for i in (0, 1, 2)),
    ]
    found = isoflop(rows, seed=0, resamples=10)
    assert len(found.valleys) == 2
    assert [(one.count, one.reason) for one in found.skipped] == [
        (1, "fewer than 3 sizes"),
        (3, "the losses have no bottom over the sizes"),
        (3, "the bottom lies more than 3 times beyond the sizes"),
    ]
    assert isoflop(made(computes=1), seed=0).parameters is None
    with pytest.raises(DataError, match=r"none of 2 computes has a valley \(2 of them: fewer than 3 sizes\)"):
        isoflop([Row(1e6, 1e7, 3.0), Row(1e7, 1e8, 2.0)], seed=0)


@settings(deadline=None)  # a busy machine is no defect
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=30))
def test_a_frontier_is_what_nothing_beats(pairs):
    rows = [Row(1.0, 1.0, float(loss), float(flops)) for flops, loss in pairs]
    best = frontier(rows)
    losses = [row.loss for row in best]
    assert losses == sorted(set(losses), reverse=True)
    for row in rows:
        assert any(one.compute <= row.compute and one.loss <= row.loss for one in best)
        beaten = any(o.compute <= row.compute and o.loss < row.loss for o in rows)
        assert not (beaten and any(one is row for one in best))


def test_an_envelope_is_near_the_law():
    found = envelope(made())
    assert found.parameters.exponent == pytest.approx(compute_exponents(BESIROGLU)[0], abs=1e-3)
    # Along the optimum the loss is a floor and two power laws of nearly one exponent: alpha beta / (alpha + beta).
    assert found.fit.law.terms[0].exponent == pytest.approx(0.3478 * 0.3658 / 0.7136, rel=1e-3)
    assert found.fit.law.floor == pytest.approx(1.8172, rel=1e-4)
    with pytest.raises(DataError, match="envelope: 1 of 2 runs are on the frontier"):
        envelope([Row(1e6, 1e7, 2.0), Row(1e7, 1e8, 3.0)])


def test_a_power_line_goes_through_its_points():
    assert power_line([1, 10, 100], [3, 30, 300]) == pytest.approx((3, 1))


def test_a_study_fits_what_the_rows_allow():
    found = study([*made(0.002), Row(1e6, 1e7, math.nan, name="diverged")], seed=0, resamples=20)
    assert [one.row.name for one in found.dropped] == ["diverged"]
    assert list(found.laws) == ["parameters and tokens", "flops"]
    assert found.main.name == "parameters and tokens"
    assert len(found.main.resampled.laws) == 20
    assert found.main.extrapolation.error < 0.01
    assert not isinstance(found.isoflop, str)
    assert not isinstance(found.envelope, str)


def test_a_study_of_one_size_says_what_it_cannot_tell():
    rows = [Row(1e6, tokens, 1 + 30 / tokens**0.3) for tokens in np.geomspace(1e5, 1e9, 9)]
    found = study(rows, seed=0, resamples=20)
    assert "at least 3 different parameters" in found.laws["parameters and tokens"]
    assert "at least 3 different parameters" in found.laws["parameters"]
    assert found.main.name == "tokens"
    assert isinstance(found.laws["flops"], Judged)
    assert "none of 9 computes has a valley" in found.isoflop
    with pytest.raises(DataError, match=r"1 rows \(1 more are left out\) allow no fit: .*at least 4 rows"):
        study([rows[0], Row(1, 1, math.nan)], seed=0)
