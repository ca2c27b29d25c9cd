"""The few contracts between rooms that do not know each other.

Shape letters: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from corestone.core.metric import Metric
from corestone.core.rng import Draws


class Batch(Protocol):
    """What the loop needs of a batch: rows that can be cut into micro-batches and moved."""

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> Any: ...

    def to(self, device: torch.device) -> Any: ...


@dataclass(frozen=True)
class Output:
    """What a model computes: `hidden` (B, T, D), ready for the head, and named intermediate values."""

    hidden: Tensor
    intermediates: Mapping[str, Tensor] = field(default_factory=dict)


class Head(Protocol):
    """The map from hidden values to logits: what `features` makes of them, times a matrix, so that objectives may
    gather rows before it and never hold all logits."""

    weight: Tensor  # (V, D)
    bias: Tensor | None  # (V,)

    def features(self, hidden: Tensor) -> Tensor: ...

    def __call__(self, hidden: Tensor) -> Tensor: ...


class Model(Protocol):
    """`model(batch)` gives an Output; the objective applies `head` to as much of it as it needs.

    Attributes:
        context_length: the most tokens a row may have.
        vocab_size: ids below it may stand in a row.
        generates: continuations of prompts, answers to what was read, captions of pictures, or nothing.
    """

    head: Any
    generates: Literal["continuations", "answers", "captions", "nothing"]

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int: ...

    def __call__(self, batch: Any) -> Output: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


@runtime_checkable
class ManyWaysIn(Protocol):
    """A model that objectives also enter otherwise than by calling it: by these methods or inner models."""

    ways_in: Sequence[str]


@runtime_checkable
class CorrectsItself(Protocol):
    """A model with weights that must be brought back behind each update, here and among the optimiser's `masters`."""

    def after_update(self, masters: Mapping[str, Tensor] | None = None) -> None: ...


@runtime_checkable
class Recomputes(Protocol):
    """A module that drops its activations and computes them again in backward where `recompute` is set."""

    recompute: bool


@dataclass(frozen=True)
class Loss:
    """A *summed* loss, what it is to be divided by, and further sums to report.

    Attributes:
        total: scalar, the sum over all targets (never a mean).
        weight: scalar, the number of real targets. The loop divides once, by the global weight.
        metrics: further summed scalars, divided by the same weight when reported.
    """

    total: Tensor
    weight: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class RowSums:
    """A figure of each row of a batch: sums (B,), and what they are divided by in the end (B,)."""

    totals: Tensor
    weights: Tensor
    unit: str


class Objective(Protocol):
    """What is learnt. `reduction` says whether losses of parts of a batch add up.

    `corrupt` makes the model's batch out of the loader's, a row by its own draws alone; `loss` takes any rows of it.

    Attributes:
        asks: whether it makes questions of its own out of text, by whose answers held-out text is scored (it is an
            AskingObjective then); else every next token is.
    """

    reduction: str  # "additive" or "joint"
    asks: bool

    def corrupt(self, batch: Any, draws: Draws) -> Any: ...

    def loss(self, model: Any, batch: Any) -> Loss: ...

    def training_flops(self, model: Any, tokens: int) -> float:
        """Floating-point operations of forward and backward per token of the loader's rows of `tokens` tokens."""
        ...


class Ranks(Protocol):
    """The processes of a run, of which this is number `rank`."""

    @property
    def rank(self) -> int: ...

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Add the tensors of all ranks, in place."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, in their order; all have as many."""
        ...


class JointObjective(Objective, Protocol):
    """An objective of `reduction` "joint": its loss is one of all rows of a step together."""

    def gradients(self, model: Any, micro_batches: Sequence[Any], seeds: Sequence[int], ranks: Ranks) -> Loss:
        """Add a step's gradient, this rank's part of it, to the parameters.

        Args:
            micro_batches: this rank's rows, on any device.
            seeds: of each one's dropout.
        """
        ...


class AskingObjective(Objective, Protocol):
    """An objective that makes questions out of text, and says how well a model answers them."""

    def scores(self, model: Any, batch: Any) -> Mapping[str, RowSums]:
        """Held-out figures of a corrupted batch by name, the one that training lowers first."""
        ...

    def questions(self, before: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """Of a batch and what it was corrupted to: each place's left neighbour, and its target or IGNORE."""
        ...


class Loader(Protocol):
    """Batches as a pure function of the step."""

    def batch(self, step: int) -> Any: ...

    def names(self, step: int) -> Sequence[str]: ...


class Evaluator(Protocol):
    """Yields metrics of a model; padding is masked, and the result does not depend on the batch size."""

    def run(self, model: Any) -> Iterator[Metric]: ...
