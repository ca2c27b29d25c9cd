"""One vector out of many tokens."""

from __future__ import annotations

import pytest
import torch

from corestone.core.errors import SpecError
from corestone.core.mask import Mask
from corestone.core.spec import parse
from corestone.nn.pooling import MapPoolLayer, build_pool, pool_text
from corestone.nn.spec import Attention, AttentionPool, ClassTokenPool, FeedForward, LastTokenPool, MeanPool

ATTENTION = AttentionPool(attention=Attention(num_heads=3, head_dim=4), feedforward=FeedForward(hidden_dim=20))
POOLS = {"class_token": ClassTokenPool(), "mean": MeanPool(), "attention": ATTENTION}


@pytest.mark.parametrize("kind", POOLS)
def test_a_pool_sees_what_it_should(kind):
    """The class token, or the patches in any order. Worst of 300 orders: 2.4e-7."""
    pool, hidden = build_pool(POOLS[kind], 12, before=1), torch.randn(2, 8, 12)
    found = pool(hidden)
    assert found.shape == (2, 12)
    shuffled = torch.cat((hidden[:, :1], hidden[:, 1:][:, torch.randperm(7)]), dim=1)
    torch.testing.assert_close(pool(shuffled), found, atol=2e-6, rtol=0)
    for place in (0, 5):
        other = hidden.clone()
        other[:, place] += 1
        assert torch.equal(pool(other), found) == ((place == 0) != (kind == "class_token"))


def test_a_mean_in_low_precision_is_summed_in_float32():
    """A thousand equal values in bfloat16: summed in that format they would stop growing."""
    hidden = torch.full((1, 4096, 3), 1.0078125, dtype=torch.bfloat16)
    assert torch.equal(build_pool(MeanPool(), 3, before=0)(hidden), hidden[:, 0])


def test_attention_by_hand():
    """One head, written out: what the probe finds, then the residual feed-forward."""
    spec = AttentionPool(
        attention=Attention(num_heads=1, head_dim=12), feedforward=FeedForward(hidden_dim=20, activation="relu")
    )
    pool, hidden = build_pool(spec, 12, before=0).double(), torch.randn(2, 7, 12, dtype=torch.float64)
    q = pool.attention.q(pool.probe.weight)
    k, v = pool.attention.kv(hidden).chunk(2, dim=-1)
    shares = (k @ q.T / 12**0.5).softmax(dim=1)
    found = pool.attention.out((shares * v).sum(dim=1))
    normed = (found - found.mean(-1, keepdim=True)) / (found.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    expected = found + pool.feedforward.down(pool.feedforward.up(normed).relu())
    torch.testing.assert_close(pool(hidden), expected, atol=1e-12, rtol=0)


def test_attention_of_a_pool_has_no_order():
    tree = {"kind": "attention", "attention": {"num_heads": 1, "head_dim": 4, "window": 3}}
    with pytest.raises(SpecError, match=r"attention\.window: cross-attention looks at another text"):
        parse(AttentionPool, tree | {"feedforward": {"hidden_dim": 8}}, "pool")


def test_attention_over_a_map_by_hand():
    """Three heads side by side; the query is the mean's, and the mean is looked at too. Exact in float64."""
    torch.manual_seed(0)
    pool, places = MapPoolLayer(places=6, width=12, head_dim=4).double(), torch.randn(2, 12, 2, 3, dtype=torch.float64)
    rows = [torch.stack([places[b, :, i, j] for i in range(2) for j in range(3)]) for b in range(2)]
    x = torch.stack([torch.cat((row.mean(0, keepdim=True), row)) for row in rows]) + pool.position.weight
    q, (k, v) = pool.q(x[:, 0]), pool.kv(x).chunk(2, dim=-1)
    heads = []
    for head in (slice(0, 4), slice(4, 8), slice(8, 12)):
        shares = (torch.einsum("bh,bsh->bs", q[:, head], k[:, :, head]) / 2).softmax(dim=1)
        heads.append(torch.einsum("bs,bsh->bh", shares, v[:, :, head]))
    torch.testing.assert_close(pool(places), torch.cat(heads, dim=1), atol=1e-12, rtol=0)


def test_a_text_is_pooled_within_its_own_segment():
    """Whatever number it and what fills it up have."""
    hidden = torch.randn(3, 5, 4)
    segments = torch.tensor([[7, 7, 0, 0, 0], [0, 0, 0, 0, 7], [3, 3, 3, 3, 3]])
    for row, length in enumerate((2, 4, 5)):
        for pool, wanted in (
            (LastTokenPool(), hidden[row, length - 1]),
            (ClassTokenPool(), hidden[row, 0]),
            (MeanPool(), hidden[row, :length].mean(0)),
        ):
            torch.testing.assert_close(pool_text(pool, hidden, Mask(segments_BT=segments))[row], wanted)
    assert torch.equal(pool_text(LastTokenPool(), hidden, Mask()), hidden[:, -1])
    torch.testing.assert_close(pool_text(MeanPool(), hidden, Mask()), hidden.mean(1))


def test_a_texts_mean_in_low_precision_is_summed_in_float32():
    hidden = torch.full((1, 4096, 3), 1.0078125, dtype=torch.bfloat16)
    for segments in (None, torch.ones(1, 4096)):
        assert torch.equal(pool_text(MeanPool(), hidden, Mask(segments_BT=segments)), hidden[:, 0])
