"""Mean average precision equals its definition, picture by picture, ties and repeated pictures included."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corestone.core.errors import DataError
from corestone.evaluate.several_classes import average_precision, precision_metrics


def by_loop(scores: np.ndarray, marks: np.ndarray) -> float:
    shares = []
    for score in scores[marks]:
        among = marks[scores >= score]
        shares.append(among.sum() / len(among))
    return float(np.mean(shares))


def ranked(n: int, seed: int, coarse: bool) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=n)
    marks = scores + generator.normal(size=n) > 0.8
    marks[generator.integers(n)] = True
    return (scores.round() if coarse else scores).astype(np.float32), marks


@settings(deadline=None)
@given(n=st.integers(1, 60), seed=st.integers(0, 999), coarse=st.booleans())
def test_average_precision_equals_a_plain_loop(n: int, seed: int, coarse: bool) -> None:
    scores, marks = ranked(n, seed, coarse)
    assert average_precision(scores, marks) == pytest.approx(by_loop(scores, marks), abs=1e-12)  # measured 2e-16


def test_the_best_order_has_one_and_no_order_has_the_share_of_the_class() -> None:
    marks = np.arange(20) < 5
    assert average_precision(-np.arange(20.0), marks) == 1
    assert average_precision(np.zeros(20), marks) == 0.25
    assert average_precision(np.arange(20.0), marks) == pytest.approx(np.mean([n / (15 + n) for n in range(1, 6)]))


def test_the_mean_is_over_classes_that_some_pictures_have_and_others_have_not() -> None:
    pairs = [ranked(80, seed, False) for seed in range(3)]
    scores = np.stack([scores for scores, _ in pairs] + [pairs[0][0]] * 2, axis=1)
    marks = np.stack([marks for _, marks in pairs] + [np.zeros(80, bool), np.ones(80, bool)], axis=1)
    mean, *rest = precision_metrics(scores, marks, ["a", "b", "c", "never", "always"])
    assert [metric.name for metric in rest] == [f"average precision of {name}" for name in "abc"]
    assert mean.value == pytest.approx(np.mean([metric.value for metric in rest]))
    assert [metric.value for metric in rest] == pytest.approx([by_loop(*pair) for pair in pairs])
    assert mean.n == 80
    assert mean.convention == "mean over 3 of 5 classes"
    with pytest.raises(DataError, match="no class applies to some of the pictures"):
        list(precision_metrics(scores[:, 3:], marks[:, 3:], ["never", "always"]))


def test_the_interval_holds_what_other_pictures_of_the_kind_give() -> None:
    """Of 40 draws of 200 pictures, at least 34 intervals hold the mean average precision of 200,000; measured 36."""
    true, held = by_sort(*ranked(200_000, 10_000, False)), 0
    for seed in range(40):
        scores, marks = ranked(200, seed, False)
        mean, _ = precision_metrics(scores[:, None], marks[:, None], ["a"])
        assert mean.interval is not None
        held += mean.interval[0] <= true <= mean.interval[1]
    assert held >= 34


def by_sort(scores: np.ndarray, marks: np.ndarray) -> float:
    found = marks[np.argsort(-scores)]
    precision = np.cumsum(found) / np.arange(1, len(found) + 1)
    assert math.isfinite(precision.sum())
    return float(precision[found].mean())
