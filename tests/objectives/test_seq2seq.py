"""Pairs of a source and a target: nothing is lost, nothing is told twice."""

from __future__ import annotations

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
    span_lengths,
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


@pytest.mark.parametrize("objective", [DenoisingObjective(Denoising(), VOCABULARY)])
@pytest.mark.parametrize("seed", range(20))
def test_denoising_writes_the_whole_text_and_reads_part_of_it_in_order(objective, seed):
    batch = packed_text(1, 50, seed)
    pair = objective.corrupt(batch, Draws(seed, range(1)))
    wanted = texts(batch)
    targets = pieces(pair.target, pair.target.targets_BT)
    assert [row[:-1] for row in targets] == wanted
    for source, text in zip(pieces(pair.source, pair.source.tokens_BT), wanted, strict=True):
        rest = iter(text)
        assert all(token in rest for token in source[:-1])
        assert len(source) - 1 == len(text) - min(max(1, round(0.15 * len(text))), len(text) - 1)


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
