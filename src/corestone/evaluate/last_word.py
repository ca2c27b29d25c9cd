"""The last word of a passage (LAMBADA, Paperno et al. 2016): accuracy and perplexity, without and with examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from corestone.core.errors import DataError
from corestone.core.metric import Metric
from corestone.core.protocols import Model
from corestone.core.rng import fold
from corestone.data.tokenizer import Tokenizer
from corestone.evaluate.intervals import add_to_blocks, block_starts, proportion_interval, ratio_interval
from corestone.evaluate.perplexity import perplexity_metric
from corestone.evaluate.score import pair_tokens, score_rows, windows

BLANK = " ____. →"
FEWEST_WORDS = 50
"""Words of a passage made here, as many as LAMBADA's have at least (Paperno et al. 2016, section 3.1)."""
SHORTEST_WORD = 4
"""Letters of a last word made here: shorter ones are mostly grammar."""


@dataclass(frozen=True)
class Passage:
    """What is read, and the word that ends it."""

    context: str
    word: str


class LastWord:
    """Scores the last word of passages. Satisfies `core.protocols.Evaluator`.

    The target is a space and the word. A passage is a hit where *every* token of the target is the likeliest one
    behind the tokens before it (teacher forcing, as lm-eval counts). With examples, passages take the fill-in-the-blank
    form of GPT-3 (Brown et al. 2020, section 3.1.2), each behind other passages of the same file with their words,
    drawn by the passage's number alone.

    Args:
        variant: which text this is, for the convention.
        shots: examples before each passage.
        batch_size: rows at a time; changes the speed alone.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        passages: Sequence[Passage],
        variant: str,
        shots: int,
        context_length: int,
        batch_size: int,
    ) -> None:
        if shots >= len(passages):
            raise DataError(f"evaluation: {shots} examples out of {len(passages)} passages; ask for fewer with --shots")
        self.batch_size, self.documents = batch_size, len(passages)
        self.rows, self.parts, self.cut = [], [], 0
        for number in range(len(passages)):
            stream, scored = pair_tokens(tokenizer, prompt(passages, number, shots), f" {passages[number].word}")
            rows = list(windows(stream, scored, context_length, context_length))
            self.cut += len(stream) - 1 > context_length
            self.parts.append(len(rows))
            self.rows += rows
        form = f"{shots} examples, fill-in-the-blank form of GPT-3" if shots else "zero-shot, plain text"
        self.convention = f"{variant}; {form}; no stop-word filter"
        if self.cut:
            self.convention += f"; {self.cut:,} of the texts kept only their last {context_length:,} tokens"

    def run(self, model: Model) -> Iterator[Metric]:
        """Yield `last_word_accuracy` (every token right) and `last_word_perplexity`."""
        scores = iter(score_rows(model, self.rows, self.batch_size))
        n = len(self.parts)
        nats, hits = np.zeros(n), 0
        for number, parts in enumerate(self.parts):
            mine = [next(scores) for _ in range(parts)]
            nats[number] = sum(float(score.nats.sum()) for score in mine)
            hits += all(score.likeliest.all() for score in mine)
        low, high = proportion_interval(hits, n)
        said = f"every token of the word is the likeliest; {self.convention}"
        yield Metric("last_word_accuracy", 100 * hits / n, "%", n, (100 * low, 100 * high), said)
        starts = block_starts(np.ones(n, dtype=np.int64), 1)
        sums = np.zeros(len(starts))
        add_to_blocks(sums, starts, 0, nats)
        interval = ratio_interval(sums, np.diff(np.append(starts, n)).astype(np.float64))
        said = f"exp(mean nats of a whole word); {self.convention}"
        yield perplexity_metric("last_word_perplexity", float(nats.sum()), "word", n, interval, said)


def prompt(passages: Sequence[Passage], number: int, shots: int) -> str:
    """What stands before a passage's last word: its context, or examples and its context with a blank."""
    if not shots:
        return passages[number].context
    draw = np.random.Generator(np.random.PCG64(fold(0, "examples", number)))
    others = draw.choice(len(passages) - 1, size=shots, replace=False)
    shown = [passages[other + (other >= number)] for other in others]  # never the passage itself
    return "".join(f"{p.context}{BLANK} {p.word}\n\n" for p in shown) + passages[number].context + BLANK


def made_passages(texts: Iterable[str]) -> list[Passage]:
    """LAMBADA-like passages out of any texts: at least 50 words of whole sentences, whose last word (four letters or
    more, punctuation left out) stands in an earlier sentence too.

    Passages do not overlap, and nobody checked that a reader could guess the word: numbers are comparable between
    models on the same texts, not with LAMBADA's.
    """
    return [passage for text in texts for passage in _passages_of(text)]


def _passages_of(text: str) -> Iterator[Passage]:
    ends = [match.end() for match in re.finditer(r"[.!?][\"'”’)*_]*(?=\s)", text)]
    begins = [0, *ends][: len(ends)]
    words = [len(text[begin:end].split()) for begin, end in zip(begins, ends, strict=True)]
    free = 0  # the first sentence that no passage has
    for sentence, end in enumerate(ends):
        first, count = sentence, words[sentence]
        while count < FEWEST_WORDS and first > free:
            first -= 1
            count += words[first]
        last = re.search(r"(?<=\S) ([^\W\d_]+)[^\w\s]*$", text[begins[sentence] : end])
        if count < FEWEST_WORDS or last is None or len(last[1]) < SHORTEST_WORD:
            continue
        before = text[begins[first] : begins[sentence]]
        if re.search(rf"\b{last[1]}\b", before, re.IGNORECASE):
            yield Passage(text[begins[first] : begins[sentence] + last.start()].strip(), last[1])
            free = sentence + 1
