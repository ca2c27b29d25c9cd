"""Encoders and encoder-decoders: packing, padding, caches, counted operations, by plain means."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from corestone.core.batch import IGNORE, Seq2SeqBatch, TextBatch
from corestone.core.errors import SpecError
from corestone.core.mask import Mask
from corestone.core.vocabulary import Vocabulary
from corestone.generate.decode import generate
from corestone.generate.spec import Sampling
from corestone.models.encoder import build_encoder
from corestone.models.encoder_decoder import build_encoder_decoder
from corestone.models.spec import Encoder, EncoderDecoder
from corestone.nn.cross_entropy import linear_cross_entropy
from corestone.objectives.seq2seq import packed
from corestone.zoo.alexatm import alexatm
from corestone.zoo.bert import bert
from corestone.zoo.electra import electra
from corestone.zoo.t5 import t5

SIZE, PAD, END = 64, 0, 1
VOCABULARY = Vocabulary(size=61, separator=END, pad=PAD)

ENCODERS: dict[str, Encoder] = {
    "bert": bert(24, 2, 3, SIZE, 40, dropout=0.0),
    "electra": electra(24, 2, 2, 12, (1, 2), SIZE, 40, dropout=0.0).discriminator,
}
PAIRS: dict[str, EncoderDecoder] = {
    "t5": t5(24, 2, 3, 8, 40, vocab_size=SIZE, dropout=0.0),
    "t5-v1.1": t5(24, 2, 5, 4, 40, gated=True, vocab_size=SIZE, dropout=0.0),
    "alexatm": alexatm(24, (3, 2), 4, SIZE, 40, dropout=0.0),
}


def lively(spec):
    """Weights whose every part shows in the logits."""
    init = spec.init.model_copy(update={"std": 0.3, "token_std": None, "position_std": 0.3})
    build = build_encoder if isinstance(spec, Encoder) else build_encoder_decoder
    return build(spec.model_copy(update={"init": init}), seed=4).eval()


def texts(seed, count, longest=12):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [torch.randint(2, 61, (length,), generator=generator) for length in lengths]


def whole(tokens):
    """One text as a row of its own."""
    tokens = tokens[None]
    positions = torch.arange(tokens.shape[1])[None]
    return TextBatch(tokens, torch.full_like(tokens, IGNORE), positions, Mask(causal=False))


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 999), count=st.integers(1, 4), name=st.sampled_from(sorted(ENCODERS)))
def test_texts_packed_in_a_row_and_filled_up_are_each_alone(seed, count, name):
    """Worst of 200 random rows: 3.0e-6 of values to 3.4."""
    model, parts = lively(ENCODERS[name]), texts(seed, count, 9)
    fill = torch.zeros(3, dtype=torch.int64)
    pieces = [fill[:1], *parts, fill[:2]]  # what fills up may stand on either side
    segments = torch.cat([torch.full((len(part),), n) for n, part in enumerate(pieces)])[None].int()
    positions = torch.cat([torch.arange(len(part)) for part in pieces])[None]
    tokens = torch.cat(pieces)[None]
    row = TextBatch(tokens, torch.full_like(tokens, IGNORE), positions, Mask(causal=False, segments_BT=segments))
    with torch.no_grad():
        hidden = model(row).hidden[0]
        for number, part in enumerate(parts, start=1):
            alone = model(whole(part)).hidden[0]
            assert float((hidden[segments[0] == number] - alone).abs().max()) < 1e-5


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 999),
    counts=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    name=st.sampled_from(sorted(PAIRS)),
)
def test_pairs_packed_in_a_row_are_each_alone(seed, counts, name):
    """Documents are kept apart on both sides. Worst of 200 random batches: 1.5e-5 of logits to 6."""
    model, sources, targets = lively(PAIRS[name]), texts(seed, 9), texts(seed + 1, 9)
    pairs = [(s.numpy(), t.numpy()) for s, t in zip(sources, targets, strict=True)]
    rows, place = [], 0
    for count in counts:
        rows.append(pairs[place : place + count])
        place += count
    batch = packed(rows, END, PAD)
    with torch.no_grad():
        logits = model.head(model(batch).hidden)
        assert bool(torch.isfinite(logits).all())
        for number, row in enumerate(rows):
            for place, pair in enumerate(row):
                alone = model.head(model(packed([[pair]], END, PAD)).hidden)[0]
                segments = batch.target.mask.segments_BT
                mine = logits[number] if segments is None else logits[number][segments[number] == place]
                assert float((mine - alone).abs().max()) < 4e-5


def written_uncached(model, source, most):
    """Greedy, the whole prefix anew for each token."""
    row = [PAD]
    with torch.no_grad():
        read = whole(torch.tensor([*source, END]))
        for _ in range(most):
            tokens = torch.tensor([row])
            target = replace(whole(tokens[0]), mask=Mask())
            hidden = model(Seq2SeqBatch(read, target)).hidden[0, -1]
            token = int(model.head(hidden)[: VOCABULARY.size].argmax())
            if token == END:
                break
            row.append(token)
    return row[1:]


@pytest.mark.parametrize("name", PAIRS)
def test_answers_with_a_cache_are_those_without_alone_and_in_a_batch(name):
    model, sampling = lively(PAIRS[name]), Sampling(temperature=0.0, max_tokens=15)
    sources = [part.tolist() for part in texts(3, 4)] + [[]]
    wanted = [written_uncached(model, source, 15) for source in sources]
    assert any(wanted)
    assert [generate(model, VOCABULARY, [source], sampling)[0] for source in sources] == wanted
    assert generate(model, VOCABULARY, sources, sampling) == wanted


def test_too_long_answers_and_encoders_are_refused():
    with pytest.raises(SpecError, match="40 tokens do not fit a model with 40 positions; max_tokens may be 39"):
        generate(lively(PAIRS["alexatm"]), VOCABULARY, [[5]], Sampling(max_tokens=40))
    with pytest.raises(SpecError, match="is an encoder"):
        generate(lively(ENCODERS["bert"]), VOCABULARY, [[5]], Sampling())


@pytest.mark.parametrize("name", [*ENCODERS, *PAIRS])
def test_compiled_equals_eager_forward_and_backward(name):
    """Worst measured, relative to 1 + the value: 3.8e-5 (gradients of a sum of squares)."""
    spec = {**ENCODERS, **PAIRS}[name]
    eager, compiled = lively(spec), lively(spec)
    parts = [(s.numpy(), t.numpy()) for s, t in zip(texts(1, 4), texts(2, 4), strict=True)]
    batch = packed([parts[:2], parts[2:]], END, PAD)
    given_batch = batch if isinstance(spec, EncoderDecoder) else batch.source
    found = []
    for model, call in ((eager, eager), (compiled, torch.compile(compiled, backend="aot_eager"))):
        hidden = call(given_batch).hidden
        hidden.square().sum().backward()
        found.append([hidden.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [*ENCODERS, *PAIRS])
def test_training_flops_count_every_product(name):
    """By torch's own counter, forward and backward, on whole rows."""
    spec = {**ENCODERS, **PAIRS}[name]
    model = lively(spec)
    source, target = texts(1, 1, 40)[0], texts(2, 1, 40)[0]
    batch = packed([[(source.numpy(), target.numpy())]], END, PAD)
    S, T = len(source) + 1, len(target) + 1
    with FlopCounterMode(display=False) as counter:
        if isinstance(spec, EncoderDecoder):
            hidden = model(batch).hidden[0]
            linear_cross_entropy(hidden, model.head, batch.target.targets_BT[0])[0].backward()
            wanted = model.training_flops(S, T)
        else:
            hidden = model(batch.source).hidden[0]
            loss = hidden.sum() * 0.0
            if model.head is not None:
                loss = loss + linear_cross_entropy(hidden, model.head, batch.source.tokens_BT[0])[0]
            if model.detector is not None:
                loss = loss + model.detector(hidden).sum()
            if model.pooler is not None:
                loss = loss + model.pooler.out(model.pooler(hidden[None])).sum()
            loss.backward()
            wanted = S * model.training_flops(S)
    causal = 0.0
    if isinstance(spec, EncoderDecoder):  # the kernel computes the hidden half of a block's square too
        mixer = spec.decoder.blocks[0].mixer
        causal = 12 * mixer.num_heads * mixer.head_dim * T * (T - (T + 1) / 2) * len(spec.decoder.blocks)
    assert counter.get_total_flops() == pytest.approx(wanted + causal, rel=0.002)
