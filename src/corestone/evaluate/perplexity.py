"""How well a model predicts held-out text: one sum of losses, told per token, per byte and per word.

Shape letters: B batch, T tokens, R rows with a target, C rows of a chunk, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from corestone.core.batch import IGNORE, Seq2SeqBatch, TextBatch
from corestone.core.errors import DataError
from corestone.core.metric import Metric
from corestone.core.protocols import Model
from corestone.evaluate.floors import StoredText
from corestone.evaluate.intervals import add_to_blocks, block_starts, ratio_interval
from corestone.nn.modes import evaluation_mode

Scorer = Callable[[Model, TextBatch], tuple[Tensor, Tensor]]
"""Gives the loss of each real target of a batch in reading order, (R,), and these targets, (R,)."""

BLOCK_TOKENS = 2048
CHUNK_LOGITS = 2**22  # logits that exist at a time: 16 MB in float32


class TextPerplexity:
    """Scores a model on a prepared split. Satisfies `core.protocols.Evaluator`.

    Every token of the split but the first separator is predicted once, so the sum of losses holds each document's end,
    and tokens are counted with it. Bytes and words are those of the text alone; hence bits per byte and the byte and
    word perplexities charge a document's end to its text, as a compressor that keeps documents apart would. Where the
    vocabulary is padded, the padding counts in the softmax: that is the probability the model really gives.

    Intervals (95 %) are percentiles of a block bootstrap with a fixed seed, since losses of neighbouring tokens are
    not independent. A block is a run of whole documents with at least 2,048 tokens together; where that gives fewer
    than 30 blocks (a few long documents), a piece of the stream of 2,048 tokens instead, or less in a very short split
    (see `intervals.block_starts`). Within a document, bytes are taken to be spread evenly over its tokens; the number
    of words per byte is taken as given. The interval is about the choice of held-out text, not about training seeds.

    Args:
        token_set: the split.
        batches: gives the whole split for a batch size, in stream order, each token a target once, what fills up
            having the target IGNORE; `corestone.data.packing.evaluation_batches` with its other arguments bound.
        batch_size: rows per batch; changes speed and memory, not the result.
        words: whitespace-separated words of the text (`count_words`); None leaves the word perplexity out.
        documents: score only this many documents, from the first; None for all. `words` must be of the same ones.
        score: `static_losses`, or another way to score the batches as they come (`evaluate/dynamic.py`).
        reading: how the batches hold the text, for the metrics' convention.
    """

    def __init__(
        self,
        token_set: StoredText,
        batches: Callable[[int], Iterator[TextBatch]],
        batch_size: int,
        words: int | None = None,
        documents: int | None = None,
        score: Scorer | None = None,
        reading: str = "",
    ) -> None:
        count = token_set.n_documents if documents is None else min(documents, token_set.n_documents)
        self._edges = np.asarray(token_set.starts[: count + 1], dtype=np.int64)
        self._bytes = np.asarray(token_set.document_bytes[:count], dtype=np.int64)
        if count < 1 or int(self._bytes.sum()) < 1:
            raise DataError("evaluation: the split holds no text; give it at least one document")
        if words is not None and words < 1:
            raise DataError("evaluation: the text holds no words; leave `words` out for text without any")
        self._token_set = token_set
        self._batches = batches
        self._batch_size = batch_size
        self._words = words
        self._score = score or static_losses
        self._reading = "; ".join(filter(None, ["each document's end is predicted too", reading]))

    def run(self, model: Model) -> Iterator[Metric]:
        """Yield `nats_per_token`, `bits_per_byte`, `word_perplexity`, `byte_perplexity` and `token_perplexity`.

        The model is scored in evaluation mode; afterwards each of its modules is in the mode it was in before.

        Raises:
            DataError: the batches do not hold the split's tokens once each and in order.
        """
        tokens, n_bytes = int(self._edges[-1] - self._edges[0]), int(self._bytes.sum())
        starts = block_starts(np.diff(self._edges), BLOCK_TOKENS)
        nats = self._nats_of_blocks(model, starts, tokens)
        total = float(nats.sum())
        limits = np.append(starts, tokens)
        byte_limits = np.interp(limits, self._edges - self._edges[0], np.concatenate([[0], np.cumsum(self._bytes)]))
        per_token = ratio_interval(nats, np.diff(limits).astype(np.float64))
        per_byte = ratio_interval(nats, np.diff(byte_limits))

        said = f"nats / the model's own tokens; {self._reading}"
        yield Metric("nats_per_token", total / tokens, "nats/token", tokens, per_token, said)
        bits, said = scaled(per_byte, math.log(2)), f"nats / ln 2 / bytes of UTF-8 text; {self._reading}"
        yield Metric("bits_per_byte", total / math.log(2) / n_bytes, "bits/byte", n_bytes, bits, said)
        if self._words is not None:
            per_word = scaled(per_byte, self._words / n_bytes)
            said = f"exp(nats / words between spaces); {self._reading}"
            yield perplexity_metric("word_perplexity", total, "word", self._words, per_word, said)
        said = f"exp(nats / bytes of UTF-8 text); {self._reading}"
        yield perplexity_metric("byte_perplexity", total, "byte", n_bytes, per_byte, said)
        said = f"exp(nats / the model's own tokens); {self._reading}"
        yield perplexity_metric("token_perplexity", total, "token", tokens, per_token, said)

    def _nats_of_blocks(self, model: Model, starts: NDArray[np.int64], tokens: int) -> NDArray[np.float64]:
        """The summed loss of each block; every batch's targets are compared with the stored tokens on the way."""
        device = next(iter(model.named_parameters()))[1].device
        nats = np.zeros(len(starts))
        done, first = 0, int(self._edges[0]) + 1
        with evaluation_mode(model):
            for batch in self._batches(self._batch_size):
                losses_R, targets_R = self._score(model, batch.to(device))
                here = min(len(targets_R), tokens - done)
                stored = self._token_set.slice(first + done, first + done + here)
                if len(targets_R) > here and done + here == self._token_set.n_tokens - first:
                    raise DataError("evaluation: the batches hold more tokens than the split; is it the same split?")
                if not np.array_equal(targets_R[:here].cpu().numpy(), stored):
                    raise DataError(
                        f"evaluation: the batches differ from the split's tokens after target {done:,}; "
                        "they must hold each token once, in order, and come from the same split"
                    )
                add_to_blocks(nats, starts, done, losses_R[:here].cpu().numpy())
                done += here
                if done == tokens < self._token_set.n_tokens - first:
                    break  # only the first documents are wanted
        if done < tokens:
            raise DataError(f"evaluation: the batches hold {done:,} of the split's {tokens:,} tokens to predict")
        return nats


@torch.inference_mode()
def static_losses(model: Model, batch: TextBatch) -> tuple[Tensor, Tensor]:
    """`token_losses` of a model that stays as it is."""
    return token_losses(model, batch)


def token_losses(model: Model, batch: TextBatch) -> tuple[Tensor, Tensor]:
    """The loss of each real target of a batch, in reading order.

    The head is applied to a few rows at a time, so the logits of a whole batch never exist.

    Returns:
        Losses (R,) in nats, float32 whatever the model's precision, and the targets (R,).
    """
    losses, targets = [], []
    for logits_CV, targets_C in target_logits(model, batch):
        losses.append(F.cross_entropy(logits_CV, targets_C, reduction="none"))
        targets.append(targets_C)
    return torch.cat(losses), torch.cat(targets)


def target_logits(model: Model, batch: TextBatch | Seq2SeqBatch) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (C, V) in float32 and targets (C,) of a batch's real targets, a few rows at a time, in reading order."""
    hidden_BTD = model(batch).hidden
    targets_BT = batch.target.targets_BT if isinstance(batch, Seq2SeqBatch) else batch.targets_BT
    keep_BT = targets_BT != IGNORE
    hidden_RD, targets_R = hidden_BTD[keep_BT], targets_BT[keep_BT]
    rows = max(1, CHUNK_LOGITS // int(model.head.weight.shape[0]))
    for hidden_CD, targets_C in zip(hidden_RD.split(rows), targets_R.split(rows), strict=True):
        yield model.head(hidden_CD).float(), targets_C


def count_words(texts: Iterable[bytes]) -> int:
    """Whitespace-separated words of UTF-8 texts, by Unicode's whitespace."""
    return sum(len(text.decode("utf-8").split()) for text in texts)


def documents_within(token_set: StoredText, max_tokens: int) -> int:
    """How many documents, from the first on, have at most this many tokens together; at least one."""
    count = int(np.searchsorted(token_set.starts[1:] - token_set.starts[0], max_tokens, side="right"))
    return max(1, count)


def scaled(interval: tuple[float, float] | None, divisor: float) -> tuple[float, float] | None:
    """The interval of a number divided by a constant."""
    return None if interval is None else (interval[0] / divisor, interval[1] / divisor)


def perplexity_metric(
    name: str, nats: float, per: str, n: int, interval: tuple[float, float] | None, convention: str = ""
) -> Metric:
    """exp(nats / n), with the exponentials of an interval of nats / n."""
    ends = None if interval is None else (_exp(interval[0]), _exp(interval[1]))
    return Metric(name, _exp(nats / n), f"per {per}", n, ends, convention)


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf  # beyond that a float overflows
