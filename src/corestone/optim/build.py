"""From rules and parameters to a torch optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from corestone.core.errors import SpecError
from corestone.optim.adafactor import AdafactorOptimiser
from corestone.optim.spec import Adafactor, Optimiser, Rule


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
    """Each parameter's rule: the one that claims it, or by its number of axes where the record has no rules."""
    if isinstance(spec, Adafactor):
        return claim(list(parameters), (Rule(match=("*",)),))
    if spec.rules is not None:
        return claim(list(parameters), spec.rules)
    decaying = Rule(match=("*",), weight_decay=spec.weight_decay)
    constant = Rule(match=("*",))
    return {name: decaying if tensor.ndim > 1 else constant for name, tensor in parameters.items()}


def build_optimiser(spec: Optimiser, parameters: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    """One group per rule; a group carries its `lr_scale` for the loop to apply."""
    rules = rules_of(spec, parameters)
    groups = []
    for rule in dict.fromkeys(rules.values()):
        names = [name for name in parameters if rules[name] == rule]
        groups.append(
            {
                "params": [parameters[name] for name in names],
                "names": names,
                "weight_decay": rule.weight_decay,
                "lr_scale": rule.lr_scale,
            }
        )
    if isinstance(spec, Adafactor):
        return AdafactorOptimiser(groups, spec.learning_rate, spec.beta1, spec.factored, spec.squared_decay)
    return torch.optim.AdamW(groups, lr=spec.learning_rate, betas=(spec.beta1, spec.beta2), eps=spec.eps, fused=True)


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
