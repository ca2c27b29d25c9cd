"""Dynamic evaluation: the published update to the letter, a probability of the text, and weights left as found."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from corestone.core.batch import IGNORE, TextBatch, plain_batch
from corestone.core.errors import SpecError
from corestone.core.protocols import Output
from corestone.data.packing import evaluation_batches
from corestone.evaluate.dynamic import learning, relative, root_mean_squares, segments
from corestone.evaluate.perplexity import TextPerplexity, token_losses
from corestone.evaluate.spec import RMS, SGD
from corestone.models.decoder import build_decoder
from corestone.models.recurrent import build_recurrent
from corestone.nn.head import OwnHead
from corestone.zoo.gpt import gpt2
from corestone.zoo.mogrifier import mogrifier
from corestone.zoo.palm import palm

V = 32


class Stored:
    """A prepared split in memory; the separator is 0."""

    def __init__(self, documents: list[list[int]]) -> None:
        self._stream = np.concatenate([[0], *([*document, 0] for document in documents)]).astype(np.int64)
        self.starts = np.cumsum([0, *(len(document) + 1 for document in documents)]).astype(np.int64)
        self.document_bytes = np.array([len(document) for document in documents], dtype=np.int64)
        self.n_tokens, self.n_documents, self.shards = len(self._stream), len(documents), [self._stream]

    def slice(self, start: int, stop: int) -> np.ndarray:
        return self._stream[start:stop]

    def document_id(self, i: int) -> str:
        return str(i)


def documents(seed: int = 0, lengths: tuple[int, ...] = (90, 7, 150)) -> list[list[int]]:
    """Texts that repeat a few words, so that there is something to learn from them."""
    random = np.random.default_rng(seed)
    words = [random.integers(1, V, size=5).tolist() for _ in range(4)]
    return [
        [token for _ in range(length // 5 + 1) for token in words[random.integers(4)]][:length] for length in lengths
    ]


MODELS = {
    "gpt2": lambda: build_decoder(gpt2(16, 2, 2, vocab_size=V, context_length=32), seed=1),
    "palm": lambda: build_decoder(palm(16, 2, 2, head_dim=8, vocab_size=V, context_length=32), seed=1),
    "mogrifier": lambda: build_recurrent(mogrifier(16, 2, 3, 4, V), seed=1),
}


def scored(model, spec, stored, training=(), context: int = 32):
    """Metrics by name, dynamic where there is a record, else static."""
    batches = partial(evaluation_batches, stored, context, keep_documents_apart=True)
    if spec is None:
        return {metric.name: metric for metric in TextPerplexity(stored, batches, 1).run(model)}
    rms = root_mean_squares(model, training) if isinstance(spec, RMS) else None
    with learning(model, spec, rms) as score:
        return {metric.name: metric for metric in TextPerplexity(stored, batches, 1, score=score).run(model)}


def training_batches(count: int = 4) -> list[TextBatch]:
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(0, V, (6, 33), generator=generator) for _ in range(count)]
    return [plain_batch(row[:, :-1], row[:, 1:]) for row in rows]


SPECS = {"sgd": SGD(eta=0.3, lam=0.01, segment=8), "rms": RMS(eta=3e-4, lam=0.01, segment=8)}


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns_repeated_text_and_is_left_as_it_was(name, kind):
    model, stored = MODELS[name]().train(), Stored(documents())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    static = scored(model, None, stored)
    dynamic = scored(model, SPECS[kind], stored, training_batches())
    assert dynamic["nats_per_token"].value < static["nats_per_token"].value - 0.05
    assert dynamic["nats_per_token"].n == static["nats_per_token"].n
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    again = scored(model, None, stored)
    assert again == static


@pytest.mark.parametrize("segment", [3, 8, 100])
@pytest.mark.parametrize("name", MODELS)
def test_a_rate_of_zero_is_static_evaluation(name, segment):
    """Whatever the segments; relative difference of the loss measured: 1.3e-9 at most."""
    model, stored = MODELS[name](), Stored(documents())
    static = scored(model, None, stored)["nats_per_token"]
    for spec in (SGD(eta=0.0, lam=0.5, segment=segment), RMS(eta=0.0, lam=0.5, segment=segment)):
        dynamic = scored(model, spec, stored, training_batches(2))["nats_per_token"]
        assert dynamic.value == pytest.approx(static.value, rel=1e-6)
        assert dynamic.n == static.n


def test_weights_are_restored_when_scoring_fails():
    model, stored = MODELS["mogrifier"](), Stored(documents())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    other = Stored(documents(seed=5))
    batches = partial(evaluation_batches, other, 32, keep_documents_apart=True)
    with pytest.raises(Exception, match="differ"), learning(model, SPECS["sgd"]) as score:
        list(TextPerplexity(stored, batches, 1, score=score).run(model))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Counter(nn.Module):
    """A unigram model: any update raises the probability of the tokens it saw, everywhere at once."""

    context_length = 1024

    def __init__(self) -> None:
        super().__init__()
        self.head = OwnHead(1, V)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: TextBatch) -> Output:
        return Output(hidden=torch.ones(*batch.tokens_BT.shape, 1))

    def training_flops(self, tokens: int) -> float:
        return 0.0


@pytest.mark.parametrize("segment", [1, 4, 7])
def test_a_segment_is_scored_before_anything_is_learnt_from_it(segment):
    """Each segment has a token of its own, and the model knows a token for good after one update.

    So an update that came first would show at once. Scored first, a segment's token is as likely as any at best; less,
    once others were learnt.
    """
    tokens = torch.arange(28) // segment + 1
    model = Counter().eval()
    with learning(model, SGD(eta=50.0, lam=0.0, segment=segment)) as score:
        losses, targets = score(model, plain_batch(torch.zeros(1, 28, dtype=torch.int64), tokens[None]))
    assert torch.equal(targets, tokens)
    torch.testing.assert_close(losses[:segment], torch.full((segment,), math.log(V)))
    assert bool((losses[segment:] > math.log(V) + 0.5).all())


def test_the_score_is_a_probability_of_the_text():
    """Over all texts of 3 tokens of a small vocabulary, the probabilities that a learning model gives sum to 1."""
    model, total = Counter().eval(), 0.0
    with torch.no_grad():
        model.head.bias[3:] = -1e9  # an alphabet of three
        model.head.bias[0] = 0.7
    for text in torch.cartesian_prod(*[torch.arange(3)] * 4):
        with learning(model, SGD(eta=2.0, lam=0.1, segment=1)) as score:
            losses, _ = score(model, plain_batch(torch.zeros(1, 4, dtype=torch.int64), text[None]))
        total += math.exp(-float(losses.double().sum()))
    assert total == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kind", SPECS)
def test_the_update_is_the_published_one(kind):
    """Against a loop over single weights, written out from the paper's equations, over several segments and windows."""
    spec = SPECS[kind].model_copy(update={"lam": 0.4})
    model, training = MODELS["mogrifier"]().double(), training_batches()
    stored = Stored(documents(lengths=(40,)))
    names = [name for name, _ in model.named_parameters()]
    trained = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    theta = {name: value.clone() for name, value in trained.items()}

    def loss_at(weights, batch):
        hidden = torch.func.functional_call(model, weights, (batch,)).hidden
        logits = F.linear(hidden, weights["head.weight"], weights["head.bias"]).flatten(0, 1)
        return F.cross_entropy(logits, batch.targets_BT.flatten(), ignore_index=IGNORE)

    def gradient(weights, batch):
        leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
        return dict(zip(names, torch.autograd.grad(loss_at(leaves, batch), leaves.values()), strict=True))

    model.eval()
    squares = [gradient(trained, batch) for batch in training]
    rms = {name: (sum(found[name] ** 2 for found in squares) / len(squares)).sqrt() for name in names}
    mean = torch.cat([values.flatten() for values in rms.values()]).mean()
    assert any(bool((spec.lam * values / mean > 1).any()) for values in rms.values())  # the cap is at work
    expected = []
    for window in evaluation_batches(stored, 32, 1, True):
        for part in segments(window, spec.segment):
            expected.append(float(loss_at(theta, part)))
            slope = gradient(theta, part)
            for name in names:
                for place in np.ndindex(*theta[name].shape):
                    g, now, start = slope[name][place], theta[name][place].clone(), trained[name][place]
                    if kind == "sgd":
                        theta[name][place] = now - spec.eta * g + spec.lam * (start - now)
                    else:
                        decay = min(1.0, spec.lam * float(rms[name][place] / mean))
                        step = spec.eta * g / (rms[name][place] + spec.eps)
                        theta[name][place] = now - step + decay * (start - now)
    found = []
    with learning(model, spec, root_mean_squares(model, training)) as score:
        for window in evaluation_batches(stored, 32, 1, True):
            losses, targets = score(model, window)
            found += [part.mean().item() for part in losses.split(spec.segment)]
            assert len(losses) == len(targets)
        last = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    # Double precision but for the losses; measured worst cases 7.7e-8 of a loss, 4.9e-9 of weights that moved by 0.06.
    assert found == pytest.approx(expected, rel=1e-6)
    for name in names:
        torch.testing.assert_close(last[name], theta[name], atol=5e-8, rtol=0)


def test_statistics_are_root_mean_squares_and_relative_ones_average_to_one():
    model, training = MODELS["gpt2"](), training_batches(3)
    rms = root_mean_squares(model, iter(training))
    sums = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for batch in training:
        model.zero_grad()
        token_losses(model.eval(), batch)[0].mean().backward()
        for name, parameter in model.named_parameters():
            sums[name] += parameter.grad**2
    for found, total in zip(rms, sums.values(), strict=True):
        torch.testing.assert_close(found, (total / 3).sqrt(), atol=1e-7, rtol=1e-4)
    shares = torch.cat([share.flatten() for share in relative(rms)])
    assert float(shares.mean()) == pytest.approx(1.0, rel=1e-4)


def test_segments_hold_every_target_once_and_nothing_behind_them():
    (batch, *_) = list(evaluation_batches(Stored(documents()), 32, 1, True))
    for length in (1, 5, 31, 32, 50):
        seen = torch.full_like(batch.targets_BT, IGNORE)
        for number, part in enumerate(segments(batch, length)):
            stop = min(32, (number + 1) * length)
            assert part.tokens_BT.shape == part.positions_BT.shape == part.targets_BT.shape == (1, stop)
            assert torch.equal(part.tokens_BT, batch.tokens_BT[:, :stop])
            real = part.targets_BT != IGNORE
            assert bool((seen[:, :stop][real] == IGNORE).all())
            seen[:, :stop][real] = part.targets_BT[real]
        assert torch.equal(seen, batch.targets_BT)


def test_what_cannot_be_is_refused():
    model, batch = (
        MODELS["gpt2"](),
        plain_batch(torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64)),
    )
    with pytest.raises(SpecError, match="statistics"), learning(model, RMS()):
        pass
    with pytest.raises(SpecError, match="one after the other"), learning(model, SGD()) as score:
        score(model, batch)
    with pytest.raises(SpecError, match="float32"), learning(model.to(torch.bfloat16), SGD()):
        pass
