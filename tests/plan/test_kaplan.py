"""Kaplan et al. 2020: known answers. Values were computed from the printed constants and are rounded to 4 or 5 digits,
so a relative 5e-4 is what equality means here; the measured worst case stands beside each tolerance."""

from __future__ import annotations

import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corestone.core.errors import SpecError
from corestone.plan import kaplan
from corestone.plan.law import OutsideRange

ROUNDED = 5e-4


@pytest.fixture(autouse=True)
def extrapolate():
    """Known answers reach beyond the measured ranges; that this warns is a test of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutsideRange)
        yield


@pytest.mark.parametrize(
    ("law", "known"),
    [  # measured worst relative difference: 1.7e-5
        (kaplan.SIZE, {1e6: 4.0159, 1e7: 3.3712, 8.5e7: 2.8651, 1e8: 2.8300, 1e9: 2.3756}),
        (kaplan.DATA, {1e8: 3.5041, 1e9: 2.8156, 2.2e10: 2.0992}),
        (kaplan.MIN_COMPUTE, {1e-4: 4.2128, 1e-2: 3.3463, 1.0: 2.6581, 1e3: 1.8818}),
    ],
    ids=["size", "data", "compute"],
)
def test_losses_by_one_quantity(law, known):
    for x, loss in known.items():
        assert law.loss(x) == pytest.approx(loss, rel=ROUNDED)
        assert law.needed(law.loss(x)) == pytest.approx(x, rel=1e-9)  # worst 1.5e-15


def test_critical_batch():
    for loss, tokens in {4.0: 2.853e5, 3.0: 1.1226e6, 2.5: 2.6746e6, 2.0: 7.740e6}.items():
        assert kaplan.CRITICAL_BATCH.tokens(loss) == pytest.approx(tokens, rel=ROUNDED)  # worst 8e-5


def test_size_and_data_agrees_with_its_limits():
    """With endless data L(N, D) is its own power law of N, and the other way round."""
    law = kaplan.SIZE_AND_DATA
    assert law.loss(1e8, 1e30) == pytest.approx((6.4e13 / 1e8) ** 0.076, rel=1e-6)
    assert law.loss(1e30, 1e9) == pytest.approx((1.8e13 / 1e9) ** 0.103, rel=1e-6)
    assert kaplan.SIZE_AND_STEPS.loss(1e8, 1e30) == pytest.approx((6.5e13 / 1e8) ** 0.077, rel=1e-6)


@settings(deadline=None)  # a busy machine is no defect
@given(steps=st.floats(1, 1e7), batch=st.floats(1, 1e9), loss=st.floats(1.7, 9))
def test_the_two_batch_corrections_are_one_relation(steps, batch, loss):
    """(S / S_min - 1)(E / E_min - 1) = 1, eq. 5.1, where E_min = C_min / (6 N)."""
    least_steps = kaplan.CRITICAL_BATCH.min_steps(steps, batch, loss)
    least_tokens = kaplan.CRITICAL_BATCH.min_compute(steps * batch, batch, loss)
    product = (steps / least_steps - 1) * (steps * batch / least_tokens - 1)
    assert product == pytest.approx(1, rel=1e-5)  # cancellation at batches far off the critical one
    assert least_tokens / least_steps == pytest.approx(kaplan.CRITICAL_BATCH.tokens(loss), rel=1e-9)  # eq. 5.2


def test_the_derived_law_of_compute():
    law = kaplan.derived_compute_law()
    assert law.exponent == pytest.approx(0.052, abs=5e-4)  # 0.05245
    assert law.scale == pytest.approx(1.6e8, rel=0.01)  # 1.61e8
    assert kaplan.stop_above_converged() == pytest.approx(0.10, abs=0.005)  # 0.1013


@settings(deadline=None)  # a busy machine is no defect
@given(pf_days=st.floats(1e-8, 1e4))
def test_the_derived_optimum_is_one(pf_days):
    """Its loss is that of L(N, S_min), its compute is spent, and no other size does better with it."""
    best = kaplan.derived_optimal(pf_days)
    flops = pf_days * kaplan.PF_DAY
    loss = kaplan.derived_compute_law().loss(pf_days)
    assert kaplan.SIZE_AND_STEPS.loss(best.parameters, best.min_steps) == pytest.approx(loss, rel=1e-9)
    assert 6 * best.parameters * best.batch_tokens * best.min_steps == pytest.approx(flops, rel=1e-9)
    for ratio in (0.8, 0.97, 1.03, 1.25):
        # The batch goes with the loss, so that is solved for; it falls short of the best at every other size.
        worse = loss
        for _ in range(60):
            steps = flops / (6 * ratio * best.parameters * kaplan.CRITICAL_BATCH.tokens(worse))
            worse = 0.5 * worse + 0.5 * kaplan.SIZE_AND_STEPS.loss(ratio * best.parameters, steps)
        assert worse > loss


def test_steps_of_the_derived_optimum_are_those_of_the_paper():
    """Eq. B.10, which the code does not use."""
    law, n, compute = kaplan.derived_compute_law(), kaplan.SIZE_AND_STEPS, 1.0
    stop, scale = kaplan.stop_above_converged(), law.scale * kaplan.PF_DAY
    paper = scale / (6 * n.size_scale * kaplan.CRITICAL_BATCH.scale) * (1 + stop) ** (-1 / n.size_exponent)
    paper *= (compute / law.scale) ** (law.exponent / n.steps_exponent)
    assert kaplan.derived_optimal(compute).min_steps == pytest.approx(paper, rel=1e-9)


def test_optimum_of_the_main_text():
    best = kaplan.optimal(1.0)
    assert best == kaplan.Allocation(parameters=1.3e9, batch_tokens=2.0e6, min_steps=5.4e3, tokens=2.0e10)
    # The printed fits spend the compute to within their rounding: 0.975 of a PF-day.
    assert 6 * best.parameters * best.batch_tokens * best.min_steps == pytest.approx(kaplan.PF_DAY, rel=0.03)
    growth = kaplan.optimal(10.0).parameters / best.parameters
    assert growth == pytest.approx(10**0.73)


def test_against_training_to_convergence():
    """7.7 times fewer steps, 2.7 times more parameters, 65 % less compute (measured: 7.64, 2.71, 64.6 %)."""
    found = kaplan.change(kaplan.stop_above_converged(), 0.02)
    assert 1 / found.steps == pytest.approx(7.7, abs=0.06)
    assert found.parameters == pytest.approx(2.7, abs=0.05)
    assert 1 - found.compute == pytest.approx(0.65, abs=0.005)


def test_sizes_off_the_best():
    """0.6 to 2.2 times the best size costs up to 20 % more compute (measured: 16.5 % and 20.4 %)."""
    assert kaplan.off_size_compute(1.0) == 1.0
    assert 1 < kaplan.off_size_compute(0.6) < 1.21
    assert 1 < kaplan.off_size_compute(2.2) < 1.21
    with pytest.raises(SpecError, match="never reaches that loss; give a larger"):
        kaplan.off_size_compute(0.2)


def test_early_stopping_comes_later_on_more_data():
    steps = [kaplan.early_stop_steps(1e8, tokens) for tokens in (3e7, 3e8, 3e9, 2e10)]
    assert steps == sorted(steps)
    gap = kaplan.SIZE_AND_DATA.loss(1e8, 3e8) - (6.4e13 / 1e8) ** 0.076
    assert (2.1e3 / steps[1]) ** 0.76 == pytest.approx(gap)


def test_overfitting_rule():
    """Models under 1e9 parameters over-fit little on the 22e9 tokens of WebText2 (section 4.2)."""
    assert kaplan.tokens_against_overfitting(1e9) == pytest.approx(22e9, rel=0.05)  # 22.9e9


def test_learning_rate_rule_and_its_limits():
    for size, rate in {1e6: 1.31e-3, 1e7: 9.91e-4, 1e8: 6.69e-4, 1e9: 3.48e-4}.items():
        assert kaplan.learning_rate(size) == pytest.approx(rate, rel=3e-3)  # worst 1.3e-3, of 3 printed digits
    with pytest.raises(SpecError, match=r"learning rate: it gives none at 1.3e\+10 parameters; choose one by trial"):
        kaplan.learning_rate(1.3e10)
    with warnings.catch_warnings():
        warnings.simplefilter("error", OutsideRange)
        kaplan.learning_rate(1e10)
        with pytest.raises(OutsideRange):
            kaplan.learning_rate(1.1e10)


def test_flops_of_table_1():
    """GPT-3 175B: the count outside of embeddings and biases, and the total as the paper sums it."""
    found = kaplan.forward_flops(
        width=12288, depth=96, attention_dim=12288, hidden_dim=4 * 12288, context_length=2048, vocab_size=50257
    )
    assert found.parameters == 12 * 96 * 12288**2
    assert found.total == 2 * found.parameters + 2 * 96 * 2048 * 12288
    assert (found.embed, found.de_embed) == (4 * 12288, 2 * 12288 * 50257)
    # All 173,961,535,488 outside of embeddings, with biases, norms' weights and the last norm: 9e-5 more.
    assert found.parameters == pytest.approx(173_961_535_488, rel=1e-4)


COMPUTE_OF_GPT3 = [  # Brown et al. 2020, table D.1: name, PF-days, FLOPs, parameters (M), tokens (B), per token
    ("T5-Small", 2.08, 1.80e20, 60, 1000, 3),
    ("T5-Base", 7.64, 6.60e20, 220, 1000, 3),
    ("T5-Large", 26.7, 2.31e21, 770, 1000, 3),
    ("T5-3B", 104, 9.00e21, 3000, 1000, 3),
    ("T5-11B", 382, 3.30e22, 11000, 1000, 3),
    ("BERT-Base", 1.89, 1.64e20, 109, 250, 6),
    ("BERT-Large", 6.16, 5.33e20, 355, 250, 6),
    ("RoBERTa-Base", 17.4, 1.50e21, 125, 2000, 6),
    ("RoBERTa-Large", 49.3, 4.26e21, 355, 2000, 6),
    ("GPT-3 Small", 2.60, 2.25e20, 125, 300, 6),
    ("GPT-3 Medium", 7.42, 6.41e20, 356, 300, 6),
    ("GPT-3 Large", 15.8, 1.37e21, 760, 300, 6),
    ("GPT-3 XL", 27.5, 2.38e21, 1320, 300, 6),
    ("GPT-3 2.7B", 55.2, 4.77e21, 2650, 300, 6),
    ("GPT-3 6.7B", 139, 1.20e22, 6660, 300, 6),
    ("GPT-3 13B", 268, 2.31e22, 12850, 300, 6),
    ("GPT-3 175B", 3640, 3.14e23, 174600, 300, 6),
]


@pytest.mark.parametrize(("name", "pf_days", "flops", "millions", "billions", "each"), COMPUTE_OF_GPT3)
def test_training_compute_of_gpt3(name, pf_days, flops, millions, billions, each):
    """6 N D, or 3 N D where half of the parameters act on a token.

    Worst relative difference 4.3e-3 (BERT-Base, of three printed digits).
    """
    assert each * millions * 1e6 * billions * 1e9 == pytest.approx(flops, rel=5e-3)
    assert flops / kaplan.PF_DAY == pytest.approx(pf_days, rel=5e-3)


def test_beyond_what_was_measured_a_law_answers_and_warns():
    with pytest.warns(OutsideRange, match=r"L\(N\).*1e\+11 parameters outside of embeddings.*768 to 1.5e\+09"):
        assert math.isfinite(kaplan.SIZE.loss(1e11))
    with warnings.catch_warnings():
        warnings.simplefilter("error", OutsideRange)
        kaplan.SIZE.loss(1e8)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_amount_is_refused(wrong):
    with pytest.raises(SpecError, match=r"L\(N\).*parameters outside of embeddings must be a positive number"):
        kaplan.SIZE.loss(wrong)
    with pytest.raises(SpecError, match="nats per token must be a positive number"):
        kaplan.CRITICAL_BATCH.tokens(wrong)
