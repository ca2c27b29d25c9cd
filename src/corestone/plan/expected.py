"""Expected loss of a language model, and what data that is seen again is worth.

Units: parameters without embeddings and tokens; loss in nats per token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

E, A, B, ALPHA, BETA = 1.8172, 482.01, 2085.43, 0.3478, 0.3658
"""L = E + A / N^alpha + B / D^beta, the corrected fit (Besiroglu et al. 2024, arXiv 2404.10102) of the parametric law
(Hoffmann et al. 2022, section 3.3)."""

CAVEAT = "a law of another corpus and tokenizer, and of at most 16 B parameters: compare plans by it, not models"

LEAST_PARAMETERS, LEAST_TOKENS = 4e7, 1e9
"""Below which the law says nothing: its runs had 70 M parameters and more (Hoffmann et al. 2022, section 3)."""

REPEATS = 15.387756
"""R*_D: repetitions after which repeated data is worth 1 - 1/e of new data on average (Muennighoff et al. 2023, arXiv
2305.16264, appendix A)."""


def expected_loss(parameters: float, tokens: float) -> float:
    """Nats per token at the end of training."""
    loss: float = E + A / parameters**ALPHA + B / tokens**BETA
    return loss


def is_lawful(parameters: float, tokens: float) -> bool:
    """Whether a run is large enough for the law."""
    return parameters >= LEAST_PARAMETERS and tokens >= LEAST_TOKENS


def compute_optimal(flops: float) -> tuple[float, float]:
    """Parameters and tokens of least loss at C = 6 N D (Hoffmann et al. 2022, equation 4)."""
    G = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    parameters = G * (flops / 6) ** (BETA / (ALPHA + BETA))
    return parameters, flops / 6 / parameters


def effective_tokens(unique: float, tokens: float) -> float:
    """New tokens that are worth as much as `tokens` out of `unique` ones: U + U R* (1 - exp(-R / R*)) with R = D/U - 1
    (Muennighoff et al. 2023, equation 5)."""
    if tokens <= unique:
        return tokens
    return unique * (1 + REPEATS * (1 - math.exp(-(tokens / unique - 1) / REPEATS)))


def critical_batch(loss: float) -> float:
    """Tokens of a batch beyond which more of them save few steps: B* / L^(1/alpha_B) (Kaplan et al. 2020, equation
    1.4)."""
    tokens: float = 2.1e8 / loss ** (1 / 0.21)
    return tokens


def least_tokens(parameters: float) -> float:
    """Tokens that avoid over-fitting: 5,000 N^0.74 (Kaplan et al. 2020, equation 4.4)."""
    tokens: float = 5e3 * parameters**0.74
    return tokens


def learning_rate(parameters: float) -> float | None:
    """Adam's by rule of thumb: 0.003239 - 0.0001395 ln N (Kaplan et al. 2020, appendix D.6); None above 10 B, where it
    breaks."""
    return None if parameters > 1e10 else 0.003239 - 0.0001395 * math.log(parameters)


@dataclass(frozen=True)
class Alternative:
    """Another split of the same compute between parameters and tokens."""

    name: str
    parameters: float
    tokens: float
    loss: float


def alternatives(parameters: float, tokens: float) -> list[Alternative]:
    """The plan's own split, the best one by the law, and half and twice the parameters."""
    flops = 6 * parameters * tokens
    splits = {"this plan": parameters, "half the parameters": parameters / 2, "twice the parameters": parameters * 2}
    splits["least loss"] = compute_optimal(flops)[0]
    return [Alternative(name, N, flops / 6 / N, expected_loss(N, flops / 6 / N)) for name, N in splits.items()]
