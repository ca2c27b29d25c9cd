"""The recurrent language model: token table, LSTM layers (plain or mogrified), head.

Shape letters: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import sys

import torch
from torch import nn

from corestone.core.batch import TextBatch
from corestone.core.errors import SpecError
from corestone.core.protocols import Output
from corestone.models.decoder import build_head
from corestone.models.spec import Recurrent
from corestone.nn.embedding import lookup
from corestone.nn.init import started, without_values
from corestone.nn.recurrent import RecurrentCache, RecurrentStack
from corestone.nn.spec import Init

INIT = Init(std=None)
"""Every matrix and table 1/sqrt(inputs) (Melis et al. 2020, code; theirs is cut off at two standard deviations)."""


class RecurrentModel(nn.Module):
    """`model(batch)` gives hidden values (B, T, D); `model.head(hidden)` gives logits (B, T, V).

    A state restarts where a position is 0, whatever the mask's segments; nothing else bounds what it remembers.
    """

    generates = "continuations"
    context_length = sys.maxsize

    def __init__(self, spec: Recurrent) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = nn.Embedding(spec.vocab_size, spec.width)
        dropout = spec.dropout
        self.stack = RecurrentStack(spec.layer, spec.width, spec.depth, spec.skip, dropout.input, dropout.between)
        self.dropout = nn.Dropout(dropout.output)
        self.head = build_head(spec.head, self.embedding, spec.width)

    @property
    def vocab_size(self) -> int:
        """Rows of the token table."""
        return self.spec.vocab_size

    def forward(self, batch: TextBatch, cache: RecurrentCache | None = None) -> Output:
        """Hidden values of a batch. With a cache, the batch continues the tokens already in it."""
        if not batch.mask.causal or batch.mask.prefix_BT is not None:
            raise SpecError(
                "a recurrent model reads token after token, and this batch shows what comes later; choose an objective "
                "such as next_token, or an encoder as the model"
            )
        x_BTD = lookup(self.embedding.weight, batch.tokens_BT)
        hidden_BTD = self.dropout(self.stack(x_BTD, batch.positions_BT, cache)) * self.spec.head.scale
        return Output(hidden=hidden_BTD.to(x_BTD.dtype))

    def empty_cache(self, batch: int, capacity: int, dtype: torch.dtype) -> RecurrentCache:
        """Zeros for `batch` rows, in float32 whatever the format that attention would keep its keys in."""
        shape, device = (self.spec.depth, batch, self.spec.width), self.embedding.weight.device
        return RecurrentCache(torch.zeros(shape, device=device), torch.zeros(shape, device=device), capacity)

    def training_flops(self, tokens: int) -> float:
        """Floating-point operations per token of forward and backward: 6 per weight of a matrix or of the head."""
        width, mogrifier = self.spec.width, self.spec.layer.mogrifier
        layer = 8 * width * width
        if mogrifier is not None:
            layer += mogrifier.rounds * width * (width if mogrifier.rank is None else 2 * mogrifier.rank)
        return 6.0 * (self.spec.depth * layer + self.spec.vocab_size * width)


def build_recurrent(spec: Recurrent, seed: int = 0, device: torch.device | str = "cpu") -> RecurrentModel:
    """Build a recurrent model with initial values; on the meta device, without values and in milliseconds."""
    with without_values():
        model = RecurrentModel(spec)
    model = started(model, device, INIT, spec.depth, seed)
    if model.embedding.weight.device.type != "meta":
        model.stack.start()
    return model
