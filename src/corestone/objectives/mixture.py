"""Several objectives, one per row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from corestone.core.batch import TextBatch
from corestone.core.protocols import AskingObjective, Loss, RowSums
from corestone.core.rng import Draws
from corestone.core.spec import Spec
from corestone.core.vocabulary import Vocabulary
from corestone.objectives.masked_token import MaskedTokenObjective
from corestone.objectives.next_token import NextTokenObjective
from corestone.objectives.prefix import PrefixObjective
from corestone.objectives.seq2seq import ContinuationObjective, DenoisingObjective, SpanCorruptionObjective
from corestone.objectives.spec import (
    Continuation,
    Denoising,
    MaskedToken,
    Mixture,
    NextToken,
    Prefix,
    SpanCorruption,
)


@dataclass(frozen=True)
class MixedBatch:
    """Rows of several kinds.

    Attributes:
        parts: one batch per objective; None where no row is its.
        places: for each part the rows of the whole batch that it holds, ascending.
        size: rows of the whole batch.
    """

    parts: tuple[Any, ...]
    places: tuple[Tensor, ...]
    size: int

    def __len__(self) -> int:
        return self.size

    def rows(self, start: int, stop: int) -> MixedBatch:
        """Some rows of the batch, as a batch."""
        parts, places = [], []
        for part, place in zip(self.parts, self.places, strict=True):
            low, high = (int(torch.searchsorted(place, edge)) for edge in (start, stop))
            parts.append(part.rows(low, high) if high > low else None)
            places.append(place[low:high] - start)
        return MixedBatch(tuple(parts), tuple(places), min(stop, self.size) - start)

    def to(self, device: torch.device) -> MixedBatch:
        """The batch on a device."""
        return MixedBatch(tuple(p if p is None else p.to(device) for p in self.parts), self.places, self.size)


class MixtureObjective:
    """Each row is drawn for one of several objectives, by their weights; losses of all rows are summed.

    (Tay et al. 2023, section 3; Soltan et al. 2022, section 3.1.)

    Args:
        parts: weights and built objectives.
    """

    reduction = "additive"
    asks = True

    def __init__(self, parts: Sequence[tuple[float, AskingObjective]]) -> None:
        self.objectives = [objective for _, objective in parts]
        weights = torch.tensor([weight for weight, _ in parts], dtype=torch.float64)
        self.shares = (weights / weights.sum()).tolist()
        self._edges = (weights.cumsum(0) / weights.sum())[:-1].float()

    def corrupt(self, batch: TextBatch, draws: Draws) -> MixedBatch:
        """Draw each row's objective, and let it corrupt its rows."""
        kind_B = torch.bucketize(draws.uniform(1)[:, 0], self._edges, right=True)
        places = tuple((kind_B == kind).nonzero()[:, 0] for kind in range(len(self.objectives)))
        parts = tuple(
            objective.corrupt(batch.select(place), draws.select(place)) if len(place) else None
            for objective, place in zip(self.objectives, places, strict=True)
        )
        return MixedBatch(parts, places, len(batch))

    def loss(self, model: Any, batch: MixedBatch) -> Loss:
        """Sums over all rows; each objective's mean loss per row drawn is not told apart, its targets weigh alike."""
        losses = [
            objective.loss(model, part)
            for objective, part in zip(self.objectives, batch.parts, strict=True)
            if part is not None
        ]
        total, weight = losses[0].total, losses[0].weight
        for loss in losses[1:]:
            total, weight = total + loss.total, weight + loss.weight
        return Loss(total, weight)

    def scores(self, model: Any, batch: MixedBatch) -> dict[str, RowSums]:
        """Every figure of the objectives, over all rows that have it."""
        found: dict[str, list[RowSums]] = {}
        for objective, part in zip(self.objectives, batch.parts, strict=True):
            for name, sums in objective.scores(model, part).items() if part is not None else ():
                found.setdefault(name, []).append(sums)
        return {
            name: RowSums(torch.cat([s.totals for s in sums]), torch.cat([s.weights for s in sums]), sums[0].unit)
            for name, sums in found.items()
        }

    def questions(self, before: TextBatch, batch: MixedBatch) -> tuple[Tensor, Tensor]:
        """Of all objectives, one after the other."""
        pairs = [
            objective.questions(before.select(place), part)
            for objective, part, place in zip(self.objectives, batch.parts, batch.places, strict=True)
            if part is not None
        ]
        lefts, targets = zip(*((left.flatten(), target.flatten()) for left, target in pairs), strict=True)
        return torch.cat(lefts), torch.cat(targets)

    def training_flops(self, model: Any, tokens: int) -> float:
        """The objectives' own, by their shares."""
        pairs = zip(self.shares, self.objectives, strict=True)
        return float(sum(share * objective.training_flops(model, tokens) for share, objective in pairs))


BUILDERS: dict[type[Spec], Callable[..., Any]] = {
    NextToken: NextTokenObjective,
    Prefix: PrefixObjective,
    MaskedToken: MaskedTokenObjective,
    SpanCorruption: SpanCorruptionObjective,
    Denoising: DenoisingObjective,
    Continuation: ContinuationObjective,
}
"""What a mixture may hold."""


def build_mixture(spec: Mixture, vocabulary: Vocabulary) -> MixtureObjective:
    """Build a mixture and its parts."""
    return MixtureObjective(
        [(part.weight, BUILDERS[type(part.objective)](part.objective, vocabulary)) for part in spec.parts]
    )
