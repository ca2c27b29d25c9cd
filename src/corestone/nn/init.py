"""Initial values of parameters, each from a seed of its own.

A parameter's values depend on the seed, its name and its shape alone, not on the order in which modules are built.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from corestone.core.errors import SpecError
from corestone.core.rng import fold
from corestone.nn.attention import AttentionLayer, CrossAttentionLayer
from corestone.nn.batch_norm import BatchNorm
from corestone.nn.bottleneck import BottleneckBlock
from corestone.nn.spec import Init
from corestone.nn.ssm import DiagonalSSM, ShiftSSM

M = TypeVar("M", bound=nn.Module)


_FILLS = {nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, nn.init.trunc_normal_, nn.init.xavier_uniform_}


class _Unfilled(TorchFunctionMode):
    """Layers begin without values: on the meta device there is nothing to fill, and torch loads its compiler to do it,
    which takes a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_values() -> Iterator[None]:
    """Where models are built: on the meta device, in milliseconds whatever their size."""
    with torch.device("meta"), _Unfilled():
        yield


def started(model: M, device: torch.device | str, spec: Init, branches: int, seed: int) -> M:
    """A model that was built on the meta device, on another one and with its initial values; on the meta device as it
    is."""
    if torch.device(device).type != "meta":
        materialise(model, device)
        initialise(model, spec, branches, seed)
    return model


def materialise(model: nn.Module, device: torch.device | str) -> None:
    """Bring a model from the meta device to another one, its parameters without values. What shares a parameter goes on
    sharing it."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in made:  # torch.empty_like of a meta tensor loads torch's compiler
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                made[id(parameter)] = nn.Parameter(empty)
            module.register_parameter(name, made[id(parameter)])
        if isinstance(module, BatchNorm):
            module.start(device)


def init_std(name: str, spec: Init, branches: int, inputs: int) -> float | None:
    """The standard deviation a parameter with so many inputs starts with; None: constant, or as its layer says."""
    for rule in spec.rules or ():
        if any(fnmatchcase(name, pattern) for pattern in rule.match):
            return rule.std
    std = 1 / math.sqrt(inputs) if spec.std is None else spec.std
    residual = std / math.sqrt(branches) if spec.scale_residual else std
    rules: list[tuple[str, float | None]] = [
        ("*.bias", None),
        ("*norm.weight", None),
        ("*.log_scale", None),
        ("*.conv.weight", None),
        ("*.mixer.shift.*", None),
        ("*.mixer.diagonal.*", None),
        ("*position.weight", spec.position_std),
        ("*embedding.types.weight", spec.position_std),
        ("*embedding.token.weight", std if spec.token_std is None else spec.token_std),
        ("*.mixer.out.weight", residual),
        ("*.cross.out.weight", residual),
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

    Raises SpecError for a pattern of the rules that matches nothing, and for a parameter that two rules claim.
    """
    _check_rules([name for name, _ in model.named_parameters()], spec)
    for name, parameter in model.named_parameters():
        std = init_std(name, spec, branches, inputs_of(parameter))
        if std is None:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            if name.endswith("conv.weight"):  # half of the token itself, the rest from before (So et al. 2021, code)
                parameter.fill_(0.5 / parameter.shape[0])
                parameter[0] = 0.5
            continue
        values = torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, std, generator=_seeded(seed, name))
        parameter.copy_(values)
    for name, module in model.named_modules():
        if isinstance(module, AttentionLayer | CrossAttentionLayer):
            module.start_like_scaled()
        if isinstance(module, BottleneckBlock):
            module.start_as_identity()
        if isinstance(module, ShiftSSM | DiagonalSSM):
            module.start(partial(_seeded, seed, name))


def inputs_of(parameter: Tensor) -> int:
    """What each output of a map sums over; of a convolution, whose kernels have four axes, all but the first."""
    return parameter.shape[-1:].numel() if parameter.ndim < 4 else parameter.shape[1:].numel()


def _check_rules(names: Sequence[str], spec: Init) -> None:
    for rule in spec.rules or ():
        for pattern in rule.match:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise SpecError(f"init.rules: pattern '{pattern}' matches no parameter; the last is '{names[-1]}'")
    for name in names:
        claims = [r for r in spec.rules or () if any(fnmatchcase(name, pattern) for pattern in r.match)]
        if len(claims) > 1:
            both = " and ".join(str(list(rule.match)) for rule in claims)
            raise SpecError(f"init.rules: parameter '{name}': rules {both} both claim it; let one match")


def _seeded(seed: int, *path: str) -> torch.Generator:
    """The generator of one parameter."""
    return torch.Generator().manual_seed(fold(seed, "init", ".".join(path)))
