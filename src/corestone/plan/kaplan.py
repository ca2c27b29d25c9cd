"""Kaplan et al. 2020, "Scaling Laws for Neural Language Models" (arXiv 2001.08361).

Units: parameters are those outside of embeddings (N), tokens (D), steps (S), batches in tokens (B), compute in PF-days
(C; 8.64e19 FLOPs), losses in nats per token of WebText2 (vocabulary 50,257, context 1,024). Ranges of parameters and
tokens are those of section 3. The paper prints no range of compute; section 6.3 says where its own laws must break
(about 1e4 PF-days, 1e12 parameters). `C_min` is compute at a batch far below the critical one, `S_min` steps at one far
above it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from corestone.core.errors import SpecError
from corestone.plan.law import FLOPS_PER_PARAMETER_AND_TOKEN, LOSS, PowerLaw, Range

PF_DAY = 8.64e19
"""FLOPs: 1e15 FLOP/s for a day."""

PARAMETERS = Range("parameters outside of embeddings", 768, 1.5e9)
TOKENS = Range("tokens", 22e6, 23e9)
COMPUTE = Range("PF-days", 0, 1e4)
STEPS = Range("steps")
BATCH = Range("tokens per batch")

SIZE = PowerLaw(PARAMETERS, 8.8e13, 0.076, "Kaplan et al. 2020, eq. 1.1: L(N), trained to convergence on enough data")
DATA = PowerLaw(TOKENS, 5.4e13, 0.095, "Kaplan et al. 2020, eq. 1.2: L(D), large models, stopped early")
NAIVE_COMPUTE = PowerLaw(COMPUTE, 1.6e7, 0.057, "Kaplan et al. 2020, appendix A: naive L(C), batches of 2^19 tokens")
MIN_COMPUTE = PowerLaw(COMPUTE, 3.1e8, 0.050, "Kaplan et al. 2020, eq. 1.3: L(C_min)")


@dataclass(frozen=True)
class SizeAndData:
    """L(N, D): finite models on finite data, stopped early (eq. 1.5, constants of table 2)."""

    size_exponent: float = 0.076
    data_exponent: float = 0.103
    size_scale: float = 6.4e13
    data_scale: float = 1.8e13
    source: str = "Kaplan et al. 2020, eq. 1.5: L(N, D)"

    def loss(self, parameters: float, tokens: float) -> float:
        """Nats per token. Warns OutsideRange; raises SpecError where an argument is not positive."""
        size = PARAMETERS.check(parameters, self.source)
        data = TOKENS.check(tokens, self.source)
        ratio = self.size_exponent / self.data_exponent
        return float(((self.size_scale / size) ** ratio + self.data_scale / data) ** self.data_exponent)


@dataclass(frozen=True)
class SizeAndSteps:
    """L(N, S_min): learning curves on enough data (eq. 1.6, constants of table 3)."""

    size_exponent: float = 0.077
    steps_exponent: float = 0.76
    size_scale: float = 6.5e13
    steps_scale: float = 2.1e3
    source: str = "Kaplan et al. 2020, eq. 1.6: L(N, S_min)"

    def loss(self, parameters: float, min_steps: float) -> float:
        """Nats per token. Warns OutsideRange; raises SpecError where an argument is not positive."""
        size = PARAMETERS.check(parameters, self.source)
        steps = STEPS.check(min_steps, self.source)
        return float((self.size_scale / size) ** self.size_exponent + (self.steps_scale / steps) ** self.steps_exponent)


@dataclass(frozen=True)
class CriticalBatch:
    """Batch above which time is saved slowly and compute is wasted fast: `scale / L^(1/exponent)` tokens (eq. 1.4).

    The paper prints its scale as 2.1e8 in one place and 2e8 in another; this is the former.
    """

    scale: float = 2.1e8
    exponent: float = 0.21
    source: str = "Kaplan et al. 2020, eq. 1.4: critical batch"

    def tokens(self, loss: float) -> float:
        """At a loss in nats per token."""
        return float(self.scale / LOSS.check(loss, self.source) ** (1 / self.exponent))

    def min_steps(self, steps: float, batch_tokens: float, loss: float) -> float:
        """S_min: the steps that a far larger batch would have needed for the same loss (eq. 5.4)."""
        batch = BATCH.check(batch_tokens, self.source)
        return STEPS.check(steps, self.source) / (1 + self.tokens(loss) / batch)

    def min_compute(self, pf_days: float, batch_tokens: float, loss: float) -> float:
        """C_min: the compute that a far smaller batch would have needed for the same loss (eq. 5.5)."""
        batch = BATCH.check(batch_tokens, self.source)
        return COMPUTE.check(pf_days, self.source) / (1 + batch / self.tokens(loss))


SIZE_AND_DATA = SizeAndData()
SIZE_AND_STEPS = SizeAndSteps()
CRITICAL_BATCH = CriticalBatch()


@dataclass(frozen=True)
class Allocation:
    """How to spend a compute: parameters, batch and steps (S_min), and tokens of one pass."""

    parameters: float
    batch_tokens: float
    min_steps: float
    tokens: float


def optimal(pf_days: float) -> Allocation:
    """Best use of C_min by the fits of the main text (section 6 and table of appendix A).

    Raises SpecError where the compute is not positive; warns OutsideRange above 1e4 PF-days.
    """
    compute = COMPUTE.check(pf_days, "Kaplan et al. 2020, appendix A: compute-optimal N, B, S, D")
    return Allocation(
        parameters=1.3e9 * compute**0.73,
        batch_tokens=2.0e6 * compute**0.24,
        min_steps=5.4e3 * compute**0.03,
        tokens=2.0e10 * compute**0.27,
    )


def derived_compute_law() -> PowerLaw:
    """L(C_min) as it follows from L(N, S_min) and the critical batch (eq. B.6 to B.8).

    The paper fits 3.1e8 and 0.050 (`MIN_COMPUTE`); for the derived exponent it prints 0.054 in section 6.2
    and 0.052 here.
    """
    size, steps, batch = SIZE_AND_STEPS.size_exponent, SIZE_AND_STEPS.steps_exponent, CRITICAL_BATCH.exponent
    stop = stop_above_converged()
    flops = FLOPS_PER_PARAMETER_AND_TOKEN * SIZE_AND_STEPS.size_scale * CRITICAL_BATCH.scale
    flops *= SIZE_AND_STEPS.steps_scale * (1 + stop) ** (1 / steps + 1 / size) * stop ** (-1 / steps)
    source = "Kaplan et al. 2020, appendix B.2: derived L(C_min)"
    return PowerLaw(COMPUTE, flops / PF_DAY, 1 / (1 / steps + 1 / batch + 1 / size), source)


def derived_optimal(pf_days: float) -> Allocation:
    """Best use of C_min as it follows from L(N, S_min) and the critical batch (appendix B.2).

    The loss of `derived_compute_law` is `1 + stop_above_converged()` times the converged one, which gives N; what the
    steps add gives S_min; then `C_min = 6 N B_crit S_min`. `batch_tokens` is the critical batch, at which a run makes
    2 S_min steps; `tokens` are those of C_min, `B_crit S_min`.

    Raises SpecError where the compute is not positive; warns OutsideRange above 1e4 PF-days.
    """
    loss, stop = derived_compute_law().loss(pf_days), stop_above_converged()
    converged = loss / (1 + stop)
    steps = SIZE_AND_STEPS.steps_scale * (stop * converged) ** (-1 / SIZE_AND_STEPS.steps_exponent)
    batch = CRITICAL_BATCH.tokens(loss)
    parameters = SIZE_AND_STEPS.size_scale * converged ** (-1 / SIZE_AND_STEPS.size_exponent)
    return Allocation(parameters, batch, steps, batch * steps)


def stop_above_converged() -> float:
    """Fraction above its converged loss at which the best model of a compute stops: about 10 % (eq. B.5)."""
    return SIZE_AND_STEPS.size_exponent / SIZE_AND_STEPS.steps_exponent


@dataclass(frozen=True)
class Change:
    """How parameters, steps and compute differ between two ways to one loss, as ratios."""

    parameters: float
    steps: float
    compute: float


def change(stop: float, other: float) -> Change:
    """Stopping a fraction above the converged loss against stopping another fraction above it, at one loss (app. B.3).

    Raises SpecError where a fraction is not positive.
    """
    above, source = Range("fraction above the converged loss"), "Kaplan et al. 2020, appendix B.3"
    one, two = above.check(stop, source), above.check(other, source)
    parameters = ((1 + one) / (1 + two)) ** (1 / SIZE_AND_STEPS.size_exponent)
    steps = ((1 + 1 / one) / (1 + 1 / two)) ** (1 / SIZE_AND_STEPS.steps_exponent)
    return Change(parameters, steps, parameters * steps)


def off_size_compute(size_ratio: float) -> float:
    """Compute relative to the best that a model of `size_ratio` times the best size needs for the same loss (app. B.4).

    Raises SpecError where so small a model never reaches it.
    """
    source = "Kaplan et al. 2020, appendix B.4"
    ratio = Range("ratio of sizes").check(size_ratio, source)
    left = 1 + (1 - ratio**-SIZE_AND_STEPS.size_exponent) / stop_above_converged()
    if left <= 0:
        raise SpecError(f"{source}: a model of {ratio:.3g} times the best size never reaches that loss; give a larger")
    return float(ratio * left ** (-1 / SIZE_AND_STEPS.steps_exponent))


def early_stop_steps(parameters: float, tokens: float) -> float:
    """Lower bound of S_min at which held-out loss begins to rise on finite data (eq. 5.7).

    Warns OutsideRange; raises SpecError where an argument is not positive.
    """
    size, law = PARAMETERS.check(parameters, "Kaplan et al. 2020, eq. 5.7: early stopping"), SIZE_AND_DATA
    gap = law.loss(parameters, tokens) - (law.size_scale / size) ** law.size_exponent
    return float(SIZE_AND_STEPS.steps_scale / gap ** (1 / SIZE_AND_STEPS.steps_exponent))


def tokens_against_overfitting(parameters: float) -> float:
    """Tokens below which a model over-fits noticeably: 5e3 N^0.74 (eq. 4.4)."""
    return float(
        5.0e3 * PARAMETERS.check(parameters, "Kaplan et al. 2020, eq. 4.4: tokens against over-fitting") ** 0.74
    )


LEARNING_RATE_RANGE = Range("parameters outside of embeddings", 768, 1e10)
"""The paper says that its rule breaks above 1e10 parameters (appendix D.6)."""


def learning_rate(parameters: float) -> float:
    """Peak learning rate of Adam: `0.003239 - 0.0001395 ln N` (eq. D.1).

    A rule of thumb of the paper for its own runs (batches of 512 x 1,024 tokens, 3,000 steps of warmup, cosine to 0).

    Warns OutsideRange above 1e10 parameters. Raises SpecError from 1.21e10 on, where it is no longer positive.
    """
    source = "Kaplan et al. 2020, eq. D.1: learning rate"
    rate = 0.003239 - 0.0001395 * math.log(LEARNING_RATE_RANGE.check(parameters, source))
    if rate <= 0:
        raise SpecError(f"{source}: it gives none at {parameters:.3g} parameters; choose one by trial")
    return rate


@dataclass(frozen=True)
class ForwardFlops:
    """FLOPs of one token's forward pass by part (table 1); a training step costs three times as much.

    Attributes:
        parameters: outside of embeddings and biases: N.
    """

    parameters: int
    embed: int
    qkv: int
    mask: int
    project: int
    feedforward: int
    de_embed: int

    @property
    def total(self) -> int:
        """Without embedding and de-embedding, as the paper counts: `2 N + 2 depth context_length attention_dim`."""
        return self.qkv + self.mask + self.project + self.feedforward


def forward_flops(
    *, width: int, depth: int, attention_dim: int, hidden_dim: int, context_length: int, vocab_size: int
) -> ForwardFlops:
    """Table 1 of the paper.

    Args:
        attention_dim: heads times width of a head.
    """
    return ForwardFlops(
        parameters=2 * width * depth * (2 * attention_dim + hidden_dim),
        embed=4 * width,
        qkv=2 * depth * width * 3 * attention_dim,
        mask=2 * depth * context_length * attention_dim,
        project=2 * depth * attention_dim * width,
        feedforward=2 * depth * 2 * width * hidden_dim,
        de_embed=2 * width * vocab_size,
    )
