"""Texts as vectors: what an encoder makes of their tokens, on average (Reimers and Gurevych 2019, section 3).

Shape letters: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from corestone.core.batch import IGNORE, TextBatch
from corestone.core.errors import DataError, SpecError
from corestone.core.mask import Mask
from corestone.core.vocabulary import Vocabulary
from corestone.nn.modes import evaluation_mode


class Encoding(Protocol):
    """What embedding needs of a tokenizer."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    def encode(self, text: str) -> Sequence[int]: ...


def embed_texts(model: Any, tokenizer: Encoding, texts: Sequence[str], batch_size: int = 32) -> Tensor:
    """Vectors of length 1, float32 (texts, D); their products are cosine similarities.

    A row is the classifying token (or else the separator), the text and the separator; its vector is the mean over the
    hidden values of all of these.

    Args:
        model: an encoder on any device; its training mode is restored.
        batch_size: rows at a time; it changes the speed alone.

    Raises:
        DataError: a text has more tokens than the model's context.
        SpecError: the model is none that reads whole texts.
    """
    if model.generates != "nothing":
        raise SpecError(
            "this model writes text, its hidden values are no summary of what it reads; embed with a model of kind "
            "encoder or generator_discriminator"
        )
    vocabulary = tokenizer.vocabulary
    begin = vocabulary.separator if vocabulary.classify is None else vocabulary.classify
    rows = [[begin, *tokenizer.encode(text), vocabulary.separator] for text in texts]
    for number, row in enumerate(rows, start=1):
        if len(row) > model.context_length:
            raise DataError(
                f"embed: text {number} has {len(row):,} tokens with those around it and the model's context is "
                f"{model.context_length:,}; shorten or split it"
            )
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))  # rows of about one length waste few pads
    device, vectors = next(model.parameters()).device, [torch.empty(0)] * len(rows)
    with evaluation_mode(model), torch.inference_mode():
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch, real_BT = _batch([rows[place] for place in places], vocabulary.separator)
            found = mean_of_tokens(model(batch.to(device)).hidden, real_BT.to(device)).cpu()
            for place, vector in zip(places, found, strict=True):
                vectors[place] = vector
    return F.normalize(torch.stack(vectors), dim=-1) if vectors else torch.empty(0, 0)


def mean_of_tokens(hidden_BTD: Tensor, real_BT: Tensor) -> Tensor:
    """The mean (B, D), in float32, over each row's real tokens: those where `real_BT` is 1 and not 0."""
    sums_BD = torch.einsum("btd,bt->bd", hidden_BTD.float(), real_BT.float())
    return sums_BD / real_BT.sum(dim=1, keepdim=True)


def _batch(rows: Sequence[Sequence[int]], pad: int) -> tuple[TextBatch, Tensor]:
    """Rows padded on the right, and which of their tokens are real; what pads sees only pads, and nobody sees it."""
    longest = max(map(len, rows))
    tokens_BT = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    real_BT = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], dtype=torch.int32)
    positions_BT = torch.arange(longest).expand(tokens_BT.shape)
    nothing_BT = torch.full_like(tokens_BT, IGNORE)
    return TextBatch(tokens_BT, nothing_BT, positions_BT, Mask(causal=False, segments_BT=real_BT)), real_BT
