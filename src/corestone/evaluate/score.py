"""The likelihood of chosen tokens behind their contexts: what rolling perplexity, last words and lm-eval all ask for.

Rows that are too long keep their *last* tokens. Where the vocabulary is padded, the padding counts in the softmax: that
is the probability the model really gives.

Shape letters: B batch, T tokens, S source, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from corestone.core.batch import IGNORE, Seq2SeqBatch, TextBatch, plain_batch
from corestone.core.errors import DataError
from corestone.core.protocols import Model
from corestone.data.tokenizer import Tokenizer
from corestone.evaluate.perplexity import Scorer, target_logits
from corestone.generate.source import beside, source_batch
from corestone.nn.modes import evaluation_mode


@dataclass(frozen=True)
class Row:
    """Tokens of which the last `scored` are predicted, each from all that stand before it; `scored` < len(tokens).

    Attributes:
        source: what an encoder reads beside them, its end included; in a batch all rows have one or none has.
    """

    tokens: NDArray[np.int64]
    scored: int
    source: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Score:
    """Per scored token: its loss in nats, and whether the model finds no other token more likely."""

    nats: NDArray[np.float64]
    likeliest: NDArray[np.bool_]


def score_rows(model: Model, rows: Sequence[Row], batch_size: int) -> list[Score]:
    """Score rows, in the order given.

    Rows of like length share a batch and are filled up on the right, where no causal model looks. Neither that nor the
    batch size changes a result, apart from the rounding of float sums.
    """
    device = next(iter(model.named_parameters()))[1].device
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number].tokens))
    found: dict[int, Score] = {}
    with evaluation_mode(model), torch.inference_mode():
        for first in range(0, len(order), batch_size):
            numbers = order[first : first + batch_size]
            some = [rows[number] for number in numbers]
            nats, likeliest = _scores(model, _with_sources(some, _filled_up(some)).to(device))
            ends = np.cumsum([rows[number].scored for number in numbers])[:-1]
            parts = zip(numbers, np.split(nats, ends), np.split(likeliest, ends), strict=True)
            for number, own_nats, own_hits in parts:
                found[number] = Score(own_nats, own_hits)
    return [found[number] for number in range(len(rows))]


def score_in_order(model: Model, rows: Sequence[Row], score: Scorer) -> NDArray[np.float64]:
    """The losses (nats) of all rows' scored tokens by another scorer, which is given one row after the other."""
    device = next(iter(model.named_parameters()))[1].device
    with evaluation_mode(model):
        return np.concatenate([score(model, _filled_up([row]).to(device))[0].double().cpu().numpy() for row in rows])


def windows(tokens: NDArray[np.int64], scored: int, context_length: int, stride: int) -> Iterator[Row]:
    """Rows of at most `context_length` inputs that together predict the last `scored` of some tokens, each once.

    The first row predicts as many as fit. Each further one predicts the next `stride`, from as many tokens before them
    as fit: with `stride == context_length` rows share one token (lm-eval's rolling likelihood), a smaller stride
    overlaps them (Megatron's takes 32), and 1 gives every token the longest context.

    Raises:
        DataError: a stride outside 1 to context_length.
    """
    if not 1 <= stride <= context_length:
        raise DataError(f"stride: {stride} is not within 1 and the context of {context_length} tokens; choose another")
    begin, total = len(tokens) - 1 - scored, len(tokens) - 1
    end = min(total, begin + context_length)
    while begin < end:
        yield Row(tokens[max(0, end - context_length) : end + 1], end - begin)
        begin, end = end, min(total, end + stride)


def pair_tokens(
    tokenizer: Tokenizer, context: str, continuation: str, begin: bool = True
) -> tuple[NDArray[np.int64], int]:
    """The separator, a context and its continuation as tokens, and how many of the last ones are the continuation's.

    Spaces at the end of the context count to the continuation, as lm-eval has it. Where a token would reach across
    the border, the two are encoded apart, so that a context's tokens never depend on what follows.

    Args:
        begin: put the separator before a context, as before documents while training; an empty one always has it.
    """
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    before, whole = list(tokenizer.encode(kept)), list(tokenizer.encode(kept + continuation))
    if len(whole) <= len(before) or whole[: len(before)] != before:
        whole = before + list(tokenizer.encode(continuation))
    lead = [tokenizer.manifest.separator] if begin or not before else []
    return np.array([*lead, *whole], dtype=np.int64), len(whole) - len(before)


def _filled_up(rows: Sequence[Row]) -> TextBatch:
    T = max(len(row.tokens) for row in rows) - 1
    tokens_BT = torch.zeros(len(rows), T, dtype=torch.int64)
    targets_BT = torch.full((len(rows), T), IGNORE)
    for place, row in enumerate(rows):
        stop = len(row.tokens) - 1
        stream = torch.from_numpy(row.tokens)
        tokens_BT[place, :stop] = stream[:-1]
        targets_BT[place, stop - row.scored : stop] = stream[-row.scored :]
    return plain_batch(tokens_BT, targets_BT)


def _with_sources(rows: Sequence[Row], batch: TextBatch) -> TextBatch | Seq2SeqBatch:
    """The batch beside what the rows' encoder reads, if anything."""
    sources = [row.source for row in rows if row.source is not None]
    if not sources:
        return batch
    read = source_batch(sources)
    return Seq2SeqBatch(read, beside(batch, read.mask.segments_BT))


def _scores(model: Model, batch: TextBatch | Seq2SeqBatch) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Losses and hits of a batch's real targets, in reading order."""
    nats, likeliest = [], []
    for logits_CV, targets_C in target_logits(model, batch):
        nats.append(F.cross_entropy(logits_CV, targets_C, reduction="none").double())
        likeliest.append(logits_CV.argmax(dim=-1) == targets_C)
    return torch.cat(nats).cpu().numpy(), torch.cat(likeliest).cpu().numpy()
