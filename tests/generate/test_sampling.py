"""The filters against a naive reference, and the streams of random numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corestone.core.errors import SpecError
from corestone.core.spec import parse
from corestone.generate.sampling import (
    choose,
    draw,
    filtered,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalise,
    streams,
)
from corestone.generate.spec import Sampling

# Multiples of 1/4 give many ties.
ROWS = st.lists(st.integers(-40, 40).map(lambda n: n / 4), min_size=1, max_size=24)


def kept(logits_V: torch.Tensor) -> set[int]:
    return {place for place, value in enumerate(logits_V.tolist()) if value != -math.inf}


def softmax(values: list[float]) -> np.ndarray:
    powers = np.exp(np.array(values) - max(values))
    return powers / powers.sum()


@given(ROWS, st.integers(1, 30))
def test_top_k_keeps_those_that_fewer_than_k_others_beat(row: list[float], k: int) -> None:
    expected = {i for i, value in enumerate(row) if sum(other > value for other in row) < k}
    assert kept(keep_top_k(torch.tensor([row]), k)[0]) == expected


@given(ROWS, st.floats(0.01, 1.0))
def test_top_p_keeps_those_that_less_than_p_is_likelier_than(row: list[float], p: float) -> None:
    probabilities = softmax(row)
    likelier = [float(probabilities[np.array(row) > value].sum()) for value in row]
    if any(abs(mass - p) < 1e-9 for mass in likelier) or p > 1 - 1e-9:
        return  # on the edge itself rounding decides
    result = kept(keep_top_p(torch.tensor([row]), p)[0])
    assert result == {i for i, mass in enumerate(likelier) if mass < p}
    assert sum(probabilities[i] for i in result) >= p - 1e-9


@given(ROWS, st.floats(0.0, 1.0))
def test_min_p_keeps_those_likely_enough_beside_the_likeliest(row: list[float], fraction: float) -> None:
    relative = [math.exp(value - max(row)) for value in row]
    if any(abs(value - fraction) < 1e-6 for value in relative) and fraction != 1.0:
        return
    assert kept(keep_min_p(torch.tensor([row]), fraction)[0]) == {i for i, r in enumerate(relative) if r >= fraction}


@given(ROWS, st.floats(0.3, 3.0), st.data())
def test_penalty_touches_only_what_was_seen(row: list[float], penalty: float, data: st.DataObject) -> None:
    seen = data.draw(st.lists(st.booleans(), min_size=len(row), max_size=len(row)))
    result = penalise(torch.tensor([row], dtype=torch.float64), torch.tensor([seen]), penalty)[0].tolist()
    for value, was_seen, new in zip(row, seen, result, strict=True):
        expected = (value / penalty if value > 0 else value * penalty) if was_seen else value
        assert new == pytest.approx(expected, abs=1e-12)


@settings(max_examples=50)
@given(
    ROWS,
    ROWS,
    st.builds(
        Sampling,
        temperature=st.floats(0.2, 3.0),
        top_k=st.none() | st.integers(1, 9),
        top_p=st.none() | st.floats(0.05, 1.0),
        min_p=st.none() | st.floats(0.0, 1.0),
    ),
)
def test_a_row_is_filtered_alike_in_any_batch_and_keeps_its_likeliest(
    row: list[float], other: list[float], sampling: Sampling
) -> None:
    size = min(len(row), len(other))
    pair = torch.tensor([row[:size], other[:size]])
    both, alone = filtered(pair, sampling), filtered(pair[:1], sampling)
    assert torch.equal(both[:1], alone)
    assert int(pair[0].argmax()) in kept(both[0])


def test_filters_apply_one_after_the_other() -> None:
    # Of 0.4 0.3 0.2 0.1, top_k 2 leaves 4/7 and 3/7; only among these does 0.5 hold with the first alone.
    logits = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1]]))
    assert kept(filtered(logits, Sampling(top_k=2, top_p=0.5))[0]) == {0}
    assert kept(filtered(logits, Sampling(top_p=0.5))[0]) == {0, 1}
    # Temperature comes before top_p: it flattens, so more tokens are needed.
    assert kept(filtered(logits, Sampling(temperature=3.0, top_p=0.75))[0]) == {0, 1, 2}
    assert kept(filtered(logits, Sampling(top_p=0.65))[0]) == {0, 1}


def test_draws_follow_the_probabilities_and_never_leave_them() -> None:
    # 40,000 draws; a frequency's standard error is at most 0.0025, five of them are allowed.
    logits = torch.tensor([[-math.inf, 0.0, 1.0, -math.inf, 2.0, -math.inf]])
    expected = softmax([0.0, 1.0, 2.0])
    counts = torch.bincount(draw(logits.expand(40_000, -1), streams(5, 1) * 40_000), minlength=6)
    assert counts[[0, 3, 5]].tolist() == [0, 0, 0]
    assert np.abs(counts[[1, 2, 4]].numpy() / 40_000 - expected).max() < 0.0125


def test_a_row_draws_from_its_own_stream() -> None:
    logits = torch.zeros(4, 1000)
    two, four = draw(logits[:2], streams(1, 2)).tolist(), draw(logits, streams(1, 4)).tolist()
    assert two == four[:2]
    assert len(set(four)) > 1
    assert draw(logits, streams(2, 4)).tolist() != four


def test_temperature_zero_takes_the_likeliest_after_the_penalty() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.9]])
    assert choose(logits, None, Sampling(temperature=0.0), []).tolist() == [1]
    seen = torch.tensor([[False, True, False]])
    assert choose(logits, seen, Sampling(temperature=0.0, repetition_penalty=1.5), []).tolist() == [2]


@pytest.mark.parametrize(
    "tree", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"min_p": 2}, {"max_tokens": 0}, {"stop": [""]}]
)
def test_values_out_of_range_are_refused(tree: dict[str, object]) -> None:
    with pytest.raises(SpecError, match=next(iter(tree))):
        parse(Sampling, tree, "here")
