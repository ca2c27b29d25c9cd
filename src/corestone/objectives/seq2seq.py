"""Objectives of encoder-decoders: from each piece of text a source to read and a target to write.

A piece is what a row holds of one document. Several pieces share a row on both sides, each a segment of its own, so
that nothing is filled up but the ends of rows.

Shape letters: B batch, T tokens, S source.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corestone.core.batch import IGNORE, Seq2SeqBatch, TextBatch
from corestone.core.mask import Mask
from corestone.core.protocols import Loss, RowSums
from corestone.core.rng import Draws
from corestone.core.vocabulary import Vocabulary
from corestone.nn.cross_entropy import linear_cross_entropy
from corestone.objectives.scores import target_scores
from corestone.objectives.spec import Continuation, Denoising, SpanCorruption

Ids = NDArray[np.int64]
Uniform = NDArray[np.float32]
Pair = tuple[Ids, Ids]

FILLED_UP = -1
"""Segment of what fills up a row."""


class Seq2SeqObjective(ABC):
    """Cross-entropy of every target token, summed. What source and target are is a subclass's `pair`.

    Sources and targets end with the separator; the decoder begins with the padding token (Raffel et al. 2020, code), or
    the separator where there is none.
    """

    reduction = "additive"
    asks = True

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.start = vocabulary.start

    @abstractmethod
    def pair(self, tokens: Ids, uniform: Uniform) -> Pair | None:
        """Source and target of a piece, without their ends; None where it is too short for both.

        Args:
            tokens: of the piece, separators left out.
            uniform: (3, tokens) numbers in [0, 1).
        """

    @abstractmethod
    def target_share(self, tokens: int) -> tuple[float, float]:
        """Tokens of source and target per token of pieces of so many tokens."""

    def corrupt(self, batch: TextBatch, draws: Draws) -> Seq2SeqBatch:
        """Cut rows into pieces, make a pair of each, and pack the pairs."""
        B, T = batch.tokens_BT.shape
        uniform_B3T = draws.uniform(3, T).numpy()
        tokens_BT, real_BT = batch.tokens_BT.numpy(), (batch.targets_BT != IGNORE).numpy()
        text_BT = real_BT & (tokens_BT != self.vocabulary.separator)
        segments_BT = np.zeros((B, T)) if batch.mask.segments_BT is None else batch.mask.segments_BT.numpy()
        rows: list[list[Pair]] = []
        for tokens, text, segments, uniform in zip(tokens_BT, text_BT, segments_BT, uniform_B3T, strict=True):
            edges = [0, *(np.flatnonzero(np.diff(segments)) + 1).tolist(), T]
            made = []
            for start, stop in pairwise(edges):
                inside = np.flatnonzero(text[start:stop]) + start
                pair = self.pair(tokens[inside], uniform[:, inside])
                if pair is not None:
                    made.append(pair)
            rows.append(made)
        return packed(rows, self.vocabulary.separator, self.start)

    def loss(self, model: Any, batch: Seq2SeqBatch) -> Loss:
        """Nats summed over target tokens; weight = their number."""
        hidden, targets_BT = model(batch).hidden, batch.target.targets_BT
        total, _ = linear_cross_entropy(hidden.flatten(0, -2), model.head, targets_BT.flatten())
        return Loss(total=total, weight=(targets_BT != IGNORE).sum())

    def scores(self, model: Any, batch: Seq2SeqBatch) -> dict[str, RowSums]:
        """Nats and accuracy over target tokens."""
        return target_scores(model.head, model(batch).hidden, batch.target.targets_BT)

    def questions(self, before: TextBatch, batch: Seq2SeqBatch) -> tuple[Tensor, Tensor]:
        """What the decoder is given at each place, and what it should write."""
        return batch.target.tokens_BT, batch.target.targets_BT

    def training_flops(self, model: Any, tokens: int) -> float:
        """By the lengths of source and target that a piece of a whole row has."""
        source, target = (max(1, round(share * tokens)) for share in self.target_share(tokens))
        flops: float = model.training_flops(source, target) / tokens
        return flops


class SpanCorruptionObjective(Seq2SeqObjective):
    """Spans are cut out; a sentinel stands for each in the source, and before each in the target.

    (Raffel et al. 2020, section 3.1.4.) The target ends with the separator, as in their code; the paper draws one more
    sentinel there.
    """

    def __init__(self, spec: SpanCorruption, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self.spec = spec
        vocabulary.require_sentinels(1, f"objective {spec.kind}")

    def pair(self, tokens: Ids, uniform: Uniform) -> Pair | None:
        """Kept and cut spans take turns, the first is kept, the last is cut."""
        if len(tokens) < 2:
            return None
        kept, cut = span_lengths(len(tokens), self.spec.rate, self.spec.mean_span, uniform[:2])
        sentinels = self.vocabulary.require_sentinels(len(cut), f"objective {self.spec.kind}")
        source, target, place = [], [], 0
        for sentinel, keep, drop in zip(sentinels, kept, cut, strict=True):
            mark = np.array([sentinel])
            source += [tokens[place : place + keep], mark]
            target += [mark, tokens[place + keep : place + keep + drop]]
            place += keep + drop
        return np.concatenate(source), np.concatenate(target)

    def target_share(self, tokens: int) -> tuple[float, float]:
        """One sentinel per span on both sides."""
        spans = self.spec.rate / self.spec.mean_span
        return 1 - self.spec.rate + spans, self.spec.rate + spans


class DenoisingObjective(Seq2SeqObjective):
    """Spans of Poisson lengths are dropped without a trace, and the whole text is to be written (Soltan et al. 2022,
    section 3.1)."""

    def __init__(self, spec: Denoising, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self.spec = spec

    def pair(self, tokens: Ids, uniform: Uniform) -> Pair | None:
        """What is left, and all of the text."""
        if len(tokens) < 2:
            return None
        lengths = poisson_lengths(tokens_cut(len(tokens), self.spec.rate), self.spec.mean_span, uniform[0])
        return tokens[~scattered(len(tokens), lengths, uniform[1])], tokens

    def target_share(self, tokens: int) -> tuple[float, float]:
        """All but the dropped, and all."""
        return 1 - self.spec.rate, 1.0


class ContinuationObjective(Seq2SeqObjective):
    """The beginning of a text is read, the rest is to be written (Raffel et al. 2020, section 3.3.1, prefix language
    modelling; Soltan et al. 2022, section 3.1, with 20 to 80 % read)."""

    def __init__(self, spec: Continuation, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self.spec = spec

    def pair(self, tokens: Ids, uniform: Uniform) -> Pair | None:
        """Cut at a place drawn evenly between the two shares."""
        if len(tokens) < 2:
            return None
        share = self.spec.least + (self.spec.most - self.spec.least) * float(uniform[0, 0])
        cut = min(len(tokens) - 1, max(1, round(share * len(tokens))))
        return tokens[:cut], tokens[cut:]

    def target_share(self, tokens: int) -> tuple[float, float]:
        """On average half of the span between the shares."""
        read = (self.spec.least + self.spec.most) / 2
        return read, 1 - read


def tokens_cut(tokens: int, rate: float) -> int:
    """Tokens that a text of at least two loses: its `rate`, rounded, but at least one and not all."""
    return min(max(1, round(tokens * rate)), tokens - 1)


def span_lengths(tokens: int, rate: float, mean_span: float, uniform: Uniform) -> tuple[Ids, Ids]:
    """Lengths of the kept and of the cut spans of a text, equally many, at least one token each: the text's `rate`,
    rounded, is cut in spans of `mean_span` tokens on average, and all ways to part both are equally likely (Raffel et
    al. 2020, code)."""
    cut = tokens_cut(tokens, rate)
    spans = min(max(1, round(cut / mean_span)), cut, tokens - cut)
    return _parts(tokens - cut, spans, uniform[0]), _parts(cut, spans, uniform[1])


def _parts(total: int, count: int, uniform: Uniform) -> Ids:
    """`total` as an ordered sum of `count` positive numbers, by the places of the smallest draws."""
    borders = np.sort(np.argsort(uniform[: total - 1], kind="stable")[: count - 1]) + 1
    return np.diff(np.concatenate([[0], borders, [total]])).astype(np.int64)


def poisson_lengths(total: int, mean: float, uniform: Uniform) -> Ids:
    """Lengths drawn from a Poisson distribution until they make up `total` tokens, the last one cut short for it (Lewis
    et al. 2020, code); those of no tokens are left out.

    Args:
        uniform: at least `total` numbers in [0, 1).
    """
    length = np.arange(1, total + 1)
    share = np.exp(length * np.log(mean) - mean - np.cumsum(np.log(length)))
    up_to = np.cumsum(share) / -np.expm1(-mean)  # of lengths of at least one; those beyond `total` are cut anyway
    drawn = 1 + np.searchsorted(up_to, uniform[:total], side="right")
    sums = np.cumsum(drawn)
    spans = int(np.searchsorted(sums, total)) + 1
    drawn[spans - 1] -= sums[spans - 1] - total
    return drawn[:spans].astype(np.int64)


def scattered(tokens: int, lengths: Ids, uniform: Uniform) -> NDArray[np.bool_]:
    """Which of the tokens are in spans of these lengths: all ways to strew them, in any order, among the others are
    equally likely; spans may touch.

    Args:
        uniform: at least as many numbers in [0, 1) as there are spans and tokens outside them.
    """
    spans = len(lengths)
    places = tokens - int(lengths.sum()) + spans  # a token outside or a whole span each
    chosen = np.argsort(uniform[:places], kind="stable")[:spans]
    sizes = np.ones(places, dtype=np.int64)
    sizes[chosen] = lengths
    inside = np.zeros(places, dtype=np.bool_)
    inside[chosen] = True
    return np.repeat(inside, sizes)


def packed(rows: Sequence[Sequence[Pair]], separator: int, start: int) -> Seq2SeqBatch:
    """Rows of pairs as a batch: pair n of a row is segment n on both sides, and positions restart in each.

    Where every row is one pair and nothing is filled up there are no segments: kernels are faster without.
    """
    end = np.array([separator])
    sources = [[np.concatenate([source, end]) for source, _ in row] for row in rows]
    targets = [[np.concatenate([target, end]) for _, target in row] for row in rows]
    shifted = [[np.concatenate([[start], target[:-1]]) for target in row] for row in targets]
    shapes = [{tuple(map(len, row)) for row in side} for side in (sources, targets)]
    whole = all(len(lengths) == 1 and len(min(lengths)) == 1 for lengths in shapes)
    seen = None if whole else _segments(sources)
    read_BS = _filled(sources, start)
    read = TextBatch(
        tokens_BT=read_BS,
        targets_BT=torch.full_like(read_BS, IGNORE),
        positions_BT=_positions(sources),
        mask=Mask(causal=False, segments_BT=seen),
    )
    written = TextBatch(
        tokens_BT=_filled(shifted, start),
        targets_BT=_filled(targets, IGNORE),
        positions_BT=_positions(targets),
        mask=Mask(segments_BT=None if whole else _segments(targets), sources_BS=seen),
    )
    return Seq2SeqBatch(read, written)


def _segments(rows: Sequence[Sequence[Ids]]) -> Tensor:
    return _filled([[np.full(len(piece), n) for n, piece in enumerate(row)] for row in rows], FILLED_UP).int()


def _positions(rows: Sequence[Sequence[Ids]]) -> Tensor:
    return _filled([[np.arange(len(piece)) for piece in row] for row in rows], 0)


def _filled(rows: Sequence[Sequence[Ids]], value: int) -> Tensor:
    """Rows of pieces as a matrix as wide as the longest, at least 1."""
    whole = [np.concatenate(row) if row else np.empty(0, np.int64) for row in rows]
    out = np.full((len(rows), max([1, *(len(row) for row in whole)])), value, dtype=np.int64)
    for place, row in enumerate(whole):
        out[place, : len(row)] = row
    return torch.from_numpy(out)
