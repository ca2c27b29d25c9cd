"""State-space models and the H3 layer against the plain recurrence in float64, written as loops over single numbers."""

from __future__ import annotations

import copy
import itertools
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corestone.core.batch import plain_batch
from corestone.core.errors import SpecError
from corestone.core.mask import Mask
from corestone.generate.quantize import weight_only_int8
from corestone.models.decoder import build_decoder
from corestone.models.spec import Encoder, EncoderDecoder
from corestone.nn.cache import empty_cache
from corestone.nn.cross_entropy import linear_cross_entropy
from corestone.nn.documents import find_documents
from corestone.nn.lowered import lower_all
from corestone.nn.spec import H3, Block, FeedForward, Init, Stack, TokenEmbedding
from corestone.nn.ssm import H3Layer, convolve
from corestone.parallel.precision import MasterWeights
from corestone.recipes.catalogue import find_recipe
from corestone.zoo.h3 import h3

WIDTH, STATE = 6, 8
SPEC = H3(state_dim=STATE)


def layer(seed=0, dtype=torch.float64, width=WIDTH, state_dim=STATE):
    """An H3 layer in which every parameter has a value of its own, near where they start."""
    spec = h3(width, 1, 1, (), vocab_size=8)
    mixer = H3(state_dim=state_dim)
    blocks = (spec.stack.blocks[0].model_copy(update={"mixer": mixer}),)
    model = build_decoder(spec.model_copy(update={"stack": spec.stack.model_copy(update={"blocks": blocks})}), seed)
    made = model.stack.blocks[0].mixer
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            size = 0.5 if name.startswith(("qkv", "out")) else 0.2
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return made.to(dtype)


def lowered(positions_BT, dtype):
    segments = (positions_BT == 0).cumsum(1).int()
    return lower_all([SPEC], Mask(segments_BT=segments), positions_BT, dtype, None, None)


def plain(T, B=1):
    return torch.arange(T).expand(B, T)


def by_loops(made: H3Layer, x_TD, restarts):
    """One row of the layer: the recurrences of Fu et al. 2023, section 3.2, and the bilinear rule, number by number."""
    width = x_TD.shape[1]
    q, k, v = (made.qkv.weight @ x_TD.T + made.qkv.bias[:, None]).split(width)
    shift, diagonal = made.shift, made.diagonal
    mixed = []
    for d in range(width):
        dt = diagonal.log_dt[d].exp()
        discrete = []
        for n in range(diagonal.frequency.shape[1]):
            A = torch.complex(-diagonal.log_decay[d, n].exp(), diagonal.frequency[d, n])
            B, C = (torch.complex(p[d, n, 0], p[d, n, 1]) for p in (diagonal.input, diagonal.output))
            discrete.append(((1 + dt * A / 2) / (1 - dt * A / 2), dt * B / (1 - dt * A / 2), C))
        row = []
        for t in range(x_TD.shape[0]):
            if t in restarts:
                delays, modes = [torch.zeros((), dtype=x_TD.dtype)] * shift.input.shape[1], [0j] * len(discrete)
            delays = [torch.zeros((), dtype=x_TD.dtype), *delays[:-1]]
            delays = [state + b * k[d, t] for state, b in zip(delays, shift.input[d], strict=True)]
            shifted = sum(c * state for c, state in zip(shift.output[d], delays, strict=True)) + shift.skip[d] * k[d, t]
            u = shifted * v[d, t]
            modes = [A * mode + B * u for (A, B, _), mode in zip(discrete, modes, strict=True)]
            y = sum(2 * (C * mode).real for (_, _, C), mode in zip(discrete, modes, strict=True)) + diagonal.skip[d] * u
            row.append(q[d, t] * y)
        mixed.append(torch.stack(row))
    return (made.out.weight @ torch.stack(mixed)).T + made.out.bias


def largest(a, b):
    return max(float((x - y).detach().abs().max()) for x, y in zip(a, b, strict=True))


def gradients(out, made, x):
    weights = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((out * weights).sum(), [x, *made.parameters()])


@pytest.mark.parametrize(
    "restarts", [{0}, {0, 1, 2, 5, 13, 14}, {0, 20}], ids=["one document", "six documents", "a last lone token"]
)
def test_convolution_equals_the_loops_forward_and_backward(restarts):
    """float64: outputs of up to 20 differ by 1.8e-14 at most, gradients of up to 91 by 7e-14."""
    made, T = layer(), 21
    x = torch.randn(1, T, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    positions = torch.tensor([[t - max(r for r in restarts if r <= t) for t in range(T)]])
    found = made(x, lowered(positions, torch.float64))[0]
    wanted = by_loops(made, x[0], restarts)
    assert largest([found], [wanted]) < 1e-12
    a, b = gradients(found, made, x), gradients(wanted, made, x)
    assert all(float(g.abs().max()) > 1e-3 for g in a)
    assert largest(a, b) < 1e-11


def in_pieces(made, x, positions, cuts):
    """The layer's outputs when the row is read piece by piece with a cache."""
    mixer = H3(state_dim=made.shift.input.shape[1])
    stack = Stack(width=x.shape[2], blocks=(Block(mixer=mixer, feedforward=FeedForward(hidden_dim=1)),))
    cache = empty_cache(stack, x.shape[0], x.shape[1], x.dtype, torch.device("cpu"))
    found = []
    with torch.no_grad():
        for start, stop in itertools.pairwise([0, *cuts, x.shape[1]]):
            found.append(made(x[:, start:stop], lowered(positions[:, start:stop], x.dtype), cache))
            cache.length = stop
    return torch.cat(found, dim=1), cache


def test_float32_stays_near_float64_over_two_thousand_tokens():
    """At full state size, relative to the largest value. Of six seeds, transforms are off by 1.1e-5 at most, the
    recurrence by 9.9e-6; seed 0 by 3.6e-6 either way."""
    made, exact = layer(0, torch.float32, 16, 64), layer(0, torch.float64, 16, 64)
    x = torch.randn(1, 2048, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = exact(x.double(), lowered(plain(2048), torch.float64))
        found = made(x, lowered(plain(2048), torch.float32))
    size = float(wanted.abs().max())
    assert largest([found], [wanted]) / size < 1e-5
    assert largest([in_pieces(made, x, plain(2048), range(1, 2048))[0]], [wanted]) / size < 1e-5


@settings(max_examples=20, deadline=None)
@given(
    starts=st.lists(st.sets(st.integers(1, 29)), min_size=3, max_size=3),
    cuts=st.sets(st.integers(1, 29)),
    seed=st.integers(0, 9),
)
def test_recurrence_equals_convolution_wherever_it_takes_over(starts, cuts, seed):
    """Three rows of any documents, read in any pieces. Worst of 1,500 examples 6e-14."""
    made = layer(seed)
    x = torch.randn(3, 30, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    positions = torch.tensor([[t - max(s for s in {0, *row} if s <= t) for t in range(30)] for row in starts])
    with torch.no_grad():
        whole = made(x, lowered(positions, torch.float64))
    assert largest([in_pieces(made, x, positions, sorted(cuts))[0]], [whole]) < 1e-12


def test_padding_in_front_leaves_nothing_in_the_state():
    """Pads have position 0 each: whatever they hold, the row is what it is without them."""
    made, pads = layer(), 5
    x = torch.randn(2, 16, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    x[1, :pads] = 1e6
    positions = torch.stack([torch.arange(16), (torch.arange(16) - pads).clamp(min=0)])
    for cuts in ([8], [8, 9, 10, 11]):
        found, cache = in_pieces(made, x, positions, cuts)
        alone, state = in_pieces(made, x[1:, pads:], plain(16 - pads), [c - pads for c in cuts])
        assert largest([found[1, pads:]], alone) < 1e-12
        assert largest([cache.layers[0].diagonal_BDN[1:]], [state.layers[0].diagonal_BDN]) < 1e-12
        assert largest([cache.layers[0].shift_BDN[1:]], [state.layers[0].shift_BDN]) < 1e-12


def test_a_document_is_read_alone_to_the_last_bit():
    """Another text around it, and other lengths around it, change no bit of it: it is never convolved with them."""
    made = layer(dtype=torch.float32)
    x = torch.randn(2, 64, WIDTH, generator=torch.Generator().manual_seed(5))
    positions = torch.cat([torch.arange(11), torch.arange(30), torch.arange(23)])[None].repeat(2, 1)
    x[1, 11:41] = x[0, 11:41]
    with torch.no_grad():
        a, b = made(x, lowered(positions, torch.float32))
    assert torch.equal(a[11:41], b[11:41])
    assert not torch.equal(a[:11], b[:11])


@settings(max_examples=50, deadline=None)
@given(starts=st.lists(st.sets(st.integers(1, 40)), min_size=1, max_size=4))
def test_documents_come_back_where_they_were(starts):
    positions = torch.tensor([[t - max(s for s in {0, *row} if s <= t) for t in range(41)] for row in starts])
    x = torch.randn(len(starts), 41, 2)
    documents = find_documents(Mask(segments_BT=torch.zeros_like(positions)), positions)
    assert (documents is None) == (not any(starts))
    if documents is None:
        return
    parts = documents.split(x)
    assert torch.equal(documents.join(parts, x.shape), x)
    assert sum(part.abs().sum() for part in parts) == pytest.approx(float(x.abs().sum()), rel=1e-5)
    assert sum(len(part) for part in parts) == sum(len(row) + 1 for row in starts)
    assert sum(part[..., 0].numel() for part in parts) <= 2 * x[..., 0].numel()


@pytest.mark.parametrize("taps", [1, 4, 13, 20])
def test_convolve_is_the_sum_it_says(taps):
    """Values and gradients, of kernels shorter and longer than the row. Worst of 80 cases 5e-15."""
    generator = torch.Generator().manual_seed(taps)
    u, kernel, weights = (
        torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((2, 3, 13), (3, taps), (2, 3, 13))
    )
    u, kernel = u.requires_grad_(), kernel.requires_grad_()
    sums = [sum(kernel[:, back] * u[..., t - back] for back in range(min(t + 1, taps))) for t in range(13)]
    wanted, found = torch.stack(sums, dim=-1), convolve(u, kernel)
    assert largest([found], [wanted]) < 1e-13
    a, b = (torch.autograd.grad((y * weights).sum(), [u, kernel]) for y in (found, wanted))
    assert largest(a, b) < 1e-13


def test_the_kernel_is_the_formula_of_the_paper():
    """K_l = 2 Re sum_n C_n B_n dt / (1 - dt A_n/2) ((1 + dt A_n/2) / (1 - dt A_n/2))^l, in Python's complex numbers."""
    diagonal, T = layer().diagonal.requires_grad_(False), 37
    found = diagonal.kernel(T)
    for d in range(WIDTH):
        dt = math.exp(diagonal.log_dt[d])
        for tap in range(T):
            total = float(diagonal.skip[d]) if tap == 0 else 0.0
            for n in range(STATE // 2):
                A = complex(-math.exp(diagonal.log_decay[d, n]), diagonal.frequency[d, n])
                B, C = (complex(*p[d, n].tolist()) for p in (diagonal.input, diagonal.output))
                rate = (1 + dt * A / 2) / (1 - dt * A / 2)
                total += 2 * (C * B * dt / (1 - dt * A / 2) * rate**tap).real
            assert float(found[d, tap]) == pytest.approx(total, abs=1e-12)


def test_layers_start_as_published():
    """S4D-Lin, e1, log-uniform steps, uniform and normal outputs; from name and seed alone."""
    model = build_decoder(h3(128, 2, 4, (), vocab_size=16), seed=3).requires_grad_(False)
    mixer = model.stack.blocks[1].mixer
    shift, diagonal = mixer.shift, mixer.diagonal
    assert torch.equal(shift.input, torch.eye(64)[:1].expand(128, 64))
    assert float(shift.output.abs().max()) == pytest.approx(0.125, rel=1e-3)
    assert float(shift.output.std()) == pytest.approx(0.125 / 3**0.5, rel=0.02)
    assert torch.equal(diagonal.frequency[5], math.pi * torch.arange(32))
    assert torch.allclose(-diagonal.log_decay.exp(), torch.tensor(-0.5))
    assert torch.equal(diagonal.input, torch.tensor([1.0, 0.0]).expand(128, 32, 2))
    assert float(diagonal.output.square().sum(-1).mean()) == pytest.approx(1, rel=0.05)
    steps = diagonal.log_dt.exp()
    assert 1e-3 <= float(steps.min()) < 1.3e-3
    assert 0.08 < float(steps.max()) <= 0.1
    assert float(diagonal.log_dt.mean()) == pytest.approx(math.log(0.01), abs=0.3)
    assert float(shift.skip.std()) == pytest.approx(1, rel=0.2)
    assert not torch.equal(shift.skip, diagonal.skip)
    assert float(mixer.out.weight.std()) == pytest.approx(0.02 / 2, rel=0.02)  # 4 branches
    assert float(mixer.qkv.weight.std()) == pytest.approx(0.02, rel=0.02)
    deeper = build_decoder(h3(128, 3, 4, (), vocab_size=16), seed=3).stack.blocks[1].mixer
    assert torch.equal(deeper.diagonal.output, diagonal.output)
    assert not torch.equal(model.stack.blocks[0].mixer.diagonal.log_dt, diagonal.log_dt)


def test_bfloat16_parameters_compute_in_float32():
    """Against the same rounded weights in float64: what is left is the rounding of the matrices' outputs, 0.4 %."""
    made = layer(dtype=torch.bfloat16)
    exact = copy.deepcopy(made).double()
    x = torch.randn(1, 200, WIDTH, generator=torch.Generator().manual_seed(6)).bfloat16()
    with torch.no_grad():
        wanted = exact(x.double(), lowered(plain(200), torch.float64))
        found = made(x, lowered(plain(200), torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert float((found - wanted).norm() / wanted.norm()) < 0.01
    assert made.diagonal.kernel(200).dtype == torch.float32


def test_low_precision_gradients_reach_float32_masters():
    """Relative distance to float32's gradient, eight seeds: 0.017 at most. With parameters of the state-space models
    rounded to bfloat16 it would be 0.32."""
    spec = h3(64, 1, 1, (), vocab_size=32)
    tokens = torch.randint(0, 32, (4, 64), generator=torch.Generator().manual_seed(0))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model = build_decoder(spec.model_copy(update={"init": Init(std=0.1)}), seed=0).eval()
        weights = MasterWeights(model, dtype)
        hidden = model(plain_batch(tokens)).hidden
        linear_cross_entropy(hidden.flatten(0, 1), model.head, tokens.flatten())[0].backward()
        found.append(dict(zip(weights.masters, weights.gradients(), strict=True)))
    own = [name for name in found[0] if ".shift." in name or ".diagonal." in name]
    assert len(own) == 9
    for name in own:
        assert found[1][name].dtype == weights.masters[name].dtype == torch.float32
        assert float((found[1][name] - found[0][name]).norm() / found[0][name].norm()) < 0.05, name
    weights.masters[own[0]].data += 1
    weights.publish()
    assert torch.equal(dict(model.named_parameters())[own[0]], weights.masters[own[0]])


def test_only_the_state_space_models_stay_float32_in_a_low_precision_model():
    model = build_decoder(h3(64, 2, 1, {0}, vocab_size=32))
    for lower in (model, copy.deepcopy(model).half(), weight_only_int8(model)):
        kept = {name for name, p in lower.to(torch.bfloat16).named_parameters() if p.dtype == torch.float32}
        assert kept == {name for name, _ in model.named_parameters() if ".shift." in name or ".diagonal." in name}
    assert all(p.dtype == torch.float64 for p in model.double().parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.stack.blocks.0.mixer.state_dim=63", "multiple of 2 (got 63)"),
        ("model.stack.blocks.0.mixer.num_heads=4", "override 'model.stack.blocks.0.mixer.num_heads=4': unknown key"),
        ("model.stack.blocks.0.mixer={kind: h4}", "unknown kind 'h4': did you mean 'h3'"),
        ("model.stack.blocks.0.mixer={kind: h3, state: 64}", "unknown key 'state'; did you mean 'state_dim'?"),
    ],
)
def test_bad_values_are_refused_by_name(change, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        find_recipe("shakespeare-h3", [change])


def test_an_encoder_of_states_is_refused():
    stack = h3(32, 2, 1, {0}).stack
    embedding = TokenEmbedding(vocab_size=8, context_length=8)
    for build in (
        lambda: Encoder(embedding=embedding, stack=stack),
        lambda: EncoderDecoder(embedding=embedding, encoder=stack, decoder=stack),
    ):
        with pytest.raises(ValueError, match=r"blocks.1.mixer: 'h3' sees only earlier tokens"):
            build()


def test_a_mixer_can_be_changed_by_an_override():
    run = find_recipe("shakespeare-h3", ["model.stack.blocks.0.mixer={kind: h3, state_dim: 32}"])
    assert run.model.stack.blocks[0].mixer == H3(state_dim=32)
