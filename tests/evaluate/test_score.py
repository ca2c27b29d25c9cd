"""Rows of a rolling likelihood: each token once, the last tokens kept, one long row where it fits, any batch size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from known_models import BYTES, SEPARATOR, KnownModel, bigram, reciter
from torch import Tensor

from corestone.core.batch import plain_batch
from corestone.core.errors import DataError
from corestone.data.spec import BytePair
from corestone.data.tokenizer import build_tokenizer
from corestone.evaluate.score import Row, pair_tokens, score_rows, windows
from corestone.models.decoder import DecoderModel, build_decoder
from corestone.zoo.gpt import gpt2


def lively(context_length: int = 64) -> DecoderModel:
    """A decoder whose every part shows in the logits."""
    spec = gpt2(32, 2, 4, vocab_size=320, context_length=context_length)
    init = spec.init.model_copy(update={"std": 0.4, "token_std": None, "position_std": 0.4})
    return build_decoder(spec.model_copy(update={"init": init}), seed=3)


def alone(exact: DecoderModel, row: Row) -> Tensor:
    """The losses of one row, by itself, through a model in double precision."""
    tokens = torch.from_numpy(row.tokens)[None]
    with torch.no_grad():
        log_p = torch.log_softmax(exact.head(exact(plain_batch(tokens[:, :-1])).hidden), dim=-1)[0]
    return -log_p.gather(1, tokens[0, 1:, None])[-row.scored :, 0]


@pytest.fixture(scope="module")
def exact() -> DecoderModel:
    return lively().double().eval()


def test_windows_are_those_of_lm_evals_documentation() -> None:
    """The example in the docstring of `LM.loglikelihood_rolling`: ten tokens, a context of four."""
    rows = list(windows(np.array([99, *range(10)]), 10, context_length=4, stride=4))
    shown = [(row.tokens[:-1].tolist(), row.tokens[-row.scored :].tolist()) for row in rows]
    assert shown == [
        ([99, 0, 1, 2], [0, 1, 2, 3]),
        ([3, 4, 5, 6], [4, 5, 6, 7]),
        ([5, 6, 7, 8], [8, 9]),
    ]


@given(st.integers(0, 60), st.integers(1, 20), st.data())
def test_every_token_is_predicted_once_and_from_as_much_as_fits(extra: int, length: int, data: st.DataObject) -> None:
    scored, stride = data.draw(st.integers(0, 60)), data.draw(st.integers(1, length))
    tokens = np.arange(1 + extra + scored)
    rows = list(windows(tokens, scored, length, stride))
    predicted = np.concatenate([row.tokens[-row.scored :] for row in rows] or [np.array([], dtype=int)])
    assert predicted.tolist() == tokens[len(tokens) - scored :].tolist()
    for number, row in enumerate(rows):
        last = int(row.tokens[-1])
        assert row.tokens.tolist() == list(range(max(0, last - length), last + 1))  # the last tokens, all that fit
        assert row.scored <= (length if number == 0 else stride)


@pytest.mark.parametrize("stride", [0, 9])
def test_a_stride_beyond_the_context_is_refused(stride: int) -> None:
    with pytest.raises(DataError, match="not within 1 and the context of 8"):
        list(windows(np.arange(30), 29, 8, stride))


@pytest.mark.parametrize("stride", [1, 7, 50])
def test_sliding_equals_one_long_row_where_it_fits(stride: int, exact: DecoderModel) -> None:
    model = lively()
    stream = np.random.default_rng(0).integers(0, 257, 51)
    (whole,) = score_rows(model, [Row(stream, 50)], 1)
    rows = list(windows(stream, 50, context_length=50, stride=stride))
    assert len(rows) == 1
    found = np.concatenate([score.nats for score in score_rows(model, rows, 3)])
    np.testing.assert_array_equal(found, whole.nats)
    # And where it does not fit, a token sees what its own row holds: no more, no less.
    rows = list(windows(stream, 50, context_length=20, stride=min(stride, 20)))
    found = np.concatenate([score.nats for score in score_rows(model, rows, 3)])
    wanted = torch.cat([alone(exact, row) for row in rows]).numpy()
    assert len(rows) == 1 + -(-30 // min(stride, 20))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)  # worst seen 6.8e-6 of 15.5


@pytest.mark.parametrize("size", [1, 2, 5, 30])
def test_batch_size_and_padding_change_nothing(size: int, exact: DecoderModel) -> None:
    model, draw = lively().train(), np.random.default_rng(1)
    shapes = [(int(n), int(draw.integers(1, n + 1))) for n in draw.integers(1, 64, 25)]
    rows = [Row(draw.integers(0, 257, n + 1), scored) for n, scored in shapes]
    found = score_rows(model, rows, size)
    assert model.training  # as it was, though no dropout was drawn
    for row, score in zip(rows, found, strict=True):
        assert score.nats.shape == score.likeliest.shape == (row.scored,)
        np.testing.assert_allclose(score.nats, alone(exact, row).numpy(), rtol=1e-5, atol=1e-5)  # worst seen 7.2e-6


def test_likeliest_is_the_argmax() -> None:
    model = reciter(["stone"])
    row = Row(np.array([SEPARATOR, *b"stonX"]), 5)
    (score,) = score_rows(model, [row], 1)
    assert score.likeliest.tolist() == [True, True, True, True, False]


def test_rows_of_like_length_share_a_batch() -> None:
    model = bigram()
    rows = [Row(np.arange(n), 1) for n in (2, 30, 3, 29)]
    score_rows(model, rows, 2)
    assert model.rows == [(2, 29), (2, 2)]


def test_a_pair_is_the_separator_the_context_and_what_follows() -> None:
    tokens, scored = pair_tokens(BYTES, "a b", " c")
    assert (tokens.tolist(), scored) == ([SEPARATOR, *b"a b c"], 2)
    tokens, scored = pair_tokens(BYTES, "a b  ", "c")  # spaces at the end count to what follows
    assert (tokens.tolist(), scored) == ([SEPARATOR, *b"a b  c"], 3)
    assert pair_tokens(BYTES, "", "c")[0].tolist() == [SEPARATOR, *b"c"]
    assert pair_tokens(BYTES, "a", "")[1] == 0
    tokens, scored = pair_tokens(BYTES, "a b  ", "c", begin=False)
    assert (tokens.tolist(), scored) == ([*b"a b  c"], 3)
    assert pair_tokens(BYTES, "  ", "c", begin=False)[0].tolist() == [SEPARATOR, *b"  c"]  # nothing else to begin with


def test_a_token_across_the_border_is_not_used() -> None:
    """What follows must not change the context's tokens, or its likelihood would not be conditional on them."""
    tokenizer = build_tokenizer(BytePair(vocab_size=300), ["stonework stonework stonework"] * 50)
    context, continuation = "stone", "work"
    assert len(tokenizer.encode(context + continuation)) == 1
    tokens, scored = pair_tokens(tokenizer, context, continuation)
    before, after = tokenizer.encode(context), tokenizer.encode(continuation)
    assert tokens.tolist() == [tokenizer.manifest.separator, *before, *after]
    assert scored == len(after)


def test_a_model_is_scored_where_it_is_and_gives_double_sums() -> None:
    (score,) = score_rows(KnownModel(lambda _: torch.zeros(320)), [Row(np.arange(4), 3)], 1)
    assert score.nats.dtype == np.float64
    assert score.nats == pytest.approx([np.log(320)] * 3)
