"""Initial values of parameters, each from a seed of its own.

A parameter's values depend on the seed, its name and its shape alone, not on the order in which modules are built.
"""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

import torch
from torch import nn

from corestone.core.rng import fold
from corestone.nn.attention import AttentionLayer
from corestone.nn.spec import Init


def init_std(name: str, spec: Init, branches: int, inputs: int) -> float | None:
    """The standard deviation a parameter with so many inputs starts with; None: constant."""
    std = 1 / math.sqrt(inputs) if spec.std is None else spec.std
    residual = std / math.sqrt(branches) if spec.scale_residual else std
    rules: list[tuple[str, float | None]] = [
        ("*.bias", None),
        ("*norm.weight", None),
        ("*.conv.weight", None),
        ("*embedding.position.weight", spec.position_std),
        ("*embedding.token.weight", std if spec.token_std is None else spec.token_std),
        ("*.mixer.out.weight", residual),
        ("*.feedforward.down.weight", residual),
        ("*.weight", std),
    ]
    for pattern, found in rules:
        if fnmatchcase(f".{name}", pattern):
            return found
    raise KeyError(f"no initialisation rule claims parameter '{name}'")


@torch.no_grad()
def initialise(model: nn.Module, spec: Init, branches: int, seed: int) -> None:
    """Fill every parameter in place.

    Args:
        branches: number of residual branches, two per layer.
    """
    for name, parameter in model.named_parameters():
        std = init_std(name, spec, branches, parameter.shape[-1])
        if std is None:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            if name.endswith("conv.weight"):  # half of the token itself, the rest from before (So et al. 2021, code)
                parameter.fill_(0.5 / parameter.shape[0])
                parameter[0] = 0.5
            continue
        generator = torch.Generator().manual_seed(fold(seed, "init", name))
        values = torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, std, generator=generator)
        parameter.copy_(values)
    for module in model.modules():
        if isinstance(module, AttentionLayer):
            module.start_like_scaled()
