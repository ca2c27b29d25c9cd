"""A Corestone model as a model of EleutherAI's lm-eval, so that its task list runs on one.

The only module that needs the extra: `pip install 'corestone[eval]'`. `corestone evaluate RUN --task lm-eval:NAME` uses
it; so can a script: `lm_eval.simple_evaluate(model=CorestoneLM(model, tokenizer, context_length, 16), tasks=[...])`.

Conventions are those of lm-eval's own `HFLM`, so that its numbers on the exported folder are the same ones: the
separator stands before a context where the tokenizer.json puts it there, and before an empty one; a row that is too
long keeps its *last* tokens; an encoder-decoder reads the context and writes the rest.

Three things differ, where `HFLM` scores or writes another text than the one asked for: a text that spells the separator
is text; where a token would reach across the border of context and continuation the two are encoded apart; an
encoder-decoder writes no more than the limit, whatever the length of what it reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import LM
from numpy.typing import NDArray

from corestone.core.spec import parse
from corestone.data.tokenizer import Tokenizer
from corestone.evaluate.score import Row, Score, pair_tokens, score_rows, windows
from corestone.generate.decode import check_writes
from corestone.generate.spec import Sampling
from corestone.generate.text import generate_text

DEFAULT_TOKENS = 256
"""New tokens where a task names no limit, as lm-eval's own models have it."""

Ids = Sequence[int] | NDArray[np.int64]

LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names that tasks use for the limit; the first one given counts."""


class CorestoneLM(LM):  # type: ignore[misc]  # the library has no types
    """Answers lm-eval's three kinds of request.

    Args:
        model: one that predicts next tokens or answers, in evaluation mode or not.
        context_length: the most tokens of a row, of an encoder-decoder on each side.
        batch_size: rows at a time; changes the speed alone.
        add_bos_token: put the separator before each context of a causal model, as before documents while training;
            None: as the tokenizer.json has it (lm-eval's own name and rule).

    Raises:
        SpecError: the model is an encoder.
    """

    def __init__(
        self, model: Any, tokenizer: Tokenizer, context_length: int, batch_size: int, add_bos_token: bool | None = None
    ) -> None:
        super().__init__()
        check_writes(model)
        self.model, self.tokenizer, self.context_length, self.rows = model, tokenizer, context_length, batch_size
        self.begin = tokenizer.begins_texts if add_bos_token is None else add_bos_token
        self.reads = model.generates == "answers"

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Per (context, continuation): log-probability of the continuation, and whether greedy decoding gives it."""
        scores = self._scores([self._pair(*request.args) for request in requests])
        found = [(-_nats(parts), all(bool(part.likeliest.all()) for part in parts)) for parts in scores]
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Per (text,): log-probability of all of it, in rows that share one token.

        An encoder-decoder reads what a row shares with the one before, at first the separator, and writes the others
        and the text's end.
        """
        found = [-_nats(parts) for parts in self._scores([self._rolling(request.args[0]) for request in requests])]
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

    def _pair(self, context: str, continuation: str) -> list[Row]:
        length = self.context_length
        if not self.reads:
            tokens, scored = pair_tokens(self.tokenizer, context, continuation, self.begin)
            return list(windows(tokens, scored, length, length))
        kept = context.rstrip()
        source = [*self.tokenizer.encode(kept), self.tokenizer.manifest.separator][-length:]
        answer = self.tokenizer.encode(context[len(kept) :] + continuation)
        return [self._answer(source, answer[place : place + length]) for place in range(0, len(answer), length)]

    def _rolling(self, text: str) -> list[Row]:
        length, separator = self.context_length, self.tokenizer.manifest.separator
        end = [separator] if self.reads else []
        stream = np.array([separator, *self.tokenizer.encode(text), *end])
        rows = windows(stream, len(stream) - 1, length, length)
        if not self.reads:
            return list(rows)
        return [self._answer(row.tokens[: -row.scored], row.tokens[-row.scored :]) for row in rows]

    def _answer(self, source: Ids, answer: Ids) -> Row:
        return Row(np.array([self.tokenizer.vocabulary.start, *answer]), len(answer), np.array(source))

    def _scores(self, texts: Sequence[Sequence[Row]]) -> list[list[Score]]:
        """The scores of each text's rows."""
        scores = iter(score_rows(self.model, [row for rows in texts for row in rows], self.rows))
        return [[next(scores) for _ in rows] for rows in texts]

    def _continue(self, contexts: Sequence[str], sampling: Sampling) -> list[str]:
        length, most = self.context_length, sampling.max_tokens
        room = length - 1 if self.reads else length - most if most < length else length // 2
        lead = [self.tokenizer.manifest.separator] if self.begin and not self.reads else []
        return generate_text(self.model, _LastTokens(self.tokenizer, lead, room), contexts, sampling, begin=False)


class _LastTokens:
    """A tokenizer that keeps the last tokens of a text with its lead, and writes no special ones."""

    def __init__(self, tokenizer: Tokenizer, lead: Sequence[int], most: int) -> None:
        self.tokenizer, self.lead, self.most = tokenizer, lead, most
        self.vocabulary = tokenizer.vocabulary

    def encode(self, text: str) -> Sequence[int]:
        ids = [*self.lead, *self.tokenizer.encode(text)]
        return ids[max(0, len(ids) - self.most) :]

    def token_bytes(self, token: int) -> bytes:
        return b"" if token in self.vocabulary.special else self.tokenizer.token_bytes(token)


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
