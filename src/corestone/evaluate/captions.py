"""Captions that a model writes, word by word beside the pictures' own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from corestone.core.batch import ImageBatch
from corestone.core.metric import Metric
from corestone.evaluate.intervals import proportion_interval, ratio_interval
from corestone.generate.spec import Sampling
from corestone.generate.text import TextTokenizer, caption_text
from corestone.nn.modes import evaluation_mode

EXACT, F1 = "exact_name_rate", "token_f1"


class CaptionScore:
    """Scores a captioner by the likeliest caption of each picture. Satisfies `core.protocols.Evaluator`.

    Args:
        pictures: gives all of them for a batch size, in order.
        captions: of each picture.
        batch_size: pictures at a time; changes speed and memory, not the result.
        longest: the most tokens that are written.
    """

    def __init__(
        self,
        pictures: Callable[[int], Iterator[ImageBatch]],
        captions: Sequence[Sequence[str]],
        tokenizer: TextTokenizer,
        batch_size: int,
        longest: int,
    ) -> None:
        self._pictures, self._captions, self._tokenizer = pictures, captions, tokenizer
        self._batch_size, self._longest = batch_size, longest

    def run(self, model: Any) -> Iterator[Metric]:
        """Yield what `caption_metrics` does."""
        sampling, written = Sampling(temperature=0.0, max_tokens=self._longest), list[str]()
        device = next(iter(model.named_parameters()))[1].device
        with evaluation_mode(model):
            for batch in self._pictures(self._batch_size):
                written += caption_text(model, self._tokenizer, batch.to(device), sampling)
        reading = f"the likeliest token always, at most {self._longest}"
        yield from caption_metrics(written, self._captions, reading)


def caption_metrics(
    written: Sequence[str], captions: Sequence[Sequence[str]], reading: str = "", before: str = ""
) -> Iterator[Metric]:
    """Yield `exact_name_rate`, the share of pictures whose caption is one of their own but for case and blanks, and
    `token_f1`, the mean over pictures of the F1 of words, without their order, with the nearest of their own.

    Args:
        captions: those that each picture has.
        before: what the metrics' names begin with.
    """
    n = len(written)
    exact_N = np.array([_plain(text) in set(map(_plain, own)) for text, own in zip(written, captions, strict=True)])
    hits = int(exact_N.sum())
    said = "; ".join(filter(None, ["one of the picture's own captions but for case and blanks", reading]))
    yield Metric(before + EXACT, hits / n, "share of pictures", n, proportion_interval(hits, n), said)
    pairs = zip(written, captions, strict=True)
    f1_N = np.array([max(word_f1(text, one) for one in own) for text, own in pairs])
    said = "; ".join(filter(None, ["F1 of words without their order, mean over pictures", reading]))
    yield Metric(before + F1, float(f1_N.mean()), "F1", n, ratio_interval(f1_N, np.ones(n)), said)


def word_f1(written: str, own: str) -> float:
    """F1 of two texts' words, each as often as it occurs: 2 common / (words here + words there); 1 of two texts without
    words."""
    here, there = _words(written), _words(own)
    total = here.total() + there.total()
    return 2 * (here & there).total() / total if total else 1.0


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.casefold()))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
