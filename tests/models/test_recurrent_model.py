"""Promises of the recurrent model: causality, packing, generation, counts of work, the same with less memory."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corestone.core.batch import TextBatch, plain_batch
from corestone.core.errors import SpecError
from corestone.core.mask import Mask
from corestone.generate.decode import Vocabulary, generate
from corestone.generate.quantize import weight_only_int8
from corestone.generate.spec import Sampling
from corestone.generate.weights import decoding_weights
from corestone.models.recurrent import build_recurrent
from corestone.models.spec import Dropout, Head
from corestone.nn.cross_entropy import linear_cross_entropy
from corestone.zoo.mogrifier import lstm, mogrifier

VOCAB_SIZE = 61
MODELS = {
    "lstm": lstm(24, 2, 64),
    "tied lstm": lstm(16, 1, 64, tied=True).model_copy(update={"head": Head(tied=True, scale=0.25)}),
    "mogrifier": mogrifier(24, 2, 4, 5, 64),
    "full rank": mogrifier(16, 3, 3, None, 64, tied=True),
}
PROMPTS = [[5, 9, 33, 7, 7, 12, 50], [4], [], [18, 2, 60, 41]]
GREEDY = Sampling(temperature=0.0, max_tokens=40)


def lively(name, seed=0):
    """A model in evaluation mode with weights large enough that every path shows in the logits."""
    model = build_recurrent(MODELS[name], seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.5)
    return model.eval()


def logits(model, tokens_BT):
    with torch.no_grad():
        return model.head(model(plain_batch(tokens_BT)).hidden)


@pytest.mark.parametrize("name", MODELS)
def test_packed_logits_equal_unpacked_ones(name):
    """Design, promise 3: packed documents see only themselves."""
    model, lengths = lively(name), [5, 17, 1, 9, 16]
    torch.manual_seed(0)
    documents = [torch.randint(0, 64, (n,)) for n in lengths]
    packed = TextBatch(
        tokens_BT=torch.cat(documents)[None],
        targets_BT=torch.cat(documents)[None],
        positions_BT=torch.cat([torch.arange(n) for n in lengths])[None],
        mask=Mask(segments_BT=torch.repeat_interleave(torch.arange(5), torch.tensor(lengths))[None].int()),
    )
    with torch.no_grad():
        whole = model.head(model(packed).hidden)[0].split(lengths)
    for document, found in zip(documents, whole, strict=True):
        torch.testing.assert_close(found, logits(model, document[None])[0], atol=1e-6, rtol=1e-5)  # worst 6e-8


@settings(max_examples=10, deadline=None)
@given(name=st.sampled_from(sorted(MODELS)), change=st.integers(0, 39), seed=st.integers(0, 9))
def test_a_change_is_never_seen_before_it_and_always_at_it(name, change, seed):
    model = lively(name)
    torch.manual_seed(seed)
    tokens = torch.randint(0, 64, (1, 40))
    other = tokens.clone()
    other[0, change] = (other[0, change] + 1) % 64
    a, b = logits(model, tokens), logits(model, other)
    assert torch.equal(a[:, :change], b[:, :change])
    assert not torch.equal(a[:, change], b[:, change])


def test_the_state_reaches_further_than_any_window():
    """A token is still felt 300 steps later: there is no context that would end."""
    model = build_recurrent(MODELS["lstm"])
    with torch.no_grad():  # forget gates near 1, input gates that hang on the input
        for layer in model.stack.layers:
            layer.input.bias.chunk(4)[1].fill_(8.0)
    tokens = torch.randint(1, 64, (1, 300))
    other = tokens.clone()
    other[0, 0] = 0
    assert float((logits(model, tokens) - logits(model, other))[0, -1].abs().max()) > 1e-4
    assert model.context_length > 10**9


@pytest.mark.parametrize("name", MODELS)
def test_cached_logits_are_the_uncached_ones(name):
    """Prompt in one call, then token by token, beside a left-padded row. Measured worst case 2.1e-6."""
    model, pads = lively(name), 3
    rows = torch.randint(1, 61, (2, 20), generator=torch.Generator().manual_seed(0))
    segments = torch.zeros(2, 20, dtype=torch.int32)
    segments[1, :pads] = -1
    positions = torch.stack([torch.arange(20), (torch.arange(20) - pads).clamp(min=0)])
    cache = model.empty_cache(2, 20, torch.float32)
    for start, stop in [(0, 8), *((place, place + 1) for place in range(8, 20))]:
        tokens = rows[:, start:stop]
        batch = TextBatch(tokens, tokens, positions[:, start:stop], Mask(segments_BT=segments[:, start:stop]))
        with torch.no_grad():
            found = model.head(model(batch, cache).hidden[:, -1])
        assert cache.length == stop
        for row, first in enumerate((0, pads)):
            torch.testing.assert_close(
                found[row], logits(model, rows[row, first:stop][None])[0, -1], atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("name", MODELS)
def test_generation_is_the_plainest_loop_alone_and_in_a_batch(name):
    model, vocabulary = lively(name), Vocabulary(size=VOCAB_SIZE, separator=0)
    together = generate(model, vocabulary, PROMPTS, GREEDY)
    for prompt, found in zip(PROMPTS, together, strict=True):
        assert generate(model, vocabulary, [prompt], GREEDY) == [found]
        row = [0, *prompt]
        for _ in range(GREEDY.max_tokens):
            token = int(logits(model, torch.tensor([row]))[0, -1, :VOCAB_SIZE].argmax())
            if token == 0:
                break
            row.append(token)
        assert row[1 + len(prompt) :] == found
    assert len(set(map(tuple, together))) > 1


def test_rows_that_end_leave_the_others_as_they_were():
    model, vocabulary, counts = lively("mogrifier"), Vocabulary(size=VOCAB_SIZE, separator=0), [0] * 4

    def watch(row: int, token: int) -> bool:
        counts[row] += 1
        return counts[row] == 3 * row + 2

    whole = generate(model, vocabulary, PROMPTS, GREEDY)
    cut = generate(model, vocabulary, PROMPTS, GREEDY, watch)
    assert cut == [row[: 3 * number + 2] for number, row in enumerate(whole)]


@pytest.mark.parametrize("made", [decoding_weights, weight_only_int8])
@pytest.mark.parametrize("name", ["lstm", "mogrifier"])
def test_copies_for_decoding_stay_close(name, made):
    """Relative distance of the logits to float32's: bfloat16 0.5 %, int8 1.1 % at most (measured)."""
    model, tokens = build_recurrent(MODELS[name]).eval(), torch.randint(0, 61, (2, 24))
    exact = logits(model, tokens)
    copy = made(model.to(torch.bfloat16))
    assert float((logits(copy, tokens).float() - exact).norm() / exact.norm()) < 0.03


@pytest.mark.parametrize("name", MODELS)
def test_training_flops_count_every_product(name):
    from torch.utils.flop_counter import FlopCounterMode

    model = build_recurrent(MODELS[name])
    tokens = torch.randint(0, 64, (2, 30))
    with FlopCounterMode(display=False) as counter:
        hidden = model(plain_batch(tokens)).hidden
        torch.nn.functional.cross_entropy(model.head(hidden).flatten(0, 1), tokens.flatten()).backward()
    assert model.training_flops(30) == pytest.approx(counter.get_total_flops() / tokens.numel(), rel=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_recompute_changes_no_gradient(name):
    spec = MODELS[name].model_copy(update={"dropout": Dropout(input=0.2, between=0.2)})
    spec = spec.model_copy(update={"layer": spec.layer.model_copy(update={"state_dropout": 0.2})})
    gradients = []
    for recompute in (False, True):
        model = build_recurrent(spec).train()
        model.stack.recompute = recompute
        torch.manual_seed(5)
        tokens = torch.arange(40)[None] % 64
        hidden = model(plain_batch(tokens)).hidden
        linear_cross_entropy(hidden[0], model.head, tokens[0])[0].backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_initial_values_follow_the_code_and_only_name_and_seed():
    spec = mogrifier(256, 2, 4, 16, 512)
    model = build_recurrent(spec, seed=1)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            low_rank = ".down." in name or ".up." in name
            expected = (256 * 16) ** -0.25 if low_rank else 1 / math.sqrt(256)
            assert parameter.std().item() == pytest.approx(expected, rel=0.04), name
        else:
            forget = torch.zeros_like(parameter)
            if name.endswith("input.bias"):
                forget.chunk(4)[1].fill_(1.0)
            assert torch.equal(parameter, forget), name
    deeper = build_recurrent(spec.model_copy(update={"depth": 3}), seed=1)
    assert torch.equal(model.stack.layers[1].state.weight, deeper.stack.layers[1].state.weight)
    assert not torch.equal(model.embedding.weight, build_recurrent(spec, seed=2).embedding.weight)


def test_output_dropout_falls_on_what_the_head_reads():
    model = build_recurrent(MODELS["lstm"].model_copy(update={"dropout": Dropout(output=0.5)}))
    batch = plain_batch(torch.randint(0, 64, (2, 30)))
    hidden, kept = model.eval()(batch).hidden, model.train()(batch).hidden
    assert 0.4 < (kept == 0).float().mean() < 0.6
    torch.testing.assert_close(kept[kept != 0], 2 * hidden[kept != 0])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_compiled_equals_eager(name):
    model = lively(name)
    batch = plain_batch(torch.arange(40)[None] % 64)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model)(batch).hidden, model(batch).hidden, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mask", [Mask(causal=False), Mask(prefix_BT=torch.ones(1, 4, dtype=torch.bool))])
def test_what_shows_later_tokens_is_refused(mask):
    tokens = torch.ones(1, 4, dtype=torch.int64)
    batch = TextBatch(tokens_BT=tokens, targets_BT=tokens, positions_BT=torch.arange(4)[None], mask=mask)
    with pytest.raises(SpecError, match="token after token"):
        lively("lstm")(batch)
