"""Draws are a pure function with an exact inverse; quotas follow the weights; an epoch is a shuffle of a set."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corestone.core.errors import DataError
from corestone.data.mixture import BLOCK, Mixture

seeds = st.integers(min_value=0, max_value=2**31)
weights = st.lists(st.floats(min_value=0.01, max_value=100), min_size=2, max_size=5)


@given(n=st.integers(min_value=1, max_value=700), seed=seeds, epoch=st.integers(min_value=0, max_value=50))
def test_an_epoch_of_a_single_set_draws_each_sample_once(n: int, seed: int, epoch: int) -> None:
    components, indices = Mixture([n], [2.5], seed).samples(np.arange(epoch * n, (epoch + 1) * n))
    assert not components.any()
    assert np.array_equal(np.sort(indices), np.arange(n))


def test_epochs_seeds_and_sets_are_shuffled_differently() -> None:
    one = Mixture([500], [1.0], 3).samples(np.arange(1000))[1]
    other_seed = Mixture([500], [1.0], 4).samples(np.arange(1000))[1]
    assert (one[:500] == one[500:]).mean() < 0.05
    assert (one == other_seed).mean() < 0.05
    components, indices = Mixture([500, 500], [1.0, 1.0], 3).samples(np.arange(1024))
    pair = [indices[components == component][:500] for component in (0, 1)]
    assert (pair[0] == pair[1]).mean() < 0.05


@settings(deadline=None, max_examples=15)
@given(weights=weights, seed=seeds, blocks=st.integers(min_value=1, max_value=6), data=st.data())
def test_quotas_follow_the_weights_and_use_each_sample_equally(
    weights: list[float], seed: int, blocks: int, data: st.DataObject
) -> None:
    sizes = data.draw(st.lists(st.integers(1, 400), min_size=len(weights), max_size=len(weights)))
    mixture = Mixture(sizes, weights, seed)
    total = blocks * mixture.block
    components, indices = mixture.samples(np.arange(total))
    exact = [Fraction(repr(weight)) for weight in weights]
    for component, (size, weight) in enumerate(zip(sizes, exact, strict=True)):
        mine = indices[components == component]
        assert abs(len(mine) - weight / sum(exact) * total) < 1
        uses = np.bincount(mine, minlength=size)
        assert len(uses) == size
        assert uses.max() - uses.min() <= 1


@settings(deadline=None, max_examples=15)
@given(seed=seeds, data=st.data())
def test_the_inverse_finds_exactly_the_draws_that_a_scan_finds(seed: int, data: st.DataObject) -> None:
    shares = data.draw(st.one_of(st.just([1.0]), weights))
    sizes = data.draw(st.lists(st.integers(1, 300), min_size=len(shares), max_size=len(shares)))
    mixture = Mixture(sizes, shares, seed)
    until = data.draw(st.integers(min_value=0, max_value=3000))
    components, indices = mixture.samples(np.arange(until))
    for component, size in enumerate(sizes):
        wanted = np.unique(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4)))
        scan = np.flatnonzero((components == component) & np.isin(indices, wanted))
        assert np.array_equal(mixture.draws(component, wanted, until), scan)


@settings(deadline=None)
@given(weights=weights, seed=seeds, start=st.integers(0, 10**12), length=st.integers(1, 50))
def test_a_draw_does_not_depend_on_which_others_are_asked_for(
    weights: list[float], seed: int, start: int, length: int
) -> None:
    mixture = Mixture([10**6] * len(weights), weights, seed)
    components, indices = mixture.samples(np.arange(start, start + length))
    last = mixture.samples(np.array([start + length - 1]))
    assert (int(last[0][0]), int(last[1][0])) == (components[-1], indices[-1])


def test_weights_need_not_sum_to_one() -> None:
    draws = np.arange(5000)
    some, same = Mixture([90, 70], [1, 3], 0).samples(draws), Mixture([90, 70], [0.1, 0.3], 0).samples(draws)
    assert np.array_equal(some[0], same[0])
    assert np.array_equal(some[1], same[1])


def test_a_rare_set_is_drawn_through_longer_blocks() -> None:
    mixture = Mixture([50, 5000], [1, 9999], 0)
    assert mixture.block == 16 * BLOCK
    components, _ = mixture.samples(np.arange(10_000 * 16))
    assert abs(int((components == 0).sum()) - 16) <= 2  # the last block is cut: one more or less at each end of it
    with pytest.raises(DataError, match=r"component 0 .* less than one sample in 1,048,576; raise data.components.0"):
        Mixture([50, 5000], [1e-7, 1.0], 0)


def test_a_set_without_samples_is_refused() -> None:
    with pytest.raises(DataError, match=r"component 1 .* no whole sample"):
        Mixture([5, 0], [1, 1], 0)


def test_known_draws_do_not_change_between_versions() -> None:
    # A changed order would silently break the resumption of every run.
    components, indices = Mixture([30, 20, 10], [5, 3, 2], 11).samples(np.arange(12))
    assert components.tolist() == [0, 0, 1, 2, 2, 2, 0, 2, 2, 1, 1, 0]
    assert indices.tolist() == [21, 6, 9, 0, 0, 0, 2, 1, 5, 17, 0, 13]
