"""What is hidden, how, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import MASK, SIZE, SPECIAL, VOCABULARY, packed_text, tiny_decoder, tiny_encoder

from corestone.core.batch import IGNORE
from corestone.core.errors import SpecError
from corestone.core.rng import Draws
from corestone.core.vocabulary import Vocabulary
from corestone.objectives.masked_token import MaskedTokenObjective
from corestone.objectives.spec import MaskedToken


def corrupted(seed=0, rows=4, tokens=40, **given):
    batch = packed_text(rows, tokens, seed)
    objective = MaskedTokenObjective(MaskedToken(**given), VOCABULARY)
    return batch, objective.corrupt(batch, Draws(seed, range(rows)))


@settings(deadline=None)
@given(seed=st.integers(0, 999), rate=st.floats(0.01, 0.9), tokens=st.integers(2, 60))
def test_each_row_hides_its_share_of_text_and_keeps_the_rest(seed, rate, tokens):
    before, after = corrupted(seed, tokens=tokens, rate=rate)
    text = ~torch.isin(before.tokens_BT, torch.tensor(SPECIAL))
    chosen = after.targets_BT != IGNORE
    wanted = (rate * text.sum(dim=1)).round().clamp(min=1).long()
    assert torch.equal(chosen.sum(dim=1), torch.minimum(wanted, text.sum(dim=1)))
    assert not (chosen & ~text).any()
    assert torch.equal(after.targets_BT[chosen], before.tokens_BT[chosen])
    assert torch.equal(after.tokens_BT[~chosen], before.tokens_BT[~chosen])
    assert not after.mask.causal
    assert after.mask.segments_BT is before.mask.segments_BT


def test_eight_in_ten_are_masked_one_random_one_kept():
    """Shares over 96,000 chosen tokens; random ids hit the hidden one once in 90."""
    before, after = corrupted(rows=2000, tokens=480, rate=0.1)
    chosen = after.targets_BT != IGNORE
    now, was = after.tokens_BT[chosen], before.tokens_BT[chosen]
    masked, same = (now == MASK).double().mean(), (now == was).double().mean()
    assert float(masked) == pytest.approx(0.8 + 0.1 / SIZE, abs=0.005)
    assert float(same) == pytest.approx(0.1 + 0.1 / SIZE, abs=0.005)
    changed = now[(now != MASK) & (now != was)]
    assert set(changed.tolist()) == set(range(SIZE)) - {MASK}  # any id may come


@settings(deadline=None)
@given(seed=st.integers(0, 999), rate=st.floats(0.05, 0.6))
def test_whole_words_are_hidden_or_none_of_them(seed, rate):
    before, after = corrupted(seed, rate=rate, whole_words=True)
    chosen = after.targets_BT != IGNORE
    special = torch.isin(before.tokens_BT, torch.tensor(SPECIAL))
    starts = torch.from_numpy(VOCABULARY.starts_word)[before.tokens_BT]
    for row in range(4):
        for place in range(1, 40):
            inside = not starts[row, place] and not special[row, place - 1]
            if inside:
                assert chosen[row, place] == chosen[row, place - 1], (row, place)
        text = int((~special[row]).sum())
        assert int(chosen[row].sum()) <= max(1, round(rate * text))


def test_only_hidden_tokens_weigh():
    _, after = corrupted()
    objective = MaskedTokenObjective(MaskedToken(), VOCABULARY)
    model = tiny_encoder()
    loss = objective.loss(model, after)
    keep = after.targets_BT != IGNORE
    logits = model.head(model(after).hidden)[keep]
    wanted = torch.nn.functional.cross_entropy(logits, after.targets_BT[keep], reduction="sum")
    torch.testing.assert_close(loss.total, wanted)  # worst of 20 seeds: 1.6e-5 of 104
    assert int(loss.weight) == int(keep.sum())


def test_who_cannot_hide_tokens_or_words_is_refused():
    with pytest.raises(SpecError, match="needs a mask token"):
        MaskedTokenObjective(MaskedToken(), Vocabulary(size=9, separator=0))
    with pytest.raises(SpecError, match="does not tell where words begin"):
        MaskedTokenObjective(MaskedToken(whole_words=True), Vocabulary(size=9, separator=0, mask=1))


def test_a_causal_model_refuses_what_sees_both_ways():
    _, after = corrupted()
    with pytest.raises(SpecError, match="decoder"):
        tiny_decoder()(after)
    with pytest.raises(SpecError, match="encoder"):
        tiny_encoder()(packed_text(2, 9))
