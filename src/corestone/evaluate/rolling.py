"""Perplexity of one long text by rolling windows, divided by what the field divides by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from corestone.core.errors import DataError
from corestone.core.metric import Metric
from corestone.core.protocols import Model
from corestone.data.tokenizer import Tokenizer
from corestone.evaluate.intervals import add_to_blocks, block_starts, ratio_interval
from corestone.evaluate.perplexity import BLOCK_TOKENS, Scorer, perplexity_metric, scaled
from corestone.evaluate.score import score_in_order, score_rows, windows


@dataclass(frozen=True)
class Corpus:
    """A text that is scored as a whole.

    Attributes:
        text: what the model reads.
        unit: what the total likelihood is divided by, besides the model's own tokens.
        units: how many of them the *original* file has.
        convention: how they were counted, and what was done to the text.
    """

    text: str
    unit: Literal["word", "character"]
    units: int
    convention: str


class RollingPerplexity:
    """Scores a corpus as one text behind a separator. Satisfies `core.protocols.Evaluator`.

    Every token of the text is predicted once (`score.windows`); the end of the text is not. The intervals (95 %) are
    block bootstraps over runs of 2,048 tokens (`intervals.block_starts`), with the units per token taken as given.

    Args:
        context_length: the most tokens a row may have.
        stride: new tokens per row after the first.
        batch_size: rows at a time; changes the speed alone.
        score: another way to score the rows, one after the other (`evaluate/dynamic.py`).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        corpus: Corpus,
        context_length: int,
        stride: int,
        batch_size: int,
        score: Scorer | None = None,
    ) -> None:
        ids = tokenizer.encode(corpus.text)
        if not len(ids) or corpus.units < 1:
            raise DataError("evaluation: the file holds no text; give another one")
        self.corpus, self.batch_size, self.score, self.documents = corpus, batch_size, score, 1
        stream = np.array([tokenizer.manifest.separator, *ids], dtype=np.int64)
        self.rows = list(windows(stream, len(ids), context_length, stride))
        self.reading = (
            f"the file is one text behind a separator, in rows of up to {context_length:,} tokens, "
            f"{stride:,} new ones in each after the first"
        )

    def run(self, model: Model) -> Iterator[Metric]:
        """Yield `word_perplexity` and `token_perplexity`, or `bits_per_character`."""
        if self.score is not None:
            nats = score_in_order(model, self.rows, self.score)
        else:
            nats = np.concatenate([score.nats for score in score_rows(model, self.rows, self.batch_size)])
        total, tokens, units = float(nats.sum()), len(nats), self.corpus.units
        starts = block_starts(np.array([tokens]), BLOCK_TOKENS)
        sums = np.zeros(len(starts))
        add_to_blocks(sums, starts, 0, nats)
        per_token = ratio_interval(sums, np.diff(np.append(starts, tokens)).astype(np.float64))
        per_unit = scaled(per_token, units / tokens)
        said = f"{self.corpus.convention}; {self.reading}"
        if self.corpus.unit == "character":
            bits = scaled(per_unit, math.log(2))
            yield Metric("bits_per_character", total / math.log(2) / units, "bits/character", units, bits, said)
            return
        yield perplexity_metric("word_perplexity", total, "word", units, per_unit, said)
        own = f"exp(nats / the model's own tokens), so it depends on the tokenizer; {self.reading}"
        yield perplexity_metric("token_perplexity", total, "token", tokens, per_token, own)
