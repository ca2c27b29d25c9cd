"""Prefix language modelling in a decoder.

Shape letters: B batch, T tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from corestone.core.batch import IGNORE, TextBatch
from corestone.core.protocols import Loss, Model, RowSums
from corestone.core.rng import Draws
from corestone.core.vocabulary import Vocabulary
from corestone.nn.cross_entropy import linear_cross_entropy
from corestone.objectives.scores import target_scores
from corestone.objectives.spec import Prefix


class PrefixObjective:
    """Cross-entropy of what follows each document's prefix, whose tokens all see each other.

    Where a row holds several documents, each has a prefix of its own (Raffel et al. 2020, section 3.2.1).
    """

    reduction = "additive"
    asks = True

    def __init__(self, spec: Prefix, vocabulary: Vocabulary) -> None:
        self.spec = spec

    def corrupt(self, batch: TextBatch, draws: Draws) -> TextBatch:
        """Draw each piece's prefix. Its last token already predicts; those before it have no targets."""
        B, T = batch.tokens_BT.shape
        segments_BT = torch.zeros(B, T, dtype=torch.int64)
        if batch.mask.segments_BT is not None:
            segments_BT = batch.mask.segments_BT.long()
        numbers_BT = segments_BT - segments_BT.min(dim=1, keepdim=True).values
        ones_BT = torch.ones_like(numbers_BT)
        lengths_BT = torch.zeros_like(numbers_BT).scatter_add_(1, numbers_BT, ones_BT)
        starts_BT = lengths_BT.cumsum(dim=1) - lengths_BT
        share_BT = self.spec.least + (self.spec.most - self.spec.least) * draws.uniform(T)
        given_BT = (share_BT * lengths_BT).round().long().clamp(min=1).minimum((lengths_BT - 1).clamp(min=1))
        inside_BT = torch.arange(T) - starts_BT.gather(1, numbers_BT)
        prefix_BT = inside_BT < given_BT.gather(1, numbers_BT)
        predicts_BT = inside_BT >= given_BT.gather(1, numbers_BT) - 1
        return replace(
            batch,
            targets_BT=torch.where(predicts_BT, batch.targets_BT, IGNORE),
            mask=replace(batch.mask, prefix_BT=prefix_BT),
        )

    def loss(self, model: Model, batch: TextBatch) -> Loss:
        """Nats summed over what follows prefixes; weight = its tokens."""
        hidden = model(batch).hidden
        total, _ = linear_cross_entropy(hidden.flatten(0, -2), model.head, batch.targets_BT.flatten())
        return Loss(total=total, weight=(batch.targets_BT != IGNORE).sum())

    def scores(self, model: Model, batch: TextBatch) -> dict[str, RowSums]:
        """Nats and accuracy over what follows prefixes."""
        return target_scores(model.head, model(batch).hidden, batch.targets_BT)

    def questions(self, before: TextBatch, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Each token, and the one that follows it."""
        return before.tokens_BT, batch.targets_BT

    def training_flops(self, model: Any, tokens: int) -> float:
        """As if causal, which a short prefix nearly is."""
        flops: float = model.training_flops(tokens)
        return flops
