"""Pairs of texts: what follows, what does not, and how a row is laid out."""

from __future__ import annotations

import pytest
import torch
from texts import CLASSIFY, PAD, SEPARATOR, VOCABULARY, packed_text, tiny_encoder

from corestone.core.batch import IGNORE
from corestone.core.errors import SpecError
from corestone.core.rng import Draws
from corestone.objectives.next_sentence import FOLLOWS, NextSentenceObjective
from corestone.objectives.spec import MaskedToken, NextSentence


def whole_text(batch):
    """Rows with what was hidden put back."""
    return torch.where(batch.text.targets_BT == IGNORE, batch.text.tokens_BT, batch.text.targets_BT)


@pytest.mark.parametrize("seed", range(30))
def test_the_second_text_follows_the_first_or_is_the_neighbours(seed):
    before = packed_text(4, 30, seed, apart=False)
    objective = NextSentenceObjective(NextSentence(), VOCABULARY)
    pairs = objective.corrupt(before, Draws(seed, range(4)))
    rows = whole_text(pairs)
    for row in range(4):
        tokens, types = rows[row].tolist(), pairs.text.types_BT[row].tolist()
        real = (pairs.text.mask.segments_BT[row] == 0).tolist()
        last = sum(real)
        middle = tokens.index(SEPARATOR)
        first, second = tokens[1:middle], tokens[middle + 1 : last - 1]
        assert tokens[0] == CLASSIFY
        assert tokens[last - 1] == SEPARATOR
        assert types == [0] * (middle + 1) + [1] * (last - middle - 1) + [0] * (30 - last)
        assert all(token == PAD for token in tokens[last:])
        texts = [[t for t in before.tokens_BT[n].tolist() if t != SEPARATOR] for n in (row, row ^ 1)]
        assert first == texts[0][: len(first)]
        rest = texts[0][len(first) :] if pairs.labels_B[row] == FOLLOWS else texts[1]
        assert second == rest[: len(second)]
        assert last <= 30


def test_half_of_all_pairs_follow_and_special_tokens_are_never_hidden():
    pairs = NextSentenceObjective(NextSentence(), VOCABULARY).corrupt(packed_text(2000, 20), Draws(0, range(2000)))
    assert float(pairs.labels_B.float().mean()) == pytest.approx(0.5, abs=0.04)
    hidden = pairs.text.targets_BT[pairs.text.targets_BT != IGNORE]
    assert not torch.isin(hidden, torch.tensor([CLASSIFY, SEPARATOR, PAD])).any()


def test_the_loss_is_the_sum_of_two_means_where_rows_hide_alike():
    """With as many hidden tokens in every row; 1e-5 relative, measured 2e-7."""
    objective = NextSentenceObjective(NextSentence(masked=MaskedToken(rate=0.2)), VOCABULARY)
    model = tiny_encoder()
    batch = objective.corrupt(packed_text(8, 30, 3, apart=False), Draws(3, range(8)))
    counts = (batch.text.targets_BT != IGNORE).sum(dim=1)
    same = batch.rows(0, 8) if bool((counts == counts[0]).all()) else None
    assert same is not None, counts
    scores = objective.scores(model, same)
    masked = scores["nats_per_target"].totals.sum() / scores["nats_per_target"].weights.sum()
    pairs = scores["next_sentence_nats"].totals.mean()
    loss = objective.loss(model, same)
    assert float(loss.total.detach() / loss.weight) == pytest.approx(float(masked + pairs), rel=1e-5)


def test_an_odd_number_of_rows_is_refused():
    with pytest.raises(SpecError, match=r"two by two and a rank has 3; change training\.batch_tokens"):
        NextSentenceObjective(NextSentence(), VOCABULARY).corrupt(packed_text(3, 20), Draws(0, range(3)))
