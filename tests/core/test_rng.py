"""Draws of a row depend on its number alone."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from corestone.core.rng import Draws


@given(seed=st.integers(0, 2**63 - 1), rows=st.integers(1, 9), first=st.integers(0, 9), tokens=st.integers(1, 40))
def test_a_row_draws_the_same_alone_and_among_others(seed, rows, first, tokens):
    whole, part = Draws(seed, range(first + rows)), Draws(seed, range(first, first + rows))
    for _ in range(2):
        assert torch.equal(whole.uniform(2, tokens)[first:], part.uniform(2, tokens))
    chosen = torch.tensor([first + rows - 1, first])
    assert torch.equal(whole.select(chosen).uniform(3), whole.uniform(3)[chosen])


def test_numbers_are_spread_evenly_and_unlike_each_other():
    """Mean and correlations of a million numbers: within 4 standard errors of what chance gives."""
    numbers = Draws(7, range(1000)).uniform(1000)
    assert numbers.dtype == torch.float32
    assert 0 <= numbers.min() < 1e-4
    assert 1 - 1e-4 < numbers.max() < 1
    assert abs(float(numbers.double().mean()) - 0.5) < 4 * (1 / 12) ** 0.5 / 1000
    for one, other in [
        (numbers[:, :-1], numbers[:, 1:]),
        (numbers[:-1], numbers[1:]),
        (numbers, Draws(8, range(1000)).uniform(1000)),
    ]:
        correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]).double())[0, 1]
        assert abs(float(correlation)) < 0.004
    counts = torch.histc(numbers, 100, 0, 1)
    assert float((counts - 10_000).square().sum() / 10_000) < 160  # chi-squared, 99 degrees of freedom
