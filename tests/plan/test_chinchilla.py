"""Hoffmann et al. 2022 and Besiroglu et al. 2024: known answers, and the tables of the former."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corestone.core.errors import SpecError
from corestone.plan import chinchilla
from corestone.plan.law import OutsideRange, compute_exponents, optimal_flops, optimum

GOPHER = 5.76e23


@pytest.fixture(autouse=True)
def extrapolate():
    """The paper's own tables reach beyond what it trained; that this warns is a test of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutsideRange)
        yield


PRECISE_ANSWERS = {
    1e18: (9.467e7, 1.761e9, 3.4480),
    1e19: (2.709e8, 6.153e9, 2.9218),
    1e20: (7.749e8, 2.151e10, 2.5534),
    1e21: (2.217e9, 7.517e10, 2.2955),
    GOPHER: (4.036e10, 2.378e12, 1.9184),
}
BESIROGLU_ANSWERS = {
    1e18: (8.053e7, 2.070e9, 3.4905),
    1e20: (8.535e8, 1.953e10, 2.5534),
    1e21: (2.778e9, 5.999e10, 2.3055),
    GOPHER: (7.225e10, 1.329e12, 1.9744),
}


@pytest.mark.parametrize(
    ("law", "answers"),
    [(chinchilla.PRECISE, PRECISE_ANSWERS), (chinchilla.BESIROGLU, BESIROGLU_ANSWERS)],
    ids=["precise", "besiroglu"],
)
def test_known_optima(law, answers):
    """Rounded to 4 or 5 digits; worst relative difference measured: 2.8e-4 and 2.1e-4."""
    for flops, known in answers.items():
        best = optimum(law, flops)
        assert (best.parameters, best.tokens, best.loss) == pytest.approx(known, rel=5e-4)


def test_the_printed_constants_contradict_the_other_approaches():
    """32e9 (rounded) or 40e9 (precise) parameters at Gopher's compute, where approaches 1 and 2 say 67e9 and 61e9, and
    the corrected fit 72e9: 18.4 tokens per parameter."""
    assert optimum(chinchilla.PRINTED, GOPHER).parameters == pytest.approx(32e9, rel=0.02)
    assert optimum(chinchilla.PRECISE, GOPHER).parameters == pytest.approx(40e9, rel=0.02)
    assert chinchilla.ENVELOPE.optimum(GOPHER)[0] == pytest.approx(67e9)
    best = optimum(chinchilla.BESIROGLU, GOPHER)
    assert best.tokens / best.parameters == pytest.approx(18.4, abs=0.05)
    assert best.parameters == pytest.approx(72e9, rel=0.01)


def test_exponents():
    assert compute_exponents(chinchilla.PRECISE)[0] == pytest.approx(chinchilla.PARAMETRIC.exponent, abs=0.005)
    a = compute_exponents(chinchilla.BESIROGLU)
    printed = chinchilla.BESIROGLU_ERRORS["compute_exponent"]
    assert a[0] == pytest.approx(printed.value, abs=5e-4)
    assert sum(a) == pytest.approx(1)
    for approach in (chinchilla.ENVELOPE, chinchilla.ISOFLOP, chinchilla.PARAMETRIC):
        assert approach.exponent + approach.data_exponent == pytest.approx(1)


def test_the_errors_belong_to_the_constants():
    """Each constant is the middle of its printed interval's inside, and the law is built of these very values."""
    errors, law = chinchilla.BESIROGLU_ERRORS, chinchilla.BESIROGLU
    size, data = law.terms
    built = (law.floor, size.scale, data.scale, size.exponent, data.exponent)
    names = ("floor", "size_scale", "data_scale", "size_exponent", "data_exponent")
    assert built == tuple(errors[name].value for name in names)
    for name in names:
        low, high = errors[name].interval
        assert low < errors[name].value < high


TABLE_3 = [  # approach 1: parameters, FLOPs, tokens
    (400e6, 1.92e19, 8.0e9),
    (1e9, 1.21e20, 20.2e9),
    (10e9, 1.23e22, 205.1e9),
    (67e9, 5.76e23, 1.5e12),
    (175e9, 3.85e24, 3.7e12),
    (280e9, 9.90e24, 5.9e12),
    (520e9, 3.43e25, 11.0e12),
    (1e12, 1.27e26, 21.2e12),
    (10e12, 1.30e28, 216.2e12),
]
TABLE_A3 = [  # parameters, (FLOPs, tokens) of approach 2, (FLOPs, tokens) of approach 3
    (400e6, (1.84e19, 7.7e9), (2.21e19, 9.2e9)),
    (1e9, (1.20e20, 20.0e9), (1.62e20, 27.1e9)),
    (10e9, (1.32e22, 219.5e9), (2.46e22, 410.1e9)),
    (67e9, (6.88e23, 1.7e12), (1.71e24, 4.1e12)),
    (175e9, (4.54e24, 4.3e12), (1.26e25, 12.0e12)),
    (280e9, (1.18e25, 7.1e12), (3.52e25, 20.1e12)),
    (520e9, (4.19e25, 13.4e12), (1.36e26, 43.5e12)),
    (1e12, (1.59e26, 26.5e12), (5.65e26, 94.1e12)),
    (10e12, (1.75e28, 292.0e12), (8.55e28, 1425.5e12)),
]


@pytest.mark.parametrize(
    ("approach", "rows"),
    [
        (chinchilla.ENVELOPE, TABLE_3),
        (chinchilla.ISOFLOP, [(size, *two) for size, two, _ in TABLE_A3]),
        (chinchilla.PARAMETRIC, [(size, *three) for size, _, three in TABLE_A3]),
    ],
    ids=["table 3", "table A3, approach 2", "table A3, approach 3"],
)
def test_tables_of_the_approaches(approach, rows):
    """Worst relative difference of table 3: 3.3 % of parameters, 4.5 % of tokens; of table A3: 3.8 % and 4.2 %
    (approach 2), 5.5 % and 8.4 % (approach 3).

    The exponents are printed to two digits, over nine orders of compute; some tokens are printed to two digits too.
    """
    for size, flops, tokens in rows:
        assert approach.optimum(flops) == pytest.approx((size, tokens), rel=0.09)


def test_table_of_approach_3_by_its_constants():
    """Even with all known digits they are not quite those of table A3: up to 7 % of parameters and 11 % of tokens off,
    always to the side of too many tokens. With the printed digits the compute is off by a factor of 2.2."""
    for size, _, (flops, tokens) in TABLE_A3:
        best = optimum(chinchilla.PRECISE, flops)
        assert (best.parameters, best.tokens) == pytest.approx((size, tokens), rel=0.12)
    last, _, (flops, _) = TABLE_A3[-1]
    assert optimal_flops(chinchilla.PRINTED, last) / flops == pytest.approx(2.2, abs=0.05)


@settings(deadline=None)  # a busy machine is no defect
@given(flops=st.floats(1e15, 1e30))
def test_the_closed_form_is_the_optimum(flops):
    law = chinchilla.BESIROGLU
    best = optimum(law, flops)
    assert 6 * best.parameters * best.tokens == pytest.approx(flops)
    assert optimal_flops(law, best.parameters) == pytest.approx(flops, rel=1e-9)
    for ratio in (0.5, 0.95, 1.05, 2.0):
        assert law.loss(ratio * best.parameters, best.tokens / ratio) > best.loss


def test_beyond_what_was_trained_a_law_answers_and_warns():
    with pytest.warns(OutsideRange, match=r"Besiroglu.*1e\+12 parameters.*7e\+07 to 1.6e\+10"):
        chinchilla.BESIROGLU.loss(1e12, 1e11)
    with pytest.warns(OutsideRange, match=r"1e\+13 tokens"):
        chinchilla.BESIROGLU.loss(1e9, 1e13)
    with pytest.raises(SpecError, match="FLOPs must be a positive number"):
        optimum(chinchilla.BESIROGLU, -1)
