"""A Corestone model as a model of EleutherAI's lm-eval, so that its task list runs on one.

The only module that needs the extra: `pip install 'corestone[eval]'`. `corestone evaluate RUN --task lm-eval:NAME` uses
it; so can a script: `lm_eval.simple_evaluate(model=CorestoneLM(model, tokenizer, context_length, 16), tasks=[...])`.

Conventions, where lm-eval leaves them to the model: every text begins behind the separator, as documents do while
training; a row that is too long keeps its *last* tokens; a text that spells the separator is text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import LM
from numpy.typing import NDArray

from corestone.core.protocols import Model
from corestone.core.spec import parse
from corestone.data.tokenizer import Tokenizer
from corestone.evaluate.score import Score, pair_tokens, score_rows, windows
from corestone.generate.spec import Sampling
from corestone.generate.text import generate_text

DEFAULT_TOKENS = 256
"""New tokens where a task names no limit, as lm-eval's own models have it."""

LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names that tasks use for the limit; the first one given counts."""


class CorestoneLM(LM):  # type: ignore[misc]  # the library has no types
    """Answers lm-eval's three kinds of request.

    Args:
        model: a causal model, in evaluation mode or not.
        context_length: the most tokens of a row.
        batch_size: rows at a time; changes the speed alone.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, context_length: int, batch_size: int) -> None:
        super().__init__()
        self.model, self.tokenizer, self.context_length, self.rows = model, tokenizer, context_length, batch_size

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Per (context, continuation): log-probability of the continuation, and whether greedy decoding gives it."""
        pairs = [pair_tokens(self.tokenizer, *request.args) for request in requests]
        scores = self._scores(pairs)
        found = [(-_nats(parts), all(bool(part.likeliest.all()) for part in parts)) for parts in scores]
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Per (text,): log-probability of all of it, in rows that share one token."""
        separator = self.tokenizer.manifest.separator
        streams = [np.array([separator, *self.tokenizer.encode(request.args[0])]) for request in requests]
        found = [-_nats(parts) for parts in self._scores([(stream, len(stream) - 1) for stream in streams])]
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Per (context, settings): the new text, cut before the first of `until`; greedy unless the task samples."""
        groups: dict[Sampling, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(_sampling(request.args[1]), []).append(place)
        found: dict[int, str] = {}
        for sampling, places in groups.items():
            for first in range(0, len(places), self.rows):
                some = places[first : first + self.rows]
                texts = self._continue([requests[place].args[0] for place in some], sampling)
                found.update(zip(some, texts, strict=True))
        answers = [found[place] for place in range(len(requests))]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, answer)
        return answers

    def _scores(self, texts: Sequence[tuple[NDArray[np.int64], int]]) -> list[list[Score]]:
        """Per text, given as tokens of which the last ones count: the scores of its rows."""
        length = self.context_length
        rows = [list(windows(tokens, scored, length, length)) for tokens, scored in texts]
        scores = iter(score_rows(self.model, [row for parts in rows for row in parts], self.rows))
        return [[next(scores) for _ in parts] for parts in rows]

    def _continue(self, contexts: Sequence[str], sampling: Sampling) -> list[str]:
        room = max(self.context_length - sampling.max_tokens, self.context_length // 2)
        return generate_text(self.model, _LastTokens(self.tokenizer, room - 1), contexts, sampling)


class _LastTokens:
    """A tokenizer that keeps the last tokens of a text."""

    def __init__(self, tokenizer: Tokenizer, most: int) -> None:
        self.tokenizer, self.most = tokenizer, most
        self.vocabulary = tokenizer.vocabulary
        self.token_bytes = tokenizer.token_bytes

    def encode(self, text: str) -> Sequence[int]:
        ids = self.tokenizer.encode(text)
        return ids[max(0, len(ids) - self.most) :]


def _nats(parts: Sequence[Score]) -> float:
    return sum(float(part.nats.sum()) for part in parts)


def _sampling(settings: Mapping[str, Any]) -> Sampling:
    """lm-eval's settings as ours; those of other libraries' samplers that have no counterpart here are left out."""
    until = settings.get("until") or []
    limit = next((settings[name] for name in LIMITS if settings.get(name) is not None), DEFAULT_TOKENS)
    temperature = float(settings.get("temperature") or 0.0)
    if settings.get("do_sample") and not temperature:
        temperature = 1.0
    sampled = settings.get("do_sample", temperature > 0)
    tree = {
        "temperature": temperature if sampled else 0.0,
        "top_k": settings.get("top_k") or None,
        "top_p": settings.get("top_p"),
        "repetition_penalty": settings.get("repetition_penalty", 1.0),
        "max_tokens": limit,
        "stop": tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop),
    }
    return parse(Sampling, tree, "lm-eval's generation settings")
