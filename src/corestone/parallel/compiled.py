"""Models compiled wherever an objective enters them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

OPTIONS = {"inductor": {"fallback_random": True}}
"""By backend. Dropout is drawn as without a compiler: an objective that runs a batch twice, by two ways that are
compiled apart, needs the same draws of both."""


class Compiled:
    """A model whose ways in are compiled, for the trainer's objective.

    All else is the model's own, and the model itself stays as it is for whoever else holds it.
    """

    def __init__(self, model: nn.Module, ways: Sequence[str] = (), backend: str = "inductor") -> None:
        """
        Args:
            ways: names of the methods and inner models by which objectives enter, beside calling the model.
            backend: torch's compiler.
        """
        how = partial(torch.compile, backend=backend, options=OPTIONS.get(backend))
        self._model = model
        self._call = how(model)
        self._ways = {name: how(getattr(model, name)) for name in ways}

    def __call__(self, batch: Any) -> Any:
        return self._call(batch)

    def __getattr__(self, name: str) -> Any:
        return self._ways[name] if name in self._ways else getattr(self._model, name)
