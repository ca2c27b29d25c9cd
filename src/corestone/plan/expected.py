"""What a plan says of a language model's loss, and what data that is seen again is worth.

Units: parameters, all of them for the law of loss and without embeddings for the rules of Kaplan et al.; tokens; loss
in nats per token. Plans reach beyond what the laws' runs measured; a plan says so once (`CAVEAT`), so their own
warnings are kept back here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from corestone.core.errors import SpecError
from corestone.plan import kaplan, law
from corestone.plan.chinchilla import BESIROGLU, PARAMETERS
from corestone.plan.law import FLOPS_PER_PARAMETER_AND_TOKEN, OutsideRange, SaturatingLaw

CAVEAT = "a law of another corpus and tokenizer, and of at most 16 B parameters: compare plans by it, not models"

LEAST_TOKENS = 1e9
"""Tokens below which a plan tells no loss: a fifth of the fewest of the law's runs."""

REPEATS = 15.387756
"""R*_D: repetitions after which repeated data is worth 1 - 1/e of new data on average (Muennighoff et al. 2023, arXiv
2305.16264, appendix A)."""


@contextmanager
def _beyond() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutsideRange)
        yield


def expected_loss(parameters: float, tokens: float, by: SaturatingLaw = BESIROGLU) -> float:
    """Loss at the end of training, by a law of parameters and tokens: unless another is given the corrected fit
    (Besiroglu et al. 2024), in nats per token."""
    with _beyond():
        return by.loss(parameters, tokens)


def is_lawful(parameters: float, tokens: float) -> bool:
    """Whether a run is large enough for the law."""
    return parameters >= PARAMETERS.low and tokens >= LEAST_TOKENS


def compute_optimal(flops: float, by: SaturatingLaw = BESIROGLU) -> tuple[float, float]:
    """Parameters and tokens of least loss at a compute."""
    with _beyond():
        best = law.optimum(by, flops)
    return best.parameters, best.tokens


def effective_tokens(unique: float, tokens: float) -> float:
    """New tokens that are worth as much as `tokens` out of `unique` ones: U + U R* (1 - exp(-R / R*)) with R = D/U - 1
    (Muennighoff et al. 2023, equation 5)."""
    if tokens <= unique:
        return tokens
    return unique * (1 + REPEATS * (1 - math.exp(-(tokens / unique - 1) / REPEATS)))


def critical_batch(loss: float) -> float:
    """Tokens of a batch beyond which more of them save few steps (`kaplan.CriticalBatch`)."""
    with _beyond():
        return kaplan.CRITICAL_BATCH.tokens(loss)


def least_tokens(parameters: float) -> float:
    """Tokens that avoid over-fitting (`kaplan.tokens_against_overfitting`)."""
    with _beyond():
        return kaplan.tokens_against_overfitting(parameters)


def learning_rate(parameters: float) -> float | None:
    """Adam's by the rule of thumb of `kaplan.learning_rate`; None where that rule breaks."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", OutsideRange)
            return kaplan.learning_rate(parameters)
    except (OutsideRange, SpecError):
        return None


@dataclass(frozen=True)
class Alternative:
    """Another split of the same compute between parameters and tokens."""

    name: str
    parameters: float
    tokens: float
    loss: float


def alternatives(parameters: float, tokens: float, by: SaturatingLaw = BESIROGLU) -> list[Alternative]:
    """The plan's own split, the best one by the law, and half and twice the parameters."""
    work = parameters * tokens
    splits = {"this plan": parameters, "half the parameters": parameters / 2, "twice the parameters": parameters * 2}
    splits["least loss"] = compute_optimal(FLOPS_PER_PARAMETER_AND_TOKEN * work, by)[0]
    return [Alternative(name, N, work / N, expected_loss(N, work / N, by)) for name, N in splits.items()]
