"""Models compiled wherever an objective enters them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from corestone.core.protocols import ManyWaysIn

OPTIONS = {"inductor": {"fallback_random": True}}
"""By backend. Dropout is drawn as without a compiler: an objective that runs a batch twice, by two ways that are
compiled apart, needs the same draws of both."""


class Compiled:
    """A model compiled for the trainer's objective: when it is called, and what its `ways_in` names, where it has them.

    All else is the model's own, and the model itself stays as it is for whoever else holds it.
    """

    def __init__(self, model: nn.Module, backend: str = "inductor") -> None:
        how = partial(torch.compile, backend=backend, options=OPTIONS.get(backend))
        self._model = model
        self._call = how(model)
        ways = model.ways_in if isinstance(model, ManyWaysIn) else ()
        self._ways = {name: how(getattr(model, name)) for name in ways}

    def __call__(self, batch: Any) -> Any:
        return self._call(batch)

    def __getattr__(self, name: str) -> Any:
        return self._ways[name] if name in self._ways else getattr(self._model, name)
