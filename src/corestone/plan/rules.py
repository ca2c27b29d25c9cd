"""Published rules for learning rate, batch, warm-up, decay and length: their constants, each with its source.

Units: parameters, tokens, pictures, FLOPs and steps as the names say. What is in `kaplan` is not repeated here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib import resources
from itertools import pairwise

from corestone.core.spec import Spec, from_yaml
from corestone.plan.law import Range
from corestone.plan.spec import Published

OFF = 3.0
"""A rate so many times a rule's is called off it; ours, since near-optimal rates span a band of about that width."""

NEAR = OFF**2
"""A rate that was measured at one batch, or one size, is taken up to so many times away from it; ours: by the square
root of the batch such a rate moves by `OFF` at most."""

SHORTEST = 1 / 100
"""A rate that was measured in long runs is taken down to this share of their length; ours, since short runs bear, and
need, larger rates."""

KAPLAN_BATCH = 512 * 1024
KAPLAN_LENGTH = 250_000 * KAPLAN_BATCH
"""Tokens of the batches and of the runs with which the rule of `kaplan.learning_rate` was found (Kaplan et al. 2020,
section 2.2)."""

TOKENS_PER_PARAMETER = 20.0
"""Of least loss at a compute: 20.2 at 1e9 parameters, 20.5 at 10e9 (Hoffmann et al. 2022, table 3)."""

DEEPSEEK_FLOPS = Range("FLOPs outside of the vocabulary", 1e17, 1e20)
"""Where the two rules below were fitted (to 2e19) and tried (1e20). They count a token's operations without those of
the vocabulary, attention included."""

SGD_BATCH = Range("pictures per batch", 64, 8192)
"""Where `linear_scaling` held on ImageNet; beyond it the error grows (Goyal et al. 2017, figure 1)."""

WARMUP_EPOCHS = 5.0
"""Of the gradual warm-up that the linear scaling rule needs (Goyal et al. 2017, section 2.2)."""

GPT3_WARMUP, GPT3_LENGTH = 375e6, 300e9
"""Tokens of linear warm-up, and of the runs that had it (Brown et al. 2020, appendix B)."""

DECAY_SHARE = 0.1
"""Of the run's tokens, in a schedule of warm-up, stable rate and decay: enough, where 0.025 is not (Hu et al. 2024,
section 4.3, on 36 M parameters)."""

LION_SHARE = (1 / 10, 1 / 3)
"""Of AdamW's rate: "3-10x smaller" (Chen et al. 2023, section 5)."""


class _Published(Spec):
    entries: tuple[Published, ...]


@cache
def published() -> tuple[Published, ...]:
    """Runs whose rate and batch are known, from published.yaml."""
    text = resources.files("corestone.plan").joinpath("published.yaml").read_text(encoding="utf-8")
    return from_yaml(_Published, text, "published.yaml").entries


def family(model: str, objective: str, unit: str) -> tuple[Published, ...]:
    """The published runs of a kind of model and objective, from the smallest."""
    found = [one for one in published() if one.model == model and objective in one.objectives and one.unit == unit]
    return tuple(sorted(found, key=lambda one: one.parameters))


def interpolated(rows: Sequence[Published], parameters: float) -> tuple[float, float]:
    """Rate and batch between published sizes, both power laws of the parameters between two neighbours.

    Beyond the sizes it answers as the nearest one.
    """
    if parameters <= rows[0].parameters or len(rows) == 1:
        return rows[0].learning_rate, rows[0].batch
    for small, large in pairwise(rows):
        if parameters <= large.parameters:
            share = math.log(parameters / small.parameters) / math.log(large.parameters / small.parameters)
            rate = small.learning_rate * (large.learning_rate / small.learning_rate) ** share
            return rate, small.batch * (large.batch / small.batch) ** share
    return rows[-1].learning_rate, rows[-1].batch


def deepseek_learning_rate(flops: float) -> float:
    """AdamW's best rate at a compute: 0.3118 C^-0.1250 (DeepSeek-AI 2024, arXiv 2401.02954, section 3.1, eq. 1)."""
    return float(0.3118 * flops**-0.1250)


def deepseek_batch(flops: float) -> float:
    """The best batch at a compute, in tokens: 0.2920 C^0.3271 (DeepSeek-AI 2024, section 3.1, eq. 1)."""
    return float(0.2920 * flops**0.3271)


def linear_scaling(batch: float) -> float:
    """SGD's rate with momentum 0.9 on ImageNet: 0.1 at 256 pictures, and in proportion (Goyal et al. 2017, section
    2.1 and 5.1)."""
    return 0.1 * batch / 256


def square_root_scaling(rate: float, batch: float, to: float) -> float:
    """Adam's rate at another batch: by the root of the ratio, over as many epochs (Malladi et al. 2022, arXiv
    2205.10287). Its betas move too, 1 - beta by the ratio, so there is no such run beyond a ratio of 1 / (1 - beta1).
    """
    return rate * math.sqrt(to / batch)


def untuned_warmup(beta2: float) -> float:
    """Steps of linear warm-up for Adam: 2 / (1 - beta2) (Ma and Yarats 2021, arXiv 1910.04209)."""
    return 2 / (1 - beta2)


def costs(batch: float, critical: float) -> tuple[float, float]:
    """Examples and steps that a batch takes to a loss, each over the least possible: 1 + B / B_crit and
    1 + B_crit / B (McCandlish et al. 2018, eq. 2.11)."""
    return 1 + batch / critical, 1 + critical / batch
