"""Pairs of a source and a target: nothing is lost, nothing is told twice."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import PAD, SENTINELS, SEPARATOR, VOCABULARY, packed_text

from corestone.core.batch import IGNORE
from corestone.core.errors import SpecError
from corestone.core.rng import Draws
from corestone.core.vocabulary import Vocabulary
from corestone.objectives.seq2seq import (
    ContinuationObjective,
    DenoisingObjective,
    SpanCorruptionObjective,
    poisson_lengths,
    scattered,
    span_lengths,
    tokens_cut,
)
from corestone.objectives.spec import Continuation, Denoising, SpanCorruption


def pieces(side, tokens):
    """Each segment's tokens of one row of a side, what fills up left out."""
    if side.mask.segments_BT is None:  # the row is one piece
        return [tokens[0].tolist()]
    segments = side.mask.segments_BT[0]
    return [tokens[0][segments == n].tolist() for n in range(int(segments.max()) + 1)]


def texts(batch):
    """The documents' parts of one row, without separators, those of fewer than two tokens left out."""
    segments = batch.mask.segments_BT[0]
    rows = [batch.tokens_BT[0][segments == n] for n in segments.unique()]
    kept = [row[row != SEPARATOR].tolist() for row in rows]
    return [row for row in kept if len(row) >= 2]


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 9999), tokens=st.integers(3, 60), rate=st.floats(0.05, 0.6), span=st.floats(1, 6))
def test_spans_put_back_in_their_places_give_the_text(seed, tokens, rate, span):
    batch = packed_text(1, tokens, seed)
    objective = SpanCorruptionObjective(SpanCorruption(rate=min(rate, 0.3), mean_span=span), VOCABULARY)
    if round(tokens * min(rate, 0.3) / span) > 15:
        return  # more spans than there are sentinels
    pair = objective.corrupt(batch, Draws(seed, range(1)))
    sources, targets = pieces(pair.source, pair.source.tokens_BT), pieces(pair.target, pair.target.targets_BT)
    found = []
    for source, target in zip(sources, targets, strict=True):
        assert source.pop() == target.pop() == SEPARATOR
        spans: dict[int, list[int]] = {}
        for token in target:
            if token in SENTINELS:
                last = token
                spans[last] = []
            else:
                spans[last].append(token)
        assert list(spans) == list(SENTINELS[: len(spans)]) == [token for token in source if token in SENTINELS]
        assert all(spans.values())
        found.append([part for token in source for part in spans.get(token, [token])])
    assert found == texts(batch)


@settings(deadline=None, max_examples=300)
@given(
    seed=st.integers(0, 9999),
    tokens=st.integers(2, 120),
    rate=st.floats(0.01, 0.99),
    mean=st.one_of(st.floats(1, 6), st.floats(6, 1e4)),
)
def test_denoising_drops_exactly_its_share_and_writes_the_whole(seed, tokens, rate, mean):
    """What is read and what the spans hold make up the text, each token in its place."""
    text, uniform = np.arange(tokens) + 100, Draws(seed, range(1)).uniform(3, tokens)[0].numpy()
    lengths = poisson_lengths(tokens_cut(tokens, rate), mean, uniform[0])
    dropped = scattered(tokens, lengths, uniform[1])
    assert lengths.min() >= 1
    assert dropped.sum() == lengths.sum() == min(max(1, round(tokens * rate)), tokens - 1)
    runs = [len(run) for run in "".join("x" if drop else " " for drop in dropped).split()]
    assert sum(runs) == lengths.sum()
    assert len(runs) <= len(lengths)  # spans may touch
    source, target = DenoisingObjective(Denoising(rate=rate, mean_span=mean), VOCABULARY).pair(text, uniform)
    assert target.tolist() == text.tolist()
    assert source.tolist() == text[~dropped].tolist()
    assert sorted([*source, *text[dropped]]) == text.tolist()


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 9999), tokens=st.integers(3, 60))
def test_denoised_rows_hold_their_documents(seed, tokens):
    objective, batch = DenoisingObjective(Denoising(), VOCABULARY), packed_text(1, tokens, seed)
    pair, again = (objective.corrupt(batch, Draws(seed, range(1))) for _ in range(2))
    assert torch.equal(pair.source.tokens_BT, again.source.tokens_BT)
    wanted = texts(batch)
    if not wanted:
        return
    targets = pieces(pair.target, pair.target.targets_BT)
    assert [row[:-1] for row in targets] == wanted
    for source, text in zip(pieces(pair.source, pair.source.tokens_BT), wanted, strict=True):
        rest = iter(text)
        assert all(token in rest for token in source[:-1])
        assert len(source) - 1 == len(text) - min(max(1, round(0.15 * len(text))), len(text) - 1)


def as_proportioned(counts, shares):
    """Whether Pearson's statistic is below what one sample in a thousand exceeds (Wilson and Hilferty 1931)."""
    wanted, freedom = np.array(shares) * sum(counts), len(counts) - 1
    assert wanted.min() >= 20
    limit = freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3
    return float(((counts - wanted) ** 2 / wanted).sum()) < limit


@pytest.mark.parametrize("mean", [1.0, 3.0, 7.5])
def test_lengths_of_dropped_spans_are_poisson(mean):
    """Of the lengths of at least one token; another mean is told apart."""
    drawn = [poisson_lengths(600, mean, row) for row in Draws(5, range(400)).uniform(600).numpy()]
    assert {int(lengths.sum()) for lengths in drawn} == {600}
    # The first 50 of each row, far from the end where a length is cut short.
    assert min(map(len, drawn)) > 55
    found, edge = np.concatenate([lengths[:50] for lengths in drawn]), round(2 * mean + 2)
    counts = np.append(np.bincount(found, minlength=edge)[1:edge], (found >= edge).sum())

    def shares(mean):
        below = [math.exp(-mean) * mean**n / math.factorial(n) / (1 - math.exp(-mean)) for n in range(1, edge)]
        return [*below, 1 - sum(below)]

    assert as_proportioned(counts, shares(mean))
    assert not as_proportioned(counts, shares(1.05 * mean))


def test_the_last_span_is_cut_short():
    lengths = poisson_lengths(10, 3.0, np.array([0.5, 0.0, 0.9999] + [0.5] * 7, dtype=np.float32))
    assert lengths.tolist() == [3, 1, 6]
    assert poisson_lengths(1, 3.0, np.array([0.7], dtype=np.float32)).tolist() == [1]
    assert poisson_lengths(5, 1e4, np.zeros(5, dtype=np.float32)).tolist() == [5]


def test_all_ways_to_strew_spans_are_equally_likely():
    """Spans of 1, 2 and 3 tokens and two other tokens, in every order; where spans touch, orders look alike."""
    orders = [sum(order, ()) for order in permutations([(1,), (1, 1), (1, 1, 1), (0,), (0,)])]
    ways = sorted(set(orders))
    rows = Draws(7, range(20_000)).uniform(8).numpy()
    found = [tuple(map(int, scattered(8, np.array([1, 2, 3]), row))) for row in rows]
    assert set(found) == set(ways)
    counts = np.array([found.count(way) for way in ways])
    assert as_proportioned(counts, [orders.count(way) / len(orders) for way in ways])
    assert not as_proportioned(counts, [1 / len(ways)] * len(ways))


def test_dropped_tokens_depend_on_the_draws_alone_and_reach_every_place():
    objective, text = DenoisingObjective(Denoising(), VOCABULARY), np.arange(20)
    rows = Draws(1, range(2000)).uniform(3, 20).numpy()
    pairs = [objective.pair(text, row)[0] for row in rows]
    assert all(np.array_equal(objective.pair(text, row.copy())[0], pair) for row, pair in zip(rows, pairs, strict=True))
    missing = 2000 - np.bincount(np.concatenate(pairs), minlength=20)
    assert missing.sum() == 2000 * 3
    assert missing.min() > 0
    assert len({pair.tobytes() for pair in pairs}) > 300


@pytest.mark.parametrize("seed", range(20))
def test_a_continuation_goes_on_where_the_source_ends(seed):
    batch = packed_text(1, 50, seed)
    pair = ContinuationObjective(Continuation(), VOCABULARY).corrupt(batch, Draws(seed, range(1)))
    sources, targets = pieces(pair.source, pair.source.tokens_BT), pieces(pair.target, pair.target.targets_BT)
    for source, target, text in zip(sources, targets, texts(batch), strict=True):
        assert source[:-1] + target[:-1] == text
        assert len(text) < 5 or 0.1 <= len(source[:-1]) / len(text) <= 0.9


def test_the_decoder_is_given_the_target_shifted_by_one():
    pair = SpanCorruptionObjective(SpanCorruption(), VOCABULARY).corrupt(packed_text(3, 60), Draws(0, range(3)))
    given, wanted = pair.target.tokens_BT, pair.target.targets_BT
    starts = pair.target.positions_BT == 0
    real = wanted != IGNORE
    assert (given[starts] == PAD).all()
    inner = real & ~starts
    assert torch.equal(given[inner], wanted.roll(1, dims=1)[inner])
    assert (pair.target.mask.segments_BT[~real] == -1).all()
    assert torch.equal(pair.target.mask.sources_BS, pair.source.mask.segments_BT)


def test_a_whole_row_has_the_published_lengths():
    """568 tokens become 512 to read and 114 to write, ends included (Raffel et al. 2020, code)."""
    kept, cut = span_lengths(568, 0.15, 3.0, np.random.default_rng(0).random((2, 568), dtype=np.float32))
    assert (kept.sum() + len(cut) + 1, cut.sum() + len(cut) + 1) == (512, 114)


def test_all_ways_to_part_a_text_are_equally_likely():
    """The first cut span of ten texts of 20 tokens in 5 and 5: chi-squared over its lengths."""
    draws = Draws(3, range(20_000)).uniform(2, 40).numpy()
    firsts = [int(span_lengths(40, 0.25, 2.0, uniform)[1][0]) for uniform in draws]
    counts = np.bincount(firsts, minlength=7)[1:7]
    # 10 cut tokens in 5 spans: C(9 - n, 3) of the C(9, 4) ways begin with n tokens.
    wanted = np.array([56, 35, 20, 10, 4, 1]) / 126 * 20_000
    assert float(((counts - wanted) ** 2 / wanted).sum()) < 20.5  # 5 degrees of freedom, one in a thousand


def test_too_few_sentinels_are_an_error_with_a_cure():
    short = Vocabulary(size=90, separator=SEPARATOR, pad=PAD, sentinels=SENTINELS[:2])
    objective = SpanCorruptionObjective(SpanCorruption(mean_span=1), short)
    with pytest.raises(SpecError, match="sentinels"):
        objective.corrupt(packed_text(1, 60, apart=False), Draws(0, range(1)))
    with pytest.raises(SpecError, match="sentinel"):
        SpanCorruptionObjective(SpanCorruption(), Vocabulary(size=9, separator=0))
