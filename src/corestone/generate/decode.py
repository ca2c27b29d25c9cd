"""Decoding token by token with a cache of keys and values.

Each row begins with the separator, as documents do, unless asked otherwise, and ends at the next one. A batch of
unequal prompts is padded on the left; pads are a segment of their own and positions count from each row's first real
token. A row that fills the model's context goes on from its last half: those tokens are read again from position 0, so
every token still sees between half and all of a context. Which tokens a row sees never depends on its neighbours.

Shape letters: B batch (rows still being written), T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from corestone.core.batch import ImageBatch, TextBatch
from corestone.core.errors import DataError, SpecError
from corestone.core.mask import Mask
from corestone.core.protocols import Output
from corestone.core.vocabulary import Vocabulary
from corestone.generate.sampling import choose, streams
from corestone.generate.source import PAD_SEGMENT, TEXT_SEGMENT, SourceReader, source_batch
from corestone.generate.spec import Sampling
from corestone.generate.weights import decoding_weights
from corestone.nn.cache import KVCache
from corestone.nn.modes import evaluation_mode

OnToken = Callable[[int, int], bool]
"""Called with (row, token) for each new token; True ends the row."""


class CachedModel(Protocol):
    """A causal language model that reads and fills a cache."""

    head: Any

    @property
    def context_length(self) -> int: ...

    def parameters(self) -> Iterator[Tensor]: ...

    def empty_cache(self, batch: int, capacity: int, dtype: torch.dtype) -> KVCache: ...

    def __call__(self, batch: TextBatch, cache: KVCache | None = None) -> Output: ...


def check_writes(model: Any) -> None:
    """SpecError where a model writes no text."""
    if model.generates == "nothing":
        raise SpecError(
            "this model is an encoder: it reads texts and writes none; generate from a model of kind decoder or "
            "encoder_decoder, or make vectors of texts with this one (corestone embed)"
        )
    if model.generates == "captions":
        raise SpecError(
            "this model writes captions of pictures and continues no text; give it pictures (corestone caption)"
        )


def generate(
    model: Any,
    vocabulary: Vocabulary,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    on_token: OnToken | None = None,
    begin: bool = True,
) -> list[list[int]]:
    """Continue each prompt; an encoder-decoder reads it and writes an answer.

    Args:
        model: a CachedModel on any device, or what a SourceReader takes; its training mode is restored.
        vocabulary: ids below its size may be drawn; rows begin with its separator and end at it. What an
            encoder-decoder reads ends with the separator, what it writes begins with the padding token if there is one.
        prompts: ids without the separator; empty ones give text from nothing.
        on_token: sees each new token at once and may end its row.
        begin: put the separator before each prompt that is continued; an empty one always has it.

    Returns:
        New tokens per prompt, at most `sampling.max_tokens`, without the separator that ended a row.

    Raises:
        DataError: a prompt has an id outside the vocabulary.
        SpecError: the model is none that writes text.
    """
    check_writes(model)
    for row, prompt in enumerate(prompts):
        for place, token in enumerate(prompt):
            if not 0 <= token < vocabulary.size:
                raise DataError(
                    f"prompt {row}, token {place}: id {token} is not in the vocabulary of {vocabulary.size}; "
                    "encode the prompt with the model's own tokenizer"
                )
    if not prompts:
        return []
    with evaluation_mode(model), torch.inference_mode():
        packed = decoding_weights(model)
        if model.generates == "continuations":
            rows = [[vocabulary.separator, *prompt] if begin or not prompt else list(prompt) for prompt in prompts]
            return _Decoding(packed, vocabulary, rows, sampling, on_token).run()
        sources = source_batch([[*prompt, vocabulary.separator] for prompt in prompts])
        reader = SourceReader(packed, sources, sources.mask.segments_BT, _room(model, sampling))
        return _Decoding(reader, vocabulary, [[vocabulary.start] for _ in prompts], sampling, on_token).run()


def caption(
    model: Any,
    vocabulary: Vocabulary,
    images: ImageBatch,
    sampling: Sampling,
    on_token: OnToken | None = None,
) -> list[list[int]]:
    """Write a caption of each picture; it begins behind the separator and ends at the next one.

    Args:
        model: a captioner on any device; its training mode is restored.
        vocabulary: ids below its size may be drawn.
        images: as the model's training saw them.
        on_token: sees each new token at once and may end its row.

    Returns:
        Tokens per picture, at most `sampling.max_tokens`, without the separators.

    Raises:
        SpecError: the model captions no pictures, or has no room for so many tokens.
    """
    if model.generates != "captions":
        raise SpecError("this model writes no captions of pictures; take one of kind captioner")
    if not len(images):
        return []
    with evaluation_mode(model), torch.inference_mode():
        reader = SourceReader(decoding_weights(model), images, None, _room(model, sampling))
        starts = [[vocabulary.separator] for _ in range(len(images))]
        return _Decoding(reader, vocabulary, starts, sampling, on_token).run()


def _room(model: Any, sampling: Sampling) -> int:
    """Tokens to write, refused where the model's positions end before."""
    if model.longest_answer is not None and sampling.max_tokens > model.longest_answer - 1:
        raise SpecError(
            f"max_tokens: {sampling.max_tokens} tokens do not fit a model with {model.longest_answer} positions; "
            f"max_tokens may be {model.longest_answer - 1}"
        )
    return sampling.max_tokens


class _Decoding:
    """The state of one call: the tokens of every row, the rows still being written, and their cache.

    `rows` begin as given, with one token at least. `active[i]` is the row that stands at place i of the batch;
    `windows[i]` is how many of its last tokens the cache holds, and `seen_BV` which tokens it has, for the repetition
    penalty.
    """

    def __init__(
        self,
        model: CachedModel,
        vocabulary: Vocabulary,
        rows: list[list[int]],
        sampling: Sampling,
        on_token: OnToken | None,
    ) -> None:
        self.model, self.vocabulary, self.sampling, self.on_token = model, vocabulary, sampling, on_token
        self.rows = rows
        self.prompt_lengths = [len(row) for row in rows]
        self.active = list(range(len(rows)))
        self.windows = [len(row) for row in rows]
        self.generators = streams(sampling.seed, len(rows))
        first = next(model.parameters())
        self.device = first.device
        # On CPU one query against float32 keys is up to 7 times faster than against bfloat16 ones (docs/LOG.md).
        self.cache_dtype = torch.float32 if first.device.type == "cpu" else first.dtype
        self.seen_BV = self._seen() if sampling.repetition_penalty != 1.0 else None

    cache: KVCache

    def run(self) -> list[list[int]]:
        logits_BV = self._read()
        for count in range(1, self.sampling.max_tokens + 1):
            chosen_B = choose(logits_BV, self.seen_BV, self.sampling, [self.generators[row] for row in self.active])
            if self.seen_BV is not None:
                self.seen_BV[torch.arange(len(self.active), device=self.device), chosen_B] = True
            staying = self._append(chosen_B.tolist())
            if not staying or count == self.sampling.max_tokens:
                break  # the last token is never read
            if len(staying) < len(self.active):
                chosen_B = self._leave(staying, chosen_B)
            logits_BV = self._step(chosen_B)
        return [row[start:] for row, start in zip(self.rows, self.prompt_lengths, strict=True)]

    def _append(self, tokens: list[int]) -> list[int]:
        """Add a token to each active row; returns the places of the batch that go on."""
        staying = []
        for place, (row, token) in enumerate(zip(self.active, tokens, strict=True)):
            if token == self.vocabulary.separator:
                continue
            self.rows[row].append(token)
            if self.on_token is None or not self.on_token(row, token):
                staying.append(place)
        return staying

    def _leave(self, staying: list[int], chosen_B: Tensor) -> Tensor:
        """Drop finished rows from the batch."""
        places = torch.tensor(staying, device=self.device)
        self.active = [self.active[place] for place in staying]
        self.windows = [self.windows[place] for place in staying]
        if self.seen_BV is not None:
            self.seen_BV = self.seen_BV[places]
        self.cache = self.cache.select(places)
        return chosen_B[places]

    def _step(self, chosen_B: Tensor) -> Tensor:
        """Read one token per row; logits (B, V) of the next."""
        self.windows = [window + 1 for window in self.windows]
        if self.cache.length == self.cache.capacity:
            return self._read()
        positions = torch.tensor([[window - 1] for window in self.windows], device=self.device)
        segments = None
        if self.cache.segments_BS is not None:
            segments = self.cache.segments_BS[:, self.cache.length : self.cache.length + 1]
        return self._forward(chosen_B[:, None], positions, segments)

    def _read(self) -> Tensor:
        """Read the window of every row into a new cache; logits (B, V) of the next token."""
        context = self.model.context_length
        self.windows = [window if window <= context else max(1, context // 2) for window in self.windows]
        B, T = len(self.active), max(self.windows)
        left = max(self.sampling.max_tokens - (len(self.rows[row]) - self.prompt_lengths[row]) for row in self.active)
        capacity = min(context, T + left)
        self.cache = self.model.empty_cache(B, capacity, self.cache_dtype)
        tokens_BT = torch.full((B, T), self.vocabulary.separator)
        positions_BT = torch.zeros((B, T), dtype=torch.int64)
        segments_BS = torch.full((B, capacity), TEXT_SEGMENT, dtype=torch.int32)
        for place, (row, window) in enumerate(zip(self.active, self.windows, strict=True)):
            tokens_BT[place, T - window :] = torch.tensor(self.rows[row][-window:])
            positions_BT[place, T - window :] = torch.arange(window)
            segments_BS[place, : T - window] = PAD_SEGMENT
        segments = None
        if min(self.windows) < T:
            self.cache.segments_BS = segments_BS.to(self.device)
            segments = self.cache.segments_BS[:, :T]
        return self._forward(tokens_BT.to(self.device), positions_BT.to(self.device), segments)

    def _forward(self, tokens_BT: Tensor, positions_BT: Tensor, segments_BT: Tensor | None) -> Tensor:
        """Logits (B, V) behind the last token; padding rows of the token table are cut off, so they are never drawn."""
        batch = TextBatch(
            tokens_BT=tokens_BT, targets_BT=tokens_BT, positions_BT=positions_BT, mask=Mask(segments_BT=segments_BT)
        )
        hidden_BTD = self.model(batch, self.cache).hidden
        logits_BV: Tensor = self.model.head(hidden_BTD[:, -1])
        return logits_BV[:, : self.vocabulary.size]

    def _seen(self) -> Tensor:
        """Bool (B, V): the tokens of each row. What begins and ends one is not text, so it is not counted."""
        seen_BV = torch.zeros(len(self.rows), self.vocabulary.size, dtype=torch.bool)
        for place, row in enumerate(self.rows):
            seen_BV[place, row] = True
        seen_BV[:, [self.vocabulary.separator, self.vocabulary.start]] = False
        return seen_BV.to(self.device)
