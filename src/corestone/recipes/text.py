"""Runs on text: their data, opened, and how held-out text is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corestone.core.batch import TextBatch
from corestone.core.errors import SpecError
from corestone.core.format import si
from corestone.core.protocols import Evaluator
from corestone.core.vocabulary import Vocabulary
from corestone.data.cache import cache_dir
from corestone.data.loader import TextLoader, shuffled_once
from corestone.data.packing import evaluation_batches
from corestone.data.prepare.pipeline import Progress, prepare_data
from corestone.data.sources import card
from corestone.data.spec import Data
from corestone.data.tokenizer import Tokenizer
from corestone.data.tokens import TokenSet, open_token_set
from corestone.evaluate.floors import document_texts, floors_seconds
from corestone.evaluate.objective import ObjectiveScore
from corestone.evaluate.perplexity import Scorer, TextPerplexity, count_words, documents_within
from corestone.generate.text import generate_text
from corestone.parallel.collectives import World
from corestone.plan.ending import Ending
from corestone.recipes.spec import Run

FLOOR_TOKENS = 50_000_000
"""Training tokens, from the first, whose frequencies guesses at an objective's questions use."""
GUESSED_TOKEN_SECONDS = 0.2e-6
"""What such a guess takes on one core for each token of the training side and the held-out one, measured."""


@dataclass(frozen=True)
class TextData:
    """A run's tokenizer and prepared sets, one of each split per component. Satisfies `recipes.run_data.RunData`."""

    spec: Data
    tokenizer: Tokenizer
    folders: list[Path]
    train: list[TokenSet]
    validation: list[TokenSet]

    unit, more_is_better = "tokens", False

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The tokenizer's."""
        return self.tokenizer.vocabulary

    def check(self, model: Any) -> None:
        """Refuse a model that cannot hold the tokenizer's ids or the data's rows."""
        rows, needed = model.vocab_size, self.tokenizer.manifest.vocab_size
        if rows < needed:
            raise SpecError(
                f"model: its vocabulary has {rows} entries, the tokenizer needs {needed}; set the model's "
                f"vocab_size={self.tokenizer.manifest.padded_vocab_size} (a multiple of 64 computes fastest)"
            )
        if model.context_length < self.spec.context_length:
            raise SpecError(
                f"data.context_length: {self.spec.context_length} tokens do not fit a model of context_length "
                f"{model.context_length}"
            )

    def batch(self, run: Run) -> tuple[int, int]:
        """Samples and tokens of one step over all ranks."""
        return batch_examples(run), run.training.batch_tokens or 0

    def row_tokens(self) -> int:
        """Tokens of a sample."""
        return self.spec.context_length

    def loader(self, run: Run, rows: int, world: World) -> TextLoader:
        """Batches of the training side."""
        return TextLoader(self.train, self.spec, run.seed, rows, world.rank, world.size)

    def files(self) -> dict[str, str]:
        """The tokenizer."""
        return self.tokenizer.files()

    def described(self) -> list[dict[str, Any]]:
        """Of each component its card and its manifest."""
        return [
            {"card": card(component.source), "manifest": json.loads((path / "manifest.json").read_text("utf-8"))}
            for component, path in zip(self.spec.components, self.folders, strict=True)
        ]

    def summary(self) -> str:
        """Tokens, documents, vocabulary."""
        tokens = sum(token_set.n_tokens for token_set in self.train)
        documents = sum(token_set.n_documents for token_set in self.train)
        table = self.tokenizer.manifest
        return (
            f"{si(tokens, 'tokens')} in {documents:,} documents, vocabulary {table.vocab_size:,}, "
            f"{table.bytes_per_token or 0:.2f} bytes/token"
        )

    def held_out(self, run: Run, objective: Any) -> Evaluator:
        """The beginning of the first component's held-out text."""
        reading = Reading(self.spec.context_length, self.spec.keep_documents_apart, run.evaluation.batch_size)
        tokens = run.evaluation.tokens_while_training
        return scorer(objective, self.validation[0], self.tokenizer, reading, tokens)

    def held_out_units(self, run: Run, objective: Any) -> int:
        """Tokens of whole documents, or of rows where the objective asks questions of its own, as in `scorer`."""
        held_out, bound, T = self.validation[0], run.evaluation.tokens_while_training, self.spec.context_length
        if objective.asks:
            return max(T, min(bound, held_out.n_tokens) // T * T)
        return int(held_out.starts[documents_within(held_out, bound)] - held_out.starts[0])

    def ending(self, run: Run, objective: Any) -> Ending:
        """All held-out tokens; floors of the text, or guesses at the objective's questions."""
        held_out = sum(token_set.n_tokens for token_set in self.validation)
        known = [token_set.n_tokens for token_set in self.train]
        if objective.asks:
            seconds = GUESSED_TOKEN_SECONDS * (held_out + sum(min(FLOOR_TOKENS, tokens) for tokens in known))
        elif self.tokenizer.lossless:
            seconds = sum(
                floors_seconds(int(asked.document_bytes.sum()), int(seen.document_bytes.sum()))
                for asked, seen in zip(self.validation, self.train, strict=True)
            )
        else:
            seconds = 0.0
        return Ending(held_out, seconds=seconds)

    def samples(self, run: Run, model: Any) -> list[tuple[str, str]]:
        """The recipe's prompts, continued."""
        prompts = list(run.samples.prompts)
        if not prompts or model.generates == "nothing":
            return []
        return list(zip(prompts, generate_text(model, self.tokenizer, prompts, run.samples.sampling), strict=True))


def open_text(run: Run, world: World, progress: Progress | None = None) -> TextData:
    """Prepare what is not prepared yet (the main rank does) and open it. SpecError for a run on pictures."""
    spec, cache = text_of(run), cache_dir()
    if world.is_main:
        tokenizer, folders = prepare_data(spec, cache, workers=0, progress=progress)
    world.barrier()
    if not world.is_main:
        tokenizer, folders = prepare_data(spec, cache, workers=0, progress=None)
    return TextData(
        spec=spec,
        tokenizer=tokenizer,
        folders=folders,
        train=[open_token_set(folder, "train") for folder in folders],
        validation=[open_token_set(folder, "validation") for folder in folders],
    )


def text_of(run: Run) -> Data:
    """The run's data record; SpecError where it is of another kind than text."""
    if not isinstance(run.data, Data):
        raise SpecError(f"{run.name}: learns from {run.data.kind}; what was asked needs a run on text")
    return run.data


def batch_examples(run: Run) -> int:
    """Samples of one step over all ranks."""
    tokens, context = run.training.batch_tokens, text_of(run).context_length
    if tokens is None:
        raise SpecError("training: a run on text counts in tokens: set batch_tokens in place of batch_examples")
    if tokens % context:
        raise SpecError(
            f"training.batch_tokens: {tokens} is no multiple of data.context_length ({context}); "
            f"the nearest are {tokens // context * context or context} and {(tokens // context + 1) * context}"
        )
    return tokens // context


@dataclass(frozen=True)
class Reading:
    """How a model reads text to be scored: tokens at a time, whether documents are kept apart, rows at a time."""

    context_length: int
    apart: bool
    batch_size: int

    def batches(self, token_set: TokenSet) -> Callable[[int], Iterator[TextBatch]]:
        """The whole split in order, for a batch size."""
        return lambda size: evaluation_batches(token_set, self.context_length, size, self.apart)

    def shuffled(self, token_set: TokenSet) -> Callable[[int], Iterator[TextBatch]]:
        """Whole rows in one fixed random order, for a batch size."""
        return lambda size: shuffled_once(token_set, self.context_length, self.apart, size)

    @property
    def convention(self) -> str:
        """How text is read, in words."""
        documents = "documents apart" if self.apart else "documents one after the other"
        return f"{documents}, in rows of {self.context_length:,} tokens without overlap"


def scorer(
    objective: Any,
    token_set: TokenSet,
    tokenizer: Tokenizer,
    reading: Reading,
    tokens: int | None = None,
    score: Scorer | None = None,
) -> Evaluator:
    """A scorer of a prepared split, or of its beginning of at most so many tokens: whole documents of it where every
    next token is scored, rows where the objective asks questions of its own."""
    if objective.asks:
        rows = None if tokens is None else max(1, tokens // reading.context_length)
        return ObjectiveScore(objective, reading.shuffled(token_set), reading.batch_size, rows, reading.convention)
    batches, batch_size = reading.batches(token_set), reading.batch_size
    documents = None if tokens is None else documents_within(token_set, tokens)
    words = count_words(document_texts(token_set, tokenizer, documents)) if tokenizer.lossless else None
    return TextPerplexity(token_set, batches, batch_size, words or None, documents, score, reading.convention)
