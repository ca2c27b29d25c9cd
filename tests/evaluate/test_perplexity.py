"""Perplexity: the same whatever the batch size and padding, equal to a naive loop, and exact about what it divides by.

Shape letters: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corestone.core.batch import IGNORE, TextBatch, plain_batch
from corestone.core.errors import DataError
from corestone.core.metric import Metric
from corestone.core.protocols import Output
from corestone.data.packing import evaluation_batches
from corestone.evaluate import perplexity
from corestone.evaluate.perplexity import TextPerplexity, count_words, documents_within

pydoc_topics = pytest.importorskip("pydoc_data.topics")
TEXTS = [text[:700].encode() for _, text in sorted(pydoc_topics.topics.items())][:40] + [b"", b"x"]
V = 320  # 257 symbols, padded


class Stored:
    """A prepared split in memory: tokens are byte values, the separator is 256."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._stream = np.concatenate([[256], *([*text, 256] for text in texts)]).astype(np.int64)
        self.starts = np.cumsum([0, *(len(text) + 1 for text in texts)]).astype(np.int64)
        self.document_bytes = np.array([len(text) for text in texts], dtype=np.int64)
        self.n_tokens, self.n_documents, self.shards = len(self._stream), len(texts), [self._stream]

    def slice(self, start: int, stop: int) -> np.ndarray:
        return self._stream[start:stop]

    def document_id(self, i: int) -> str:
        return f"topic {i}"


class TinyModel(nn.Module):
    """One attention layer that obeys the batch's mask and positions, with dropout to notice training mode by."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.positions = nn.Embedding(V, 32), nn.Embedding(2048, 32)
        self.mixer, self.dropout = nn.Linear(32, 96), nn.Dropout(0.5)
        self.head = nn.Linear(32, V)

    def forward(self, batch: TextBatch) -> Output:
        B, T = batch.tokens_BT.shape
        x_BTD = self.dropout(self.table(batch.tokens_BT) + self.positions(batch.positions_BT))
        allowed_BTT = torch.ones(T, T, dtype=torch.bool).tril().expand(B, T, T)
        if batch.mask.segments_BT is not None:
            allowed_BTT = allowed_BTT & (batch.mask.segments_BT[:, :, None] == batch.mask.segments_BT[:, None, :])
        q, k, v = self.mixer(x_BTD).chunk(3, dim=-1)
        return Output(hidden=4 * (x_BTD + F.scaled_dot_product_attention(q, k, v, attn_mask=allowed_BTT)))


def document_rows(texts: Sequence[bytes], extra: int) -> Callable[[int], Iterator[TextBatch]]:
    """One document per row, every row filled up to the longest of its batch and `extra` more."""

    def batches(batch_size: int) -> Iterator[TextBatch]:
        for first in range(0, len(texts), batch_size):
            rows = [[256, *text, 256] for text in texts[first : first + batch_size]]
            T = max(map(len, rows)) - 1 + extra
            inputs = [row[:-1] + [7] * (T + 1 - len(row)) for row in rows]
            targets = [row[1:] + [IGNORE] * (T + 1 - len(row)) for row in rows]
            yield plain_batch(torch.tensor(inputs), torch.tensor(targets))

    return batches


def scored(texts: Sequence[bytes], batches: Callable[[int], Iterator[TextBatch]], size: int) -> dict[str, Metric]:
    evaluator = TextPerplexity(Stored(texts), batches, size, words=count_words(texts))
    return {metric.name: metric for metric in evaluator.run(TinyModel())}


def naive_nats(texts: Sequence[bytes]) -> float:
    """Document by document, token by token, in double precision from the whole logits."""
    model, total = TinyModel().eval(), 0.0
    for text in texts:
        row = [256, *text, 256]
        with torch.no_grad():
            logits = model.head(model(plain_batch(torch.tensor([row[:-1]]))).hidden)[0].double()
        for position, target in enumerate(row[1:]):
            total += float(torch.logsumexp(logits[position], 0) - logits[position, target])
    return total


def test_equals_a_naive_loop_over_documents() -> None:
    nats = naive_nats(TEXTS)
    tokens, n_bytes, words = sum(map(len, TEXTS)) + len(TEXTS), sum(map(len, TEXTS)), len(b" ".join(TEXTS).split())
    found = scored(TEXTS, document_rows(TEXTS, 0), 3)
    wanted = {
        "nats_per_token": (nats / tokens, "nats/token", tokens),
        "bits_per_byte": (nats / n_bytes / math.log(2), "bits/byte", n_bytes),
        "word_perplexity": (math.exp(nats / words), "per word", words),
        "byte_perplexity": (math.exp(nats / n_bytes), "per byte", n_bytes),
        "token_perplexity": (math.exp(nats / tokens), "per token", tokens),
    }
    assert list(found) == list(wanted)
    for name, (value, unit, n) in wanted.items():
        tolerance = 1e-4 if name == "word_perplexity" else 1e-6  # exp of 75 nats; worst seen 5e-9, else 7e-10
        assert found[name].value == pytest.approx(value, rel=tolerance)
        assert (found[name].unit, found[name].n) == (unit, n)


@pytest.mark.parametrize("extra", [0, 1, 61])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_batch_size_and_padding_change_nothing(size: int, extra: int) -> None:
    reference = scored(TEXTS, document_rows(TEXTS, 0), 5)["nats_per_token"]
    found = scored(TEXTS, document_rows(TEXTS, extra), size)["nats_per_token"]
    assert found.value == pytest.approx(reference.value, rel=1e-6)  # worst seen 9e-11
    assert found.interval == pytest.approx(reference.interval, rel=1e-6)
    assert found.n == reference.n


@pytest.mark.parametrize("apart", [True, False])
def test_packed_rows_of_the_loader(apart: bool) -> None:
    """Windows that hold each document whole equal the naive loop; cut ones at least do not depend on the batch."""
    stored = Stored(TEXTS)
    cut = [scored(TEXTS, lambda size: evaluation_batches(stored, 256, size, apart), n) for n in (1, 3, 8)]
    for found in cut[1:]:
        assert found["nats_per_token"].value == pytest.approx(cut[0]["nats_per_token"].value, rel=1e-6)
    few = TEXTS[-4:]
    whole = scored(few, lambda size: evaluation_batches(Stored(few), 2048, size, True), 2)["nats_per_token"]
    assert whole.value * whole.n == pytest.approx(naive_nats(few), rel=1e-6)


@pytest.mark.parametrize("logits", [1, V, 7 * V, 10**9])
def test_head_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, logits: int) -> None:
    reference = scored(TEXTS[:9], document_rows(TEXTS[:9], 0), 3)["nats_per_token"].value
    monkeypatch.setattr(perplexity, "CHUNK_LOGITS", logits)
    found = scored(TEXTS[:9], document_rows(TEXTS[:9], 0), 3)["nats_per_token"].value
    assert found == pytest.approx(reference, rel=1e-6)


def test_the_head_never_sees_more_rows_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perplexity, "CHUNK_LOGITS", 11 * V)
    model, rows = TinyModel(), []
    model.head.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    list(TextPerplexity(Stored(TEXTS), document_rows(TEXTS, 0), 8).run(model))
    assert max(rows) == 11
    assert sum(rows) == sum(map(len, TEXTS)) + len(TEXTS)  # and never a row without a target


def test_only_the_first_documents() -> None:
    found, whole = {}, scored(TEXTS[:7], document_rows(TEXTS[:7], 0), 2)
    for packed in (
        document_rows(TEXTS, 0),
        partial(evaluation_batches, Stored(TEXTS), 2048, keep_documents_apart=True),
    ):
        evaluator = TextPerplexity(Stored(TEXTS), packed, 4, words=count_words(TEXTS[:7]), documents=7)
        found = {metric.name: metric for metric in evaluator.run(TinyModel())}
        assert found["nats_per_token"].n == whole["nats_per_token"].n
    evaluator = TextPerplexity(Stored(TEXTS), document_rows(TEXTS, 0), 4, count_words(TEXTS[:7]), 7)
    for name, metric in {metric.name: metric for metric in evaluator.run(TinyModel())}.items():
        assert metric.value == pytest.approx(whole[name].value, rel=1e-6 if name != "word_perplexity" else 1e-4)
        assert metric.n == whole[name].n
    tokens = Stored(TEXTS).starts
    assert [documents_within(Stored(TEXTS), n) for n in (1, tokens[3] - 1, tokens[3], 10**9)] == [1, 2, 3, len(TEXTS)]


def test_intervals_hold_the_value_and_are_consistent() -> None:
    found = scored(TEXTS, document_rows(TEXTS, 0), 8)
    for metric in found.values():
        assert metric.interval is not None
        assert metric.interval[0] < metric.value < metric.interval[1]
    per_token, per_byte = found["nats_per_token"].interval, found["bits_per_byte"].interval
    assert found["token_perplexity"].interval == pytest.approx(tuple(math.exp(end) for end in per_token or ()))
    assert found["byte_perplexity"].interval == pytest.approx(tuple(2**end for end in per_byte or ()))


@pytest.mark.parametrize("training", [True, False])
def test_modes_of_all_modules_are_restored(training: bool) -> None:
    model = TinyModel().train(training)
    model.mixer.eval()  # a frozen part stays as it was
    before = {name: module.training for name, module in model.named_modules()}
    evaluator = TextPerplexity(Stored(TEXTS[:5]), document_rows(TEXTS[:5], 0), 2)
    first, second = list(evaluator.run(model)), list(evaluator.run(model))
    assert first == second  # dropout was off
    assert {name: module.training for name, module in model.named_modules()} == before
    with pytest.raises(DataError):
        list(TextPerplexity(Stored(TEXTS[:6]), document_rows(TEXTS[:5], 0), 2).run(model))
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_metrics_taken_one_at_a_time_leave_gradients_on() -> None:
    for _ in TextPerplexity(Stored(TEXTS[:5]), document_rows(TEXTS[:5], 0), 2).run(TinyModel()):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (TEXTS[:4], "of the split's"),  # too few
        (TEXTS[:6], "more tokens than the split"),
        (TEXTS[1:6], "differ from the split's tokens"),
        ([*TEXTS[:3], TEXTS[4], TEXTS[3]], "differ from the split's tokens"),  # out of order
    ],
)
@pytest.mark.parametrize("size", [1, 8])
def test_batches_that_miss_repeat_or_reorder_tokens_are_refused(given: list[bytes], message: str, size: int) -> None:
    evaluator = TextPerplexity(Stored(TEXTS[:5]), document_rows(given, 0), size)
    with pytest.raises(DataError, match=message):
        list(evaluator.run(TinyModel()))


def test_text_without_bytes_or_words_is_refused() -> None:
    with pytest.raises(DataError, match="holds no text"):
        TextPerplexity(Stored([]), document_rows([], 0), 1)
    with pytest.raises(DataError, match="holds no text"):
        TextPerplexity(Stored([b""]), document_rows([b""], 0), 1)
    with pytest.raises(DataError, match="no words"):
        TextPerplexity(Stored([b"  "]), document_rows([b"  "], 0), 1, words=count_words([b"  "]))
    names = [m.name for m in TextPerplexity(Stored([b"a b"]), document_rows([b"a b"], 0), 1).run(TinyModel())]
    assert "word_perplexity" not in names


def test_a_ruined_model_gives_infinity_and_not_a_crash() -> None:
    model = TinyModel()
    with torch.no_grad():
        model.head.weight *= 1e6
    found = {m.name: m for m in TextPerplexity(Stored(TEXTS[:5]), document_rows(TEXTS[:5], 0), 2).run(model)}
    assert found["token_perplexity"].value == math.inf
    assert math.isfinite(found["nats_per_token"].value)


def test_loss_is_float32_for_a_model_in_bfloat16() -> None:
    model = TinyModel().to(torch.bfloat16).eval()
    batch = next(document_rows(TEXTS[:3], 5)(3))
    losses, targets = perplexity.token_losses(model, batch)
    hidden: Tensor = model(batch).hidden[batch.targets_BT != IGNORE]
    wanted = F.cross_entropy(model.head(hidden).float(), targets, reduction="none")
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, wanted, rtol=1e-6, atol=1e-6)


def test_words_are_split_at_any_unicode_whitespace() -> None:
    assert count_words(["To be,\u2003or\u00a0not\nto  be".encode(), b"", b"\t"]) == 6
