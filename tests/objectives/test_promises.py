"""What every objective promises: corruption and gradients do not depend on how a batch is split, scores not on the
batch size, and packed documents see only themselves."""

from __future__ import annotations

import pytest
import torch
from texts import VOCABULARY, packed_text, tiny_decoder, tiny_encoder, tiny_encoder_decoder, tiny_pair

from corestone.core.rng import Draws
from corestone.evaluate.objective import ObjectiveScore, guessing_floors
from corestone.objectives.masked_token import MaskedTokenObjective
from corestone.objectives.mixture import build_mixture
from corestone.objectives.next_sentence import NextSentenceObjective
from corestone.objectives.prefix import PrefixObjective
from corestone.objectives.replaced_token import ReplacedTokenObjective
from corestone.objectives.seq2seq import ContinuationObjective, SpanCorruptionObjective
from corestone.objectives.spec import (
    Continuation,
    Denoising,
    MaskedToken,
    Mixture,
    NextSentence,
    NextToken,
    Prefix,
    ReplacedToken,
    Share,
    SpanCorruption,
)

UL2 = Mixture(
    parts=(Share(objective=SpanCorruption(), weight=2), Share(objective=Denoising()), Share(objective=Continuation()))
)
CAUSAL = Mixture(parts=(Share(objective=NextToken()), Share(objective=Prefix())))
CASES = {
    "masked": (MaskedTokenObjective(MaskedToken(), VOCABULARY), tiny_encoder),
    "whole words": (MaskedTokenObjective(MaskedToken(whole_words=True), VOCABULARY), tiny_encoder),
    "next sentence": (NextSentenceObjective(NextSentence(), VOCABULARY), tiny_encoder),
    "replaced": (ReplacedTokenObjective(ReplacedToken(), VOCABULARY), tiny_pair),
    "spans": (SpanCorruptionObjective(SpanCorruption(), VOCABULARY), tiny_encoder_decoder),
    "continuation": (ContinuationObjective(Continuation(), VOCABULARY), tiny_encoder_decoder),
    "prefix": (PrefixObjective(Prefix(), VOCABULARY), tiny_decoder),
    "ul2": (build_mixture(UL2, VOCABULARY), tiny_encoder_decoder),
    "causal and prefix": (build_mixture(CAUSAL, VOCABULARY), tiny_decoder),
}


def gradients(objective, model, batches):
    model.zero_grad()
    weight = 0
    for batch in batches:
        loss = objective.loss(model, batch)
        loss.total.backward()
        weight += int(loss.weight)
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    return found, weight


@pytest.mark.parametrize("name", CASES)
def test_any_split_gives_the_same_gradient(name):
    """Over micro-batches (cut after corruption) and over ranks (cut before). Worst case measured: 8.7e-7 of the
    largest entry of a gradient."""
    objective, make = CASES[name]
    model, batch = make(), packed_text(8, 40)
    whole = objective.corrupt(batch, Draws(5, range(8)))
    wanted, weight = gradients(objective, model, [whole])
    micro = [whole.rows(start, min(8, start + 3)) for start in range(0, 8, 3)]
    ranks = [objective.corrupt(batch.rows(at, at + 4), Draws(5, range(at, at + 4))) for at in (0, 4)]
    for parts in (micro, ranks):
        found, same = gradients(objective, model, parts)
        assert same == weight
        for parameter, gradient in found.items():
            largest = float(wanted[parameter].abs().max())
            assert float((gradient - wanted[parameter]).abs().max()) <= 1e-5 * max(largest, 1e-3), parameter


@pytest.mark.parametrize("name", CASES)
def test_scores_do_not_depend_on_the_batch_size(name):
    objective, make = CASES[name]
    model = make()

    def batches(size):
        whole = packed_text(10, 40)
        return (whole.rows(start, start + size) for start in range(0, 10, size))

    one, other = (list(ObjectiveScore(objective, batches, size).run(model)) for size in (2, 10))
    assert [metric.name for metric in one] == [metric.name for metric in other]
    for a, b in zip(one, other, strict=True):
        assert (a.n, a.unit) == (b.n, b.unit)
        assert a.value == pytest.approx(b.value, rel=1e-5), a.name
    few = list(ObjectiveScore(objective, batches, 4, rows=6).run(model))
    assert 0 < few[0].n < one[0].n


@pytest.mark.parametrize("name", CASES)
def test_random_text_cannot_be_guessed(name):
    """Floors on 65 uniformly random words (4.17 nats): only the order of sentinels and ends can be known."""
    objective, _ = CASES[name]
    train = (packed_text(16, 40, seed) for seed in range(8))
    floors = guessing_floors(objective, train, (packed_text(16, 40, seed) for seed in range(100, 110)), 90)
    for floor in floors:
        assert floor.unit == "nats/target"
        assert floor.value > {"spans": 2.6, "ul2": 3.3}.get(name, 4.0)
        assert floor.interval is not None


def test_a_discriminator_gets_its_share_of_the_loss():
    """Scaled by each row's share of chosen tokens, the sum over all tokens is `weight` times a mean over all tokens."""
    objective, model = ReplacedTokenObjective(ReplacedToken(rate=0.25), VOCABULARY), tiny_pair()
    batch = objective.corrupt(packed_text(4, 40, apart=False), Draws(1, range(4)))
    loss = objective.loss(model, batch)
    generator = loss.metrics["generator_nats"] / loss.weight
    detection = loss.metrics["detection_nats"] / loss.weight
    assert float(loss.total.detach() / loss.weight) == pytest.approx(float(generator + 50 * detection), rel=1e-5)
    scores = objective.scores(model, batch)
    exact = scores["detection_nats"].totals.sum() / scores["detection_nats"].weights.sum()
    assert float(detection) == pytest.approx(float(exact), rel=0.01)  # rows have 9 or 10 chosen tokens: 0.1 % here


def test_the_discriminator_sends_no_gradient_through_the_samples():
    objective, model = ReplacedTokenObjective(ReplacedToken(), VOCABULARY), tiny_pair()
    batch = objective.corrupt(packed_text(4, 40), Draws(1, range(4)))
    without = ReplacedTokenObjective(ReplacedToken(weight=0.0), VOCABULARY)
    with_it, _ = gradients(objective, model, [batch])
    alone, _ = gradients(without, model, [batch])
    for name, gradient in alone.items():
        if name.startswith("generator.stack"):
            assert torch.equal(gradient, with_it[name])
    assert not torch.equal(
        alone["discriminator.embedding.token.weight"], with_it["discriminator.embedding.token.weight"]
    )
