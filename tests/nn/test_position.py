"""Rotary angles and linear biases are what their papers say."""

from __future__ import annotations

import cmath

import pytest
import torch

from corestone.nn.position import alibi_bias, alibi_slopes, bucket_bias, bucket_of, rotary_angles, rotate
from corestone.nn.spec import Buckets, Rotary


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dims", [2, 6, 8])
def test_rotation_is_a_product_of_complex_numbers(dims, interleaved):
    """Su et al. 2021, section 3.2.2: pair r at position p is multiplied by exp(i p 10000^(-2r/dims))."""
    spec = Rotary(dims=dims, interleaved=interleaved)
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 0, 1, 2, 40]])
    found = rotate(spec, x.float(), rotary_angles(dims, positions)).double()
    assert torch.equal(found[..., dims:], x.float()[..., dims:].double())
    for r in range(dims // 2):
        a, b = (2 * r, 2 * r + 1) if interleaved else (r, r + dims // 2)
        for row in range(2):
            for t in range(5):
                turn = cmath.exp(1j * float(positions[row, t]) * 10_000.0 ** (-2 * r / dims))
                for head in range(3):
                    wanted = complex(x[row, head, t, a], x[row, head, t, b]) * turn
                    assert found[row, head, t, a].item() == pytest.approx(wanted.real, abs=1e-5)
                    assert found[row, head, t, b].item() == pytest.approx(wanted.imag, abs=1e-5)


def test_scores_depend_on_the_distance_alone():
    spec = Rotary(dims=8)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(p, s):
        turned = [rotate(spec, x, rotary_angles(8, torch.tensor([[at]]))) for x, at in ((q, p), (k, s))]
        return float((turned[0] * turned[1]).sum())

    assert score(5, 2) == pytest.approx(score(105, 102), abs=1e-4)
    assert score(5, 2) != pytest.approx(score(5, 3), abs=1e-4)


def test_slopes_are_the_published_ones():
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(16) == pytest.approx([2.0 ** (-i / 2) for i in range(1, 17)])
    assert alibi_slopes(12)[8:] == pytest.approx([2.0**-0.5, 2.0**-1.5, 2.0**-2.5, 2.0**-3.5])
    assert len(alibi_slopes(112)) == 112
    assert alibi_slopes(1) == [2.0**-8]


def test_a_bias_falls_with_the_distance():
    whole = alibi_bias(2, 4, 4, torch.float32, torch.device("cpu"))
    assert (
        whole[0].tril().tolist()
        == (torch.tensor([[0, 0, 0, 0], [-1, 0, 0, 0], [-2, -1, 0, 0], [-3, -2, -1, 0]]) * 2.0**-4).tolist()
    )
    assert torch.equal(alibi_bias(2, 1, 4, torch.float32, torch.device("cpu")), whole[:, 3:])


def test_buckets_are_exact_near_and_wide_far():
    """32 buckets up to 128: 16 distances by themselves, then as wide as their logarithm; causal."""
    steps = torch.arange(0, 200)
    found = bucket_of(Buckets(), -steps, causal=True).tolist()
    assert found[:16] == list(range(16))
    assert found[16:21] == [16, 16, 16, 17, 17]
    assert found[113:] == [31] * 87
    assert sorted(set(found)) == list(range(32))
    assert bucket_of(Buckets(), steps, causal=True).tolist() == [0] * 200
    both = bucket_of(Buckets(), torch.tensor([-200, -7, -1, 0, 1, 7, 200]), causal=False).tolist()
    assert both == [15, 7, 1, 0, 17, 23, 31]


@pytest.mark.parity
@pytest.mark.parametrize("causal", [False, True])
def test_buckets_are_the_references(causal):
    from transformers.models.t5.modeling_t5 import T5Attention

    for spec in (Buckets(), Buckets(num=8, max_distance=20)):
        distances = torch.arange(-300, 301)
        theirs = T5Attention._relative_position_bucket(distances, not causal, spec.num, spec.max_distance)
        assert torch.equal(bucket_of(spec, distances, causal), theirs)


def test_a_learned_bias_stands_where_its_distance_is():
    table = torch.randn(32, 3)
    whole = bucket_bias(Buckets(), table, 40, 40, causal=True)
    assert whole[2, 30, 27] == table[3, 2]
    assert torch.equal(bucket_bias(Buckets(), table, 1, 40, causal=True), whole[:, 39:])
