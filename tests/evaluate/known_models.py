"""Models whose every probability is known, and a tokenizer of bytes.

Shape letters: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from corestone.core.batch import TextBatch
from corestone.core.protocols import Output
from corestone.data.spec import Bytes
from corestone.data.tokenizer import build_tokenizer

BYTES = build_tokenizer(Bytes(), ())
SEPARATOR = BYTES.manifest.separator
V = BYTES.manifest.padded_vocab_size


class KnownModel(nn.Module):
    """The logits behind a prefix are what a function of the prefix says; the head hands them on."""

    context_length = 10_000

    def __init__(self, logits: Callable[[Sequence[int]], Tensor]) -> None:
        super().__init__()
        self.logits, self.rows = logits, []
        self.head = nn.Linear(V, V, bias=False)
        nn.init.eye_(self.head.weight)

    def forward(self, batch: TextBatch) -> Output:
        self.rows.append(tuple(batch.tokens_BT.shape))
        rows = [[self.logits(row[: t + 1]) for t in range(len(row))] for row in batch.tokens_BT.tolist()]
        return Output(hidden=torch.stack([torch.stack(row) for row in rows]))


def bigram(seed: int = 0) -> KnownModel:
    """Logits that depend on the last token alone."""
    table_VV = torch.randn(V, V, generator=torch.Generator().manual_seed(seed))
    return KnownModel(lambda prefix: table_VV[prefix[-1]])


def bigram_nats(model: KnownModel, stream: Sequence[int]) -> float:
    """By hand: the summed loss of a stream's tokens but the first, in double precision."""
    total = 0.0
    for before, token in pairwise(stream):
        logits = model.logits([before]).double().numpy()
        total += float(np.log(np.exp(logits).sum()) - logits[token])
    return total


def reciter(texts: Sequence[str], sure: float = 8.0) -> KnownModel:
    """A model that knows some texts by heart: behind any prefix of one, its next byte has the logit `sure`, all other
    tokens 0; behind anything else all tokens have 0, so that id 0 is the likeliest."""
    known = [[SEPARATOR, *text.encode()] for text in texts]

    def logits(prefix: Sequence[int]) -> Tensor:
        out_V = torch.zeros(V)
        for row in known:
            if len(row) > len(prefix) and row[: len(prefix)] == list(prefix):
                out_V[row[len(prefix)]] = sure
        return out_V

    return KnownModel(logits)
