"""Votes against counting by hand, and what must hold of any vote."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestone.core.errors import DataError
from corestone.evaluate.vote import majority, most_voted, two_level_majority


def probabilities(members: int, pictures: int, classes: int, seed: int) -> np.ndarray:
    """Members' probabilities in quarters or so, so that ties of every sort are frequent."""
    raw = np.random.default_rng(seed).integers(1, 4, size=(members, pictures, classes)).astype(float)
    return raw / raw.sum(axis=2, keepdims=True)


SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 12), st.integers(2, 5), st.integers(0, 10_000))


def by_hand(votes: list[int], support: list[float]) -> int:
    counts = Counter(votes)
    return min(range(len(support)), key=lambda k: (-counts[k], -support[k], k))


@given(SHAPES)
def test_majority_is_what_counting_gives(shape):
    given_ = probabilities(*shape)
    support = given_.sum(axis=0)
    for n, found in enumerate(majority(given_)):
        assert found == by_hand([int(p[n].argmax()) for p in given_], support[n].tolist())


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), SHAPES)
def test_two_levels_are_a_vote_of_votes(sizes, shape):
    _, pictures, classes, seed = shape
    kinds = [probabilities(m, pictures, classes, seed + place) for place, m in enumerate(sizes)]
    support = sum(kind.mean(axis=0) for kind in kinds)
    votes = [majority(kind) for kind in kinds]
    for n, found in enumerate(two_level_majority(kinds)):
        assert found == by_hand([int(v[n]) for v in votes], support[n].tolist())


@given(SHAPES, st.randoms())
def test_the_order_of_members_does_not_matter_and_more_than_half_decides(shape, random):
    given_ = probabilities(*shape)
    # Sums of the same numbers in another order may round differently: only clear leads are compared.
    leads = np.sort(given_.sum(axis=0), axis=1)
    clear = leads[:, -1] - leads[:, -2] > 1e-9
    order = random.sample(range(len(given_)), len(given_))
    assert (majority(given_[order]) == majority(given_))[clear].all()
    votes = given_.argmax(axis=2)
    for n, found in enumerate(majority(given_)):
        (top, count), *_ = Counter(votes[:, n].tolist()).most_common()
        if 2 * count > len(votes):
            assert found == top


@given(SHAPES)
def test_one_member_and_copies_of_it_vote_as_it_does(shape):
    one = probabilities(*shape)[:1]
    alone = one[0].argmax(axis=1)
    assert (majority(one) == alone).all()
    assert (majority(np.repeat(one, 3, axis=0)) == alone).all()
    assert (two_level_majority([one, np.repeat(one, 2, axis=0)]) == alone).all()


def test_two_levels_differ_from_one_where_a_kind_is_large():
    """Five members of one kind are right, two kinds of one member each agree on something else."""
    large, small = np.tile([0.9, 0.1], (5, 1, 1)), np.array([[[0.4, 0.6]]])
    assert majority(np.concatenate([large, small, small])).tolist() == [0]
    assert two_level_majority([large, small, small]).tolist() == [1]


def test_ties_go_to_the_larger_support_then_to_the_first():
    votes = np.array([[0, 0], [2, 2]])
    assert most_voted(votes, np.array([[0.1, 0.8, 0.1], [0.2, 0.5, 0.3]])).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: majority(np.zeros((3, 4))), r"shape \(3, 4\)"),
        (lambda: majority(np.zeros((0, 4, 2))), r"shape \(0, 4, 2\)"),
        (lambda: majority(np.full((1, 2, 2), np.nan)), "not a finite number"),
        (lambda: two_level_majority([]), "no kinds of members"),
        (lambda: two_level_majority([np.ones((1, 2, 3)), np.ones((1, 3, 3))]), "different things"),
        (lambda: most_voted(np.array([[3]]), np.ones((1, 3))), "votes for class 3"),
        (lambda: most_voted(np.array([[0]]), np.ones((2, 3))), "do not go together"),
    ],
)
def test_what_cannot_be_voted_on_is_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()
