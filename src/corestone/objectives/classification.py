"""Naming what a picture shows.

Shape letters: B batch, K classes, N likeliest classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from corestone.core.batch import ImageBatch
from corestone.core.errors import DataError, SpecError
from corestone.core.protocols import Loss, RowSums
from corestone.core.rng import Draws
from corestone.objectives.spec import Classification

FEW = 5
"""Likeliest classes of the second accuracy, as ImageNet's contests counted it."""


class ClassificationObjective:
    """Cross-entropy with each picture's class shares, or a yes-no question for each class; summed, in float32.

    A guess is right where no other class has a larger share of the picture; so any of several marked classes is right.
    Held-out nats are those of the shares themselves, without smoothing.
    """

    reduction = "additive"
    asks = True

    def __init__(self, spec: Classification, vocabulary: object = None) -> None:
        self.spec = spec

    def corrupt(self, batch: ImageBatch, draws: Draws) -> ImageBatch:
        """Nothing is hidden."""
        return batch

    def loss(self, model: Any, batch: ImageBatch) -> Loss:
        """Nats summed over pictures; weight = their number."""
        logits_BK, targets_BK = _answers(model, batch)
        total = self._nats(logits_BK, smoothed(targets_BK, self.spec)).sum()
        correct = among_likeliest(logits_BK.detach(), targets_BK, 1).sum()
        return Loss(total, torch.tensor(len(batch), device=total.device), {"correct": correct})

    @torch.no_grad()
    def scores(self, model: Any, batch: ImageBatch) -> dict[str, RowSums]:
        """Nats and accuracies of pictures; the second accuracy where there are more than five classes."""
        logits_BK, targets_BK = _answers(model, batch)
        ones_B = torch.ones(len(batch), dtype=torch.float64, device=logits_BK.device)
        found = {"nats": RowSums(self._nats(logits_BK, targets_BK), ones_B, "nats/picture")}
        for likeliest in (1, FEW) if logits_BK.shape[1] > FEW else (1,):
            hits_B = among_likeliest(logits_BK, targets_BK, likeliest).double()
            found[f"top{likeliest}_accuracy"] = RowSums(hits_B, ones_B, "share of pictures")
        return found

    def training_flops(self, model: Any, tokens: int) -> float:
        """Per picture, of which each is one target; `tokens` says nothing here."""
        flops: float = model.training_flops()
        return flops

    def _nats(self, logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
        """Of each picture, (B,)."""
        if self.spec.loss == "softmax":
            return F.cross_entropy(logits_BK, targets_BK, reduction="none")
        return F.binary_cross_entropy_with_logits(logits_BK, targets_BK, reduction="none").sum(dim=1)


def smoothed(targets_BK: Tensor, spec: Classification) -> Tensor:
    """Targets mixed with a uniform guess: of K classes (Szegedy et al. 2016, section 7: `(1 - e) q + e / K`), or of the
    two answers to each class's question, the same formula with K = 2: `(1 - e) q + e / 2`."""
    if spec.smoothing == 0:
        return targets_BK
    answers = targets_BK.shape[1] if spec.loss == "softmax" else 2
    return targets_BK * (1 - spec.smoothing) + spec.smoothing / answers


def among_likeliest(logits_BK: Tensor, targets_BK: Tensor, likeliest: int) -> Tensor:
    """Whether a class of the picture's largest share is among so many likeliest ones, boolean (B,)."""
    share_BN = targets_BK.gather(1, logits_BK.topk(likeliest, dim=1).indices)
    largest_B = targets_BK.amax(dim=1)
    return (share_BN.amax(dim=1) == largest_B) & (largest_B > 0)


def _answers(model: Any, batch: ImageBatch) -> tuple[Tensor, Tensor]:
    """Logits and targets (B, K), float32."""
    if batch.targets_BK is None:
        raise DataError(
            "objective classification: the pictures have no classes; give data with labels, or choose an objective "
            "that needs none"
        )
    logits_BK = model.head(model(batch).hidden).float()
    if logits_BK.shape != batch.targets_BK.shape:
        raise SpecError(
            f"objective classification: the data has {batch.targets_BK.shape[1]} classes and the model's head "
            f"{logits_BK.shape[1]}; give the model as many as the data"
        )
    return logits_BK, batch.targets_BK.float()
