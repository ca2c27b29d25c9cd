"""Next-token prediction.

Shape letters: B batch, T tokens, D width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from corestone.core.batch import IGNORE, TextBatch
from corestone.core.protocols import Loss, Model, RowSums
from corestone.core.rng import Draws
from corestone.core.vocabulary import Vocabulary
from corestone.nn.cross_entropy import linear_cross_entropy
from corestone.objectives.scores import target_scores
from corestone.objectives.spec import NextToken


class NextTokenObjective:
    """Cross-entropy of every real target, summed (Radford et al. 2018, equation 1)."""

    reduction = "additive"
    asks = False

    def __init__(self, spec: NextToken, vocabulary: Vocabulary | None = None) -> None:
        self.spec = spec

    def corrupt(self, batch: TextBatch, draws: Draws) -> TextBatch:
        """Nothing is hidden: the mask does that."""
        return batch

    def loss(self, model: Model, batch: TextBatch) -> Loss:
        """Nats summed over real targets; weight = their number."""
        hidden = model(batch).hidden
        total, squares = linear_cross_entropy(
            hidden.flatten(0, -2), model.head, batch.targets_BT.flatten(), self.spec.z_loss
        )
        metrics = {"z_squared": squares} if self.spec.z_loss else {}
        return Loss(total=total, weight=(batch.targets_BT != IGNORE).sum(), metrics=metrics)

    def scores(self, model: Model, batch: TextBatch) -> dict[str, RowSums]:
        """Nats and accuracy over next tokens (within a mixture)."""
        return target_scores(model.head, model(batch).hidden, batch.targets_BT)

    def questions(self, before: TextBatch, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Each token, and the one that follows it."""
        return batch.tokens_BT, batch.targets_BT

    def training_flops(self, model: Any, tokens: int) -> float:
        """Every token passes through the model and its head."""
        flops: float = model.training_flops(tokens)
        return flops
