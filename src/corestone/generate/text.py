"""From prompts to text: stop strings, and text shown while it is written."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from corestone.core.batch import ImageBatch
from corestone.core.vocabulary import Vocabulary
from corestone.generate.decode import caption, generate
from corestone.generate.spec import Sampling

Stream = Callable[[int, str], None]
"""Called with (row, piece): the pieces of a row, joined, are its text."""


class TextTokenizer(Protocol):
    """What generation needs of a tokenizer."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    def encode(self, text: str) -> Sequence[int]: ...

    def token_bytes(self, token: int, /) -> bytes: ...


class TextWriter:
    """Turns the tokens of one row into text.

    A character appears once all its bytes are there; bytes that are no UTF-8 become U+FFFD. Text that may be the
    beginning of a stop string is held back until it is known not to be one.

    Args:
        lead: bytes left out where the first token begins with them.
    """

    def __init__(self, stop: Sequence[str] = (), show: Callable[[str], None] | None = None, lead: bytes = b"") -> None:
        self.stop = tuple(stop)
        self.show = show
        self.lead = lead
        self.text = ""
        self.stopped = False
        self._shown = 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: bytes, final: bool = False) -> bool:
        """Add a token's bytes; returns True once a stop string has appeared (the text is cut before it)."""
        if self.stopped:
            return True
        old = len(self.text)
        self.text += self._utf8.decode(data.removeprefix(self.lead), final)
        self.lead = b""
        found = [place for stop in self.stop if (place := self.text.find(stop, max(0, old - len(stop) + 1))) >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True
        self._emit(len(self.text) if found or final else len(self.text) - self._held())
        return self.stopped

    def close(self) -> str:
        """End the row: what was held back is shown. Returns the whole text."""
        self.write(b"", final=True)
        return self.text

    def _held(self) -> int:
        """Characters at the end of the text with which some stop string begins."""
        longest = max((len(stop) for stop in self.stop), default=1) - 1
        for length in range(min(longest, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-length:]) for stop in self.stop):
                return length
        return 0

    def _emit(self, end: int) -> None:
        if end > self._shown:
            if self.show is not None:
                self.show(self.text[self._shown : end])
            self._shown = end


def generate_text(
    model: Any,
    tokenizer: TextTokenizer,
    prompts: Sequence[str],
    sampling: Sampling,
    stream: Stream | None = None,
    begin: bool = True,
) -> list[str]:
    """Continue each prompt; returns the new text only, cut before the first stop string.

    An answer is a text of its own: it goes without the blank that some vocabularies put before a first word.

    Args:
        stream: sees each row's text as it is written, whole characters only.
        begin: put the separator before each prompt that is continued.
    """

    def shower(row: int) -> Callable[[str], None] | None:
        return None if stream is None else lambda piece: stream(row, piece)

    lead = b" " if model.generates == "answers" and _leads_with_blank(tokenizer) else b""
    writers = [TextWriter(sampling.stop, shower(row), lead) for row in range(len(prompts))]
    generate(
        model,
        tokenizer.vocabulary,
        [list(tokenizer.encode(prompt)) for prompt in prompts],
        sampling,
        on_token=lambda row, token: writers[row].write(tokenizer.token_bytes(token)),
        begin=begin,
    )
    return [writer.close() for writer in writers]


def caption_text(
    model: Any, tokenizer: TextTokenizer, images: ImageBatch, sampling: Sampling, stream: Stream | None = None
) -> list[str]:
    """Write a caption of each picture, cut before the first stop string; as an answer it goes without a first blank.

    Args:
        images: as the model's training saw them, where its weights are.
        stream: sees each caption as it is written, whole characters only.
    """
    lead = b" " if _leads_with_blank(tokenizer) else b""
    shown = [partial(stream, row) if stream is not None else None for row in range(len(images))]
    writers = [TextWriter(sampling.stop, show, lead) for show in shown]
    caption(
        model,
        tokenizer.vocabulary,
        images,
        sampling,
        on_token=lambda row, token: writers[row].write(tokenizer.token_bytes(token)),
    )
    return [writer.close() for writer in writers]


def _leads_with_blank(tokenizer: TextTokenizer) -> bool:
    """Whether the first word of a text is written as if a blank stood before it."""
    return any(tokenizer.token_bytes(token).startswith(b" ") for token in tokenizer.encode("a")[:1])
