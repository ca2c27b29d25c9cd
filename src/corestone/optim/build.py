"""From rules and parameters to a torch optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from corestone.core.errors import SpecError
from corestone.optim.adafactor import AdafactorOptimiser
from corestone.optim.adamw import AdamWOptimiser, SGDOptimiser
from corestone.optim.lamb import LambOptimiser
from corestone.optim.lion import LionOptimiser
from corestone.optim.spec import LAMB, SGD, Adafactor, Lion, Optimiser, Rule


def claim(names: Sequence[str], rules: Sequence[Rule]) -> dict[str, Rule]:
    """Give each parameter its one rule.

    Raises SpecError for a parameter that no rule or two rules claim, and for a pattern that matches nothing.
    """
    claimed: dict[str, Rule] = {}
    for name in names:
        matching = [rule for rule in rules if any(fnmatchcase(name, pattern) for pattern in rule.match)]
        if len(matching) != 1:
            found = " and ".join(str(list(rule.match)) for rule in matching)
            what = f"rules {found} both claim it" if matching else "no rule claims it"
            raise SpecError(f"optimiser.rules: parameter '{name}': {what}; each needs exactly one")
        claimed[name] = matching[0]
    for rule in rules:
        for pattern in rule.match:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise SpecError(f"optimiser.rules: pattern '{pattern}' matches no parameter; the last is '{names[-1]}'")
    return claimed


def rules_of(spec: Optimiser, parameters: Mapping[str, Tensor]) -> dict[str, Rule]:
    """Each parameter's rule, with the weight decay that it has under it.

    Without rules, one rule has all: matrices and tables decay, parameters with one axis do not.
    """
    everything = Rule(match=("*",), weight_decay=spec.weight_decay, decay_vectors=False)
    claimed = claim(list(parameters), (everything,) if spec.rules is None else spec.rules)
    return {name: _effective(claimed[name], tensor) for name, tensor in parameters.items()}


def frozen_names(spec: Optimiser, parameters: Mapping[str, Tensor]) -> set[str]:
    """Parameters that keep their values."""
    return {name for name, rule in rules_of(spec, parameters).items() if rule.frozen}


def _effective(rule: Rule, parameter: Tensor) -> Rule:
    spared = parameter.ndim < 2 and not rule.decay_vectors
    return rule.model_copy(update={"weight_decay": 0.0}) if spared else rule


def build_optimiser(spec: Optimiser, parameters: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    """The torch optimiser of a record; it knows nothing of frozen parameters. SpecError where all are."""
    rules = {name: rule for name, rule in rules_of(spec, parameters).items() if not rule.frozen}
    if not rules:
        raise SpecError("optimiser.rules: every parameter is frozen, so there is nothing to train; free some")
    groups = grouped(rules, parameters)
    if isinstance(spec, Adafactor):
        settings = (spec.beta1, spec.beta2, spec.factored, spec.squared_decay)
        return AdafactorOptimiser(groups, spec.learning_rate, *settings)
    if isinstance(spec, Lion):
        return LionOptimiser(groups, spec.learning_rate, spec.beta1, spec.beta2)
    if isinstance(spec, SGD):
        return SGDOptimiser(groups, spec.learning_rate, spec.momentum)
    betas = (spec.beta1, spec.beta2)
    if isinstance(spec, LAMB):
        return LambOptimiser(groups, spec.learning_rate, betas, spec.eps)
    return AdamWOptimiser(groups, spec.learning_rate, betas, spec.eps)


def grouped(rules: Mapping[str, Rule], parameters: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """One group per rule of the parameters that have one here; a group carries its `lr_scale` for the loop to apply."""
    groups = []
    for rule in dict.fromkeys(rules.values()):
        names = [name for name in parameters if rules.get(name) == rule]
        groups.append(
            {
                "params": [parameters[name] for name in names],
                "names": names,
                "weight_decay": rule.weight_decay,
                "lr_scale": rule.lr_scale,
            }
        )
    return groups


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set every group's learning rate, times its own scale."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate * group["lr_scale"]


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors, `PARAMETER/exp_avg` and so on; empty before the first step."""
    tensors = {}
    for group in optimiser.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimiser.state.get(parameter, {}).items():
                tensors[f"{name}/{key}"] = value
    return tensors


def load_optimiser_tensors(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` gave."""
    for group in optimiser.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            prefix = f"{name}/"
            state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if state:
                optimiser.state[parameter] = {key: value.clone() for key, value in state.items()}
            else:
                optimiser.state.pop(parameter, None)
