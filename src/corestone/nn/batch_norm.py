"""Batch normalisation.

Shape letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corestone.core.errors import DataError, SpecError
from corestone.nn.exact import Exact
from corestone.nn.modes import is_frozen, training_mode

EPS = 1e-5

MOMENTUM = 0.1
"""The newest batch's share of the running statistics."""


class BatchNorm(Exact):
    """Each channel of (B, C) or (B, C, H, W) without its mean and divided by its deviation, then a gain and a bias
    (Ioffe and Szegedy 2015).

    In training, mean and deviation are those of the rows that this forward sees, and running statistics follow them. So
    rows depend on each other: micro-batches, or ranks, that split a batch otherwise give other gradients, and each rank
    keeps running statistics of its own rows. In evaluation the running statistics are taken, and rows are independent.

    Gain, bias, `mean` and `variance` (buffers) stay float32, and statistics are float32, whatever format `x` has, which
    is the output's too.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.newest = MOMENTUM
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.register_buffer("mean", torch.empty(channels))
        self.register_buffer("variance", torch.empty(channels))

    def start(self, device: torch.device | str) -> None:
        """Running statistics of nothing seen: mean 0, variance 1."""
        self.mean = torch.zeros_like(self.mean, device=device)
        self.variance = torch.ones_like(self.variance, device=device)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            raise SpecError(
                "batch norm: one row with one value per channel has no deviation; train with two rows or more in each "
                "micro-batch"
            )
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, self.training, self.newest, EPS)


@torch.no_grad()
def recompute_statistics(model: nn.Module, batches: Iterable[Any]) -> None:
    """Give batch norms the statistics of the weights that the model now has: the mean over these training batches.

    For averaged weights: the running ones are of other weights. The code published with An et al. 2020 (MNIST) averages
    parameters alone and tests them with the running statistics of the weights in training.

    Args:
        model: on the batches' device; without batch norms nothing happens, and no batch is made. Frozen ones keep
            what they have.

    Raises:
        DataError: there is no batch.
    """
    norms = [module for module in model.modules() if isinstance(module, BatchNorm) and not is_frozen(module)]
    if not norms:
        return
    modes, count = [(module, module.training) for module in model.modules()], 0
    training_mode(model)
    try:
        for batch in batches:
            count += 1
            for norm in norms:
                norm.newest = 1 / count
            model(batch)
    finally:
        for module, training in modes:
            module.training = training
        for norm in norms:
            norm.newest = MOMENTUM
    if count == 0:
        raise DataError("statistics of batch norm: no batch to take them from; give at least one")
