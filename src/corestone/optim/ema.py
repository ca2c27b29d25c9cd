"""An exponential average of a run's weights, which often generalises better than the last ones (Polyak and Juditsky
1992; Dosovitskiy et al. 2021, table 2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from corestone.core.errors import CheckpointError, DataError, SpecError

UPDATES = "/updates"
"""Name of the number of updates in a checkpoint; no parameter's name has a slash."""


class ExponentialAverage:
    """Averages of float32 parameters; at first the parameters as they are.

    Buffers are not averaged: running statistics of batch norm belong to the weights that made them
    (`recompute_statistics`).

    Args:
        parameters: by name, as the optimiser changes them in place.
        decay: weight of the average in an update.
        ramp: update n (from 1) decays by (1 + n) / (10 + n) where that is less, so that a short run forgets its start
            (the code of An et al. 2020, as TensorFlow's average).
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float, ramp: bool = False) -> None:
        if not 0 <= decay < 1:
            raise SpecError(f"decay of the weights' average: must be at least 0 and less than 1 (got {decay})")
        self.parameters = dict(parameters)
        self.decay, self.ramp = decay, ramp
        self.updates = 0
        self.averages = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the parameters; after every step of the optimiser."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.ramp else self.decay
        torch._foreach_lerp_(list(self.averages.values()), list(self.parameters.values()), 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """The state for a checkpoint: the averages under the names of their parameters, and how many updates made
        them."""
        return {**self.averages, UPDATES: torch.tensor(self.updates)}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave; CheckpointError where it belongs to other parameters."""
        known = {name: average.shape for name, average in self.averages.items()}
        if known | {UPDATES: torch.Size()} != {name: tensor.shape for name, tensor in tensors.items()}:
            differing = sorted(known.keys() ^ (tensors.keys() - {UPDATES}))[:3] or "their shapes"
            raise CheckpointError(
                f"averaged weights: do not fit the model (differing: {differing}); resume with the recipe of the run"
            )
        for name, average in self.averages.items():
            average.copy_(tensors[name])
        self.updates = int(tensors[UPDATES])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model with averaged weights, rounded to its own format; afterwards it has its parameters and buffers
        back, bit for bit, whatever happened to them inside."""
        own = dict(model.named_parameters())
        if own.keys() != self.averages.keys():
            differing = sorted(own.keys() ^ self.averages.keys())
            raise SpecError(f"averaged weights: the model has other parameters (differing: {differing[:3]})")
        held = [*own.values(), *model.buffers()]
        with torch.no_grad():
            kept = [tensor.detach().clone() for tensor in held]
            torch._foreach_copy_(list(own.values()), [self.averages[name] for name in own])
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(held, kept)


def recompute_statistics(model: nn.Module, batches: Iterable[Any]) -> None:
    """Give batch norm the statistics of the weights it now has: the mean over one pass of training batches.

    For averaged weights (`applied`, which takes the statistics back afterwards): the running ones are of other weights.
    The code published with An et al. 2020 (MNIST) averages parameters only and tests them with the running statistics
    of the weights in training; without a call of this function, `applied` does the same.

    Args:
        model: without batch norm nothing happens.
        batches: on the model's device, equally large.

    Raises:
        DataError: there is no batch.
    """
    iterator = iter(batches)
    try:
        first = next(iterator)
    except StopIteration:
        raise DataError("statistics of batch norm: no batch to take them from; give at least one") from None
    update_bn(chain([first], iterator), model)
