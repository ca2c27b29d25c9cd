"""How well a model does on held-out text what it was trained to do, where that is not to predict every next token.

Shape letters: B batch, T tokens, R real targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corestone.core.batch import IGNORE, TextBatch
from corestone.core.metric import Metric
from corestone.core.protocols import AskingObjective, RowSums
from corestone.core.rng import Draws, fold
from corestone.evaluate.intervals import ratio_interval
from corestone.nn.modes import evaluation_mode

Batches = Callable[[int], Iterator[Any]]
Ids = NDArray[np.int64]


class ObjectiveScore:
    """Scores a model by its objective's own figures. Satisfies `core.protocols.Evaluator`.

    What is hidden from the model is drawn by each row's number in the split, with a seed of its own, so every model and
    every batch size meets the same questions. Intervals (95 %) are a bootstrap over rows.

    Args:
        batches: gives the split for a batch size, in order.
        batch_size: rows at a time; changes speed and memory, not the result.
        rows: score only so many rows, from the first; None for all.
        reading: how the batches hold the text, for the metrics' convention.
    """

    def __init__(
        self,
        objective: AskingObjective,
        batches: Batches,
        batch_size: int,
        rows: int | None = None,
        reading: str = "",
    ) -> None:
        self._objective, self._batches, self._batch_size, self._rows = objective, batches, batch_size, rows
        questions = "the objective's own questions, drawn by each row's number"
        self._convention = "; ".join(filter(None, [questions, reading]))

    def run(self, model: Any) -> Iterator[Metric]:
        """Yield the objective's figures, the first of which is what training lowers."""
        device = next(iter(model.named_parameters()))[1].device
        found: dict[str, list[RowSums]] = {}
        with evaluation_mode(model), torch.inference_mode():
            for _, asked in asked_batches(self._objective, self._batches(self._batch_size), self._rows):
                for name, sums in self._objective.scores(model, asked.to(device)).items():
                    found.setdefault(name, []).append(sums)
        for name, parts in found.items():
            totals = torch.cat([part.totals for part in parts]).cpu().double().numpy()
            weights = torch.cat([part.weights for part in parts]).cpu().double().numpy()
            interval, value = ratio_interval(totals, weights), float(totals.sum() / weights.sum())
            yield Metric(name, value, parts[0].unit, int(weights.sum()), interval, self._convention)


def asked_batches(
    objective: AskingObjective, batches: Iterator[Any], rows: int | None = None
) -> Iterator[tuple[Any, Any]]:
    """Batches as they are, and as the objective makes them."""
    first = 0
    for batch in batches:
        if rows is not None and first + len(batch) > rows:
            batch = batch.rows(0, rows - first)
        if len(batch):
            draws = Draws(fold(0, "held-out"), range(first, first + len(batch)))
            yield batch, objective.corrupt(batch, draws)
        first += len(batch)
        if rows is not None and first >= rows:
            return


class Guesser:
    """The floors of hidden targets: their frequencies in the training text, alone and after each left neighbour.

    The second is `(count(left, target) + STRENGTH * p(target)) / (count(left) + STRENGTH)`, a Dirichlet prior (MacKay
    and Peto 1995); it knows the true left neighbour even where that is hidden from the model.
    """

    STRENGTH = 20.0

    def __init__(self, lefts_R: Ids, targets_R: Ids, vocab_size: int) -> None:
        counts_V = np.bincount(targets_R, minlength=vocab_size) + 1.0
        self._share_V = counts_V / counts_V.sum()
        self._size = vocab_size
        self._left_V = np.bincount(lefts_R, minlength=vocab_size)
        self._codes, self._counts = np.unique(lefts_R * vocab_size + targets_R, return_counts=True)

    def nats(self, lefts_R: Ids, targets_R: Ids) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Nats of each target: by frequency alone, and after its left neighbour."""
        share_R = self._share_V[targets_R]
        codes_R = lefts_R * self._size + targets_R
        place_R = np.minimum(np.searchsorted(self._codes, codes_R), len(self._codes) - 1)
        seen_R = np.where(self._codes[place_R] == codes_R, self._counts[place_R], 0)
        after_R = (seen_R + self.STRENGTH * share_R) / (self._left_V[lefts_R] + self.STRENGTH)
        return -np.log(share_R), -np.log(after_R)


def guessing_floors(
    objective: AskingObjective, training: Iterator[TextBatch], held_out: Iterator[TextBatch], vocab_size: int
) -> list[Metric]:
    """What guessing without a model reaches on the same questions.

    Args:
        training, held_out: batches of a few rows each: intervals take a batch as the unit.
    """
    lefts, targets = zip(*_questions(objective, training), strict=True)
    guesser = Guesser(np.concatenate(lefts), np.concatenate(targets), vocab_size)
    sums = [
        (*(nats.sum() for nats in guesser.nats(lefts_R, targets_R)), len(targets_R))
        for lefts_R, targets_R in _questions(objective, held_out)
    ]
    table = np.array(sums, dtype=np.float64)
    names = ("unigram_nats_per_target", "bigram_nats_per_target")
    return [
        Metric(
            name,
            float(table[:, column].sum() / table[:, 2].sum()),
            "nats/target",
            int(table[:, 2].sum()),
            ratio_interval(table[:, column], table[:, 2]),
        )
        for column, name in enumerate(names)
    ]


def _questions(objective: AskingObjective, batches: Iterator[TextBatch]) -> Iterator[tuple[Ids, Ids]]:
    """Real targets of each batch, and the token that truly stands left of each."""
    for before, asked in asked_batches(objective, batches):
        lefts_BT, targets_BT = objective.questions(before, asked)
        real_BT = targets_BT != IGNORE
        yield lefts_BT[real_BT].numpy(), targets_BT[real_BT].numpy()
