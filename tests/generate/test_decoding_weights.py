"""Packed and rounded weights against the plain ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, VOCABULARY, lively, next_logits, tiny
from torch import nn

from corestone.generate.decode import generate
from corestone.generate.quantize import Int8Linear, quantize, weight_only_int8
from corestone.generate.spec import Sampling
from corestone.generate.weights import PackedLinear, decoding_weights
from corestone.nn.head import TiedHead

GREEDY = Sampling(temperature=0.0, max_tokens=30)
packs = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="needs oneDNN with bfloat16",
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40)
@given(st.integers(0, 99), st.sampled_from([torch.float32, torch.bfloat16]), st.floats(1e-6, 1e4))
def test_rounded_weights_are_within_half_a_step(seed: int, dtype: torch.dtype, size: float) -> None:
    weight = random(7, 33, seed=seed) * size * torch.logspace(-3, 3, 7)[:, None]
    weight[3] = 0
    rounded, scale = quantize(weight, dtype)
    step = scale.float()[:, None]
    assert rounded.dtype == torch.int8
    # Half a step, and float32's own rounding of the quotient.
    assert bool(((rounded * step - weight).abs() <= step * 0.50001).all())
    # A channel's step is 1/127 of its largest weight, up to the rounding of the scale (bfloat16: under 1 %).
    largest = weight.abs().amax(dim=1)
    used = largest > 0
    assert bool((scale.float()[used] <= largest[used] / 127 * 1.01).all())


@pytest.mark.parametrize("rows", [1, 3, 8, 16, 17, 40])
@pytest.mark.parametrize("bias", [True, False])
def test_int8_products_are_those_of_the_restored_weights(rows: int, bias: bool) -> None:
    """Few rows take the int8 kernel, many the restored weights. Relative, worst case measured 0.0033."""
    plain = nn.Linear(64, 96, bias=bias)
    layer = Int8Linear(plain.weight, plain.bias, torch.bfloat16)
    x = random(2, rows, 64)[:1].bfloat16()
    exact = F.linear(x.double(), layer.rounded_OI.double() * layer.scale_O.double()[:, None])
    if bias:
        exact = exact + plain.bias.bfloat16().double()
    result = layer(x)
    assert result.shape == (1, rows, 96)
    assert float(((result.double() - exact).norm() / exact.norm()).detach()) < 0.01


@pytest.mark.parametrize("width", [5, 24, 33, 100])
def test_widths_that_the_int8_kernel_cannot_read_take_the_restored_weights(width: int) -> None:
    layer = Int8Linear(random(96, width), None, torch.bfloat16)
    x = random(2, width, seed=1).bfloat16()
    assert torch.equal(layer(x), F.linear(x, layer.restored()))


def test_float32_activations_take_the_plain_road() -> None:
    plain = nn.Linear(64, 96)
    layer = Int8Linear(plain.weight, plain.bias, torch.float32)
    x = random(4, 64)
    assert torch.allclose(layer(x), F.linear(x, layer.restored(), plain.bias), atol=1e-6)


def test_an_int8_model_replaces_every_matrix_and_leaves_the_original() -> None:
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = weight_only_int8(model)
    assert not [m for m in small.modules() if isinstance(m, nn.Linear | TiedHead)]
    assert sum(isinstance(m, Int8Linear) for m in small.modules()) == 2 * 4 + 1
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.head.weight is model.embedding.token.weight


def test_an_int8_model_stays_close_and_generates() -> None:
    """Relative distance of logits to the unrounded model's; worst of ten rows 0.028 in float32, 0.033 in bfloat16."""
    model = tiny()
    row = [0, 5, 9, 33, 7, 60]
    exact = next_logits(model, row)
    for dtype, tolerance in ((torch.float32, 0.04), (torch.bfloat16, 0.06)):
        small = weight_only_int8(model, dtype)
        assert float((next_logits(small, row).float() - exact).norm() / exact.norm()) < tolerance
    together = generate(small, VOCABULARY, [[5], [9]], GREEDY)
    assert all(0 < token < VOCABULARY.size for row in together for token in row)
    assert [len(row) for row in together] == [30, 30] or any(len(row) < 30 for row in together)


@packs
@pytest.mark.parametrize("shape", [(1, 64), (1, 1, 64), (8, 64), (2, 37, 64), (1, 300, 64)])
def test_packed_products_are_the_plain_ones(shape: tuple[int, ...]) -> None:
    """Both round the same sums to bfloat16 (2^-8). Relative, measured: no difference at all."""
    for plain in (nn.Linear(64, 192).bfloat16(), nn.Linear(64, 50, bias=False).bfloat16()):
        packed = PackedLinear(plain.weight, plain.bias)
        x = random(*shape).bfloat16()
        with torch.inference_mode():
            expected, result = plain(x).float(), packed(x).float()
        assert result.shape == expected.shape
        assert float((result - expected).norm() / expected.norm()) < 0.004


@packs
def test_packing_copies_what_pays_and_shares_the_rest() -> None:
    model = tiny().bfloat16()
    packed = decoding_weights(model)
    assert packed is not model
    assert sum(isinstance(m, PackedLinear) for m in packed.modules()) == 2 * 4 + 1
    assert packed.embedding.token.weight is model.embedding.token.weight
    assert isinstance(model.head, TiedHead)
    assert decoding_weights(packed) is packed
    assert generate(packed, VOCABULARY, [[5, 9]], GREEDY) == generate(model, VOCABULARY, [[5, 9]], GREEDY)


def test_queries_made_of_keys_are_rounded_too() -> None:
    """The map from keys to queries reads part of what the first map gave. Relative distance, worst of ten 0.023."""
    model = lively(FAMILIES["primer-full"])
    small = weight_only_int8(model, torch.float32)
    assert sum(isinstance(m, Int8Linear) for m in small.modules()) == 2 * 5 + 1
    generator = torch.Generator().manual_seed(0)
    for row in torch.randint(1, 61, (10, 12), generator=generator).tolist():
        exact = next_logits(model, row)
        distance = float((next_logits(small, row) - exact).norm() / exact.norm())
        assert 0 < distance < 0.05


@packs
def test_queries_made_of_keys_are_packed_too() -> None:
    """With several rows the keys are a slice of what the first map gave."""
    model = lively(FAMILIES["primer-full"]).bfloat16()
    packed = decoding_weights(model)
    assert sum(isinstance(m, PackedLinear) for m in packed.modules()) == 2 * 5 + 1
    prompts = [[5, 9, 33], [4], [18, 2, 60, 41]]
    assert generate(packed, VOCABULARY, prompts, GREEDY) == generate(model, VOCABULARY, prompts, GREEDY)


def test_float32_and_int8_models_are_decoded_as_they_are() -> None:
    model = tiny()
    assert decoding_weights(model) is model
    small = weight_only_int8(model)
    assert decoding_weights(small) is small
