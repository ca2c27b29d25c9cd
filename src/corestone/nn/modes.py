"""How modules compute, in training or in evaluation, and which parameters stay as they are."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(model: object) -> Iterator[None]:
    """Evaluation mode within; afterwards each module is in the mode it was in before. What is no module has none."""
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    try:
        if isinstance(model, nn.Module):
            model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def training_mode(model: nn.Module) -> None:
    """Training mode, but evaluation mode in modules whose parameters are all frozen: they drop nothing out, and their
    batch norms keep the statistics they have, so that the same input gives the same values for the whole run."""
    model.train()
    for module in model.modules():
        if is_frozen(module):
            module.eval()


def is_frozen(module: nn.Module) -> bool:
    """Whether it has parameters and trains none of them."""
    some = False
    for parameter in module.parameters():
        if parameter.requires_grad:  # most models train, and their parameters are many
            return False
        some = True
    return some


def freeze(model: nn.Module, names: Collection[str]) -> None:
    """Parameters of these names get no gradient from now on; the model is in `training_mode`."""
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.requires_grad_(False)
    training_mode(model)
