"""Choosing the next token: pure functions on logits, applied in the order of the fields of `Sampling`.

A filter hides what it refuses by -inf and never looks at the other rows, so a row draws the same tokens whatever
batch it is in. Tokens as likely as the last one kept are kept too: the kept set then does not depend on how equal
values happen to be sorted.

Shape letters: B batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from corestone.core.rng import fold
from corestone.generate.spec import Sampling

NEVER = float("-inf")


def streams(seed: int, rows: int) -> list[torch.Generator]:
    """One random stream per row of a batch, a function of the seed and the row's number alone."""
    return [torch.Generator().manual_seed(fold(seed, "generate", row)) for row in range(rows)]


def penalise(logits_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    """Make tokens already there less likely: divide positive logits, multiply negative ones.

    Args:
        seen_BV: bool, True for the tokens that stand in the row.
    """
    if penalty == 1.0:
        return logits_BV
    lowered_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return torch.where(seen_BV, lowered_BV, logits_BV)


def keep_top_k(logits_BV: Tensor, k: int | None) -> Tensor:
    """Keep the k likeliest tokens."""
    if k is None or k >= logits_BV.shape[-1]:
        return logits_BV
    last_B1 = torch.topk(logits_BV, k, dim=-1).values[..., -1:]
    return logits_BV.masked_fill(logits_BV < last_B1, NEVER)


def keep_top_p(logits_BV: Tensor, p: float | None) -> Tensor:
    """Keep the fewest likeliest tokens whose probabilities sum to at least p; always at least one."""
    if p is None or p >= 1.0:
        return logits_BV
    sorted_BV = torch.sort(logits_BV, dim=-1, descending=True).values
    probabilities_BV = torch.softmax(sorted_BV.double(), dim=-1)
    before_BV = probabilities_BV.cumsum(dim=-1) - probabilities_BV  # mass of all likelier tokens
    kept_B1 = (before_BV < p).sum(dim=-1, keepdim=True).clamp_(min=1)
    return logits_BV.masked_fill(logits_BV < sorted_BV.gather(-1, kept_B1 - 1), NEVER)


def keep_min_p(logits_BV: Tensor, fraction: float | None) -> Tensor:
    """Keep tokens at least `fraction` times as likely as the likeliest."""
    if not fraction:
        return logits_BV
    lead_BV = logits_BV - logits_BV.max(dim=-1, keepdim=True).values
    return logits_BV.masked_fill(torch.exp(lead_BV) < fraction, NEVER)


def filtered(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Logits, divided by the temperature (above 0), of the tokens that may be drawn; -inf for the others."""
    logits_BV = keep_top_k(logits_BV / sampling.temperature, sampling.top_k)
    return keep_min_p(keep_top_p(logits_BV, sampling.top_p), sampling.min_p)


def draw(logits_BV: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw a token per row in proportion to exp(logit), with one uniform number of the row's own stream."""
    uniform_B1 = torch.cat([torch.rand(1, 1, dtype=torch.float64, generator=generator) for generator in generators])
    mass_BV = torch.softmax(logits_BV.double(), dim=-1).cumsum(dim=-1)
    # A uniform number just below 1 must not round up to the whole mass, which no token lies above.
    point_B1 = uniform_B1.clamp_(max=1 - 2**-40).to(mass_BV.device) * mass_BV[:, -1:]
    return torch.searchsorted(mass_BV, point_B1, right=True).squeeze(1)


def choose(logits_BV: Tensor, seen_BV: Tensor | None, sampling: Sampling, rows: Sequence[torch.Generator]) -> Tensor:
    """The next token of each row, int64 (B,).

    Args:
        logits_BV: of real tokens only.
        seen_BV: tokens already in each row; None where there is no repetition penalty.
        rows: a stream per row; unused at temperature 0.
    """
    if seen_BV is not None:
        logits_BV = penalise(logits_BV.float(), seen_BV, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1)
    return draw(filtered(logits_BV.float(), sampling), rows)
