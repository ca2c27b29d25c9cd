"""Promises of the decoder: causality, packing, initial values, counts of work."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corestone.core.batch import TextBatch, plain_batch
from corestone.core.mask import Mask
from corestone.models.decoder import build_decoder
from corestone.nn.cross_entropy import linear_cross_entropy
from corestone.zoo.bloom import bloom
from corestone.zoo.gpt import gpt1, gpt2, gpt3
from corestone.zoo.gptj import gptj
from corestone.zoo.h3 import h3
from corestone.zoo.opt import opt, opt_350m
from corestone.zoo.palm import palm
from corestone.zoo.primer import primer, primer_ez

TINY = gpt2(width=32, depth=2, num_heads=4, vocab_size=64, context_length=48)


def quiet(spec):
    """Without dropout."""
    blocks = tuple(block.model_copy(update={"dropout": 0.0}) for block in spec.stack.blocks)
    stack, embedding = spec.stack.model_copy(update={"blocks": blocks}), spec.embedding
    return spec.model_copy(update={"stack": stack, "embedding": embedding.model_copy(update={"dropout": 0.0})})


def shrunk(spec, band=None):
    """A zoo spec with its structure kept and its sizes reduced."""
    blocks = tuple(
        block.model_copy(
            update={
                "mixer": block.mixer.model_copy(
                    update={
                        "num_heads": 4,
                        "head_dim": 8,
                        "dropout": 0.0,
                        "window": band if block.mixer.window else None,
                    }
                ),
                "feedforward": block.feedforward.model_copy(update={"hidden_dim": 64}),
                "dropout": 0.0,
            }
        )
        for block in spec.stack.blocks[:4]
    )
    smaller = {"vocab_size": 64, "context_length": 48, "dropout": 0.0, "width": spec.embedding.width and 24}
    embedding = spec.embedding.model_copy(update=smaller)
    return spec.model_copy(
        update={"embedding": embedding, "stack": spec.stack.model_copy(update={"width": 32, "blocks": blocks})}
    )


MODELS = {
    "gpt1": shrunk(gpt1()),
    "gpt2": TINY,
    "gpt3": shrunk(gpt3(768, 12, 12), band=5),
    "gptj": gptj(32, 2, 4, rotary_dims=4, vocab_size=64, context_length=48),
    "opt": quiet(opt(32, 2, 4, vocab_size=64, context_length=48)),
    "opt-350m": shrunk(opt_350m()),
    "bloom": bloom(24, 2, 6, vocab_size=64, context_length=48),
    "primer": primer_ez(24, 2, 3, 40, vocab_size=64, context_length=48),
    "primer-full": primer(primer_ez(24, 2, 3, 40, vocab_size=64, context_length=48)),
    "palm": palm(32, 2, 4, head_dim=6, vocab_size=64, context_length=48),
    "h3": quiet(h3(32, 3, 4, {1}, rotary_dims=4, vocab_size=64, context_length=48)),
}


def loud(spec, seed=0):
    """A model with weights large enough that every path shows in the logits."""
    model = build_decoder(spec, seed=seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and "norm" not in name:
                parameter.mul_(8)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_packed_logits_equal_unpacked_ones(name):
    """Design, promise 3: packed documents see only themselves."""
    model = loud(MODELS[name])
    torch.manual_seed(0)
    lengths = [5, 17, 1, 9, 16]
    documents = [torch.randint(0, 64, (n,)) for n in lengths]
    packed = TextBatch(
        tokens_BT=torch.cat(documents)[None],
        targets_BT=torch.cat(documents)[None],
        positions_BT=torch.cat([torch.arange(n) for n in lengths])[None],
        mask=Mask(segments_BT=torch.repeat_interleave(torch.arange(5), torch.tensor(lengths))[None].int()),
    )
    with torch.no_grad():
        whole = model.head(model(packed).hidden)[0].split(lengths)
        for document, logits in zip(documents, whole, strict=True):
            alone = model.head(model(plain_batch(document[None])).hidden)[0]
            torch.testing.assert_close(logits, alone, atol=2e-5, rtol=1e-5)  # worst 1.1e-5 (palm)


@settings(max_examples=10, deadline=None)
@given(name=st.sampled_from(sorted(MODELS)), change=st.integers(0, 39), seed=st.integers(0, 9))
def test_a_change_is_never_seen_before_it(name, change, seed):
    model = loud(MODELS[name])
    torch.manual_seed(seed)
    tokens = torch.randint(0, 64, (1, 40))
    other = tokens.clone()
    other[0, change] = (other[0, change] + 1) % 64
    with torch.no_grad():
        a, b = model(plain_batch(tokens)).hidden, model(plain_batch(other)).hidden
    if name == "h3":  # a Fourier transform rounds what stands before by what comes behind: worst of 360 cases 4.8e-6
        torch.testing.assert_close(a[:, :change], b[:, :change], atol=2e-5, rtol=0)
        assert float((a[:, change] - b[:, change]).abs().max()) > 0.1
        return
    assert torch.equal(a[:, :change], b[:, :change])
    assert not torch.equal(a[:, change], b[:, change])


def test_gpt3_bands_reach_no_further_than_said():
    spec = MODELS["gpt3"]
    banded = spec.model_copy(
        update={"stack": spec.stack.model_copy(update={"blocks": (spec.stack.blocks[1],), "final_norm": None})}
    )
    model = loud(banded)
    tokens = torch.randint(0, 64, (1, 20))
    other = tokens.clone()
    other[0, 3] = (other[0, 3] + 1) % 64
    with torch.no_grad():
        same = (model(plain_batch(tokens)).hidden == model(plain_batch(other)).hidden).all(-1)[0]
    assert same.tolist() == [not 3 <= t < 3 + 5 for t in range(20)]


def test_initial_values_follow_the_paper_and_only_name_and_seed():
    model = build_decoder(gpt2(width=256, depth=4, num_heads=4, vocab_size=512, context_length=256), seed=1)
    stds = {name: p.std().item() for name, p in model.named_parameters() if p.ndim == 2}
    for name, std in stds.items():
        expected = {"position": 0.01}.get(name.split(".")[1], 0.02)
        if name.endswith(("mixer.out.weight", "down.weight")):
            expected = 0.02 / math.sqrt(8)
        assert std == pytest.approx(expected, rel=0.02), name
    deeper = build_decoder(gpt2(width=256, depth=6, num_heads=4, vocab_size=512, context_length=256), seed=1)
    assert torch.equal(model.stack.blocks[2].mixer.qkv.weight, deeper.stack.blocks[2].mixer.qkv.weight)
    assert not torch.equal(model.embedding.token.weight, build_decoder(model.spec, seed=2).embedding.token.weight)


@pytest.mark.parametrize("name", ["gpt2", "gptj", "opt-350m", "bloom", "palm", "primer", "primer-full", "h3"])
def test_training_flops_count_every_product(name):
    """Against torch's own counter, which counts both halves of the causal products; the halves are taken off."""
    from torch.utils.flop_counter import FlopCounterMode

    spec, T = MODELS[name], 48
    model = build_decoder(spec)
    tokens = torch.randint(0, 64, (2, T))
    with FlopCounterMode(display=False) as counter:
        # Plain operations, so that the counter sees them: full logits, one product for scores and one for values.
        hidden = model(plain_batch(tokens)).hidden
        total = torch.nn.functional.cross_entropy(model.head(hidden).flatten(0, 1), tokens.flatten())
        total.backward()
    kernels = counter.get_flop_counts()["Global"]
    bmm = sum(v for k, v in kernels.items() if "bmm" in str(k) or "attention" in str(k))
    dense = sum(kernels.values()) - bmm
    mixers = [block.mixer for block in spec.stack.blocks]
    attention = sum(12 * m.num_heads * m.head_dim * (T + 1) / 2 for m in mixers if m.kind == "attention")
    # Per channel two convolutions of two real transforms of 2 T values, 2.5 n log2 n each, backward twice as many.
    transforms = 12 * 2.5 * 2 * math.log2(2 * T) * spec.stack.width * sum(m.kind == "h3" for m in mixers)
    assert model.training_flops(T) == pytest.approx(dense / tokens.numel() + attention + transforms, rel=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_recompute_changes_no_gradient(name):
    gradients = []
    for recompute in (False, True):
        model = loud(MODELS[name]).train()
        model.stack.recompute = recompute
        tokens = torch.arange(40)[None] % 64
        hidden = model(plain_batch(tokens)).hidden
        linear_cross_entropy(hidden[0], model.head, tokens[0])[0].backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_compiled_equals_eager(name):
    model = loud(MODELS[name])
    batch = plain_batch(torch.arange(40)[None] % 64)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model)(batch).hidden, model(batch).hidden, atol=1e-4, rtol=1e-4)
