"""The attention layer: shared heads, scale, and how unscaled attention starts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from corestone.core.mask import Mask
from corestone.models.decoder import build_decoder
from corestone.nn.attention import AttentionLayer
from corestone.nn.lowered import lower_all
from corestone.nn.spec import Attention, Block, Buckets, FeedForward
from corestone.zoo.gpt import gpt2
from corestone.zoo.primer import primer, primer_ez


@pytest.mark.parametrize("scale", [None, 1.0, 0.3])
@pytest.mark.parametrize("kv_heads", [None, 1, 2])
def test_equals_the_definition(scale, kv_heads):
    """Measured worst case 1.2e-7."""
    spec = Attention(num_heads=4, num_kv_heads=kv_heads, head_dim=6, scale=scale, bias_in=False)
    torch.manual_seed(0)
    layer, x, positions = AttentionLayer(spec, 10), torch.randn(1, 7, 10), torch.arange(7)[None]
    found = layer(x, lower_all([spec], Mask(), positions, torch.float32, None, None))[0]
    made, K = layer.qkv.weight @ x[0].t(), spec.kv_heads
    q = made[:24].view(4, 6, 7)
    k, v = (made[24 + part * 6 * K : 24 + (part + 1) * 6 * K].view(K, 6, 7) for part in (0, 1))
    rows = []
    for t in range(7):
        heads = []
        for head in range(4):
            mine = head * K // 4
            scores = q[head, :, t] @ k[mine, :, : t + 1] * (6**-0.5 if scale is None else scale)
            heads.append(v[mine, :, : t + 1] @ scores.softmax(0))
        rows.append(layer.out(torch.cat(heads)))
    torch.testing.assert_close(found, torch.stack(rows), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("conv_width", [None, 3])
def test_queries_made_of_keys_equal_the_definition(conv_width, bias):
    """Values and gradients. Measured worst case 1.2e-7 and 7.2e-7."""
    spec = Attention(num_heads=3, head_dim=6, scale=0.3, bias_in=bias, conv_width=conv_width, shared_qk=True)
    torch.manual_seed(0)
    layer, x, positions = AttentionLayer(spec, 10), torch.randn(1, 7, 10), torch.arange(7)[None]
    if layer.conv is not None:
        torch.nn.init.normal_(layer.conv.weight)
    parameters = dict(layer.named_parameters())
    assert parameters["qkv.weight"].shape == (2 * 18, 10)
    assert parameters["q.weight"].shape == (18, 18)
    found = layer(x, lower_all([spec], Mask(), positions, torch.float32, None, None))[0]
    made = F.linear(x[0], layer.qkv.weight, layer.qkv.bias)
    if layer.conv is not None:
        taps = layer.conv.weight
        made = torch.stack([sum(taps[i] * made[t - i] for i in range(min(3, t + 1))) for t in range(7)])
    k, v = made[:, :18], made[:, 18:]
    q = F.linear(k, layer.q.weight, layer.q.bias)  # over all heads: each query sees every head's key
    rows = []
    for t in range(7):
        heads = []
        for head in range(3):
            mine = slice(6 * head, 6 * head + 6)
            scores = k[: t + 1, mine] @ q[t, mine] * 0.3
            heads.append(scores.softmax(0) @ v[: t + 1, mine])
        rows.append(layer.out(torch.cat(heads)))
    wanted, onto = torch.stack(rows), torch.randn(7, 10)
    given = [torch.autograd.grad((result * onto).sum(), parameters.values()) for result in (found, wanted)]
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(given[0], given[1], atol=1e-5, rtol=1e-5)


def test_keys_that_queries_are_made_of_start_as_in_the_authors_code():
    """Keys' map with 1/sqrt(width * head_dim), queries' with 1/sqrt(its inputs), values' with 1/sqrt(width)."""
    layer = build_decoder(primer(primer_ez(256, 1, 4, 512, vocab_size=64))).stack.blocks[0].mixer
    shared, values = layer.qkv.weight.detach().split(256)
    for weight, std in ((shared, (256 * 64) ** -0.5), (values, 256**-0.5), (layer.q.weight.detach(), 256**-0.5)):
        assert float(weight.std()) == pytest.approx(std, rel=0.02)
    assert torch.equal(layer.conv.weight[0], torch.full((512,), 0.5))
    assert torch.equal(layer.conv.weight[1:], torch.full((2, 512), 0.5 / 3))


def test_unscaled_scores_start_as_large_as_scaled_ones():
    """Both initialisations give scores of like size: q starts sqrt(head_dim) times smaller where nothing divides it.
    Seen over 200 draws of x: within 2.8 %."""
    spread = []
    for spec in (primer_ez(256, 1, 4, 512, vocab_size=64), gpt2(256, 1, 4, vocab_size=64)):
        layer = build_decoder(spec).stack.blocks[0].mixer
        x, weight = torch.randn(512, 256), layer.qkv.weight.detach()
        q, k = (x @ weight[part * 256 : (part + 1) * 256].t() / weight[256:512].std() for part in (0, 1))
        scores = torch.einsum("qnh,knh->nqk", q.view(512, 4, 64), k.view(512, 4, 64))
        spread.append(float(scores.std()) * (layer.spec.scale or 64**-0.5))
    assert spread[0] == pytest.approx(spread[1], rel=0.05)


def test_heads_that_cannot_share_are_refused():
    with pytest.raises(ValueError, match="num_heads=4 is no multiple of num_kv_heads=3"):
        Attention(num_heads=4, num_kv_heads=3, head_dim=8)
    with pytest.raises(ValueError, match="shared_qk makes queries of as many heads of keys: leave num_kv_heads=2 out"):
        Attention(num_heads=4, num_kv_heads=2, head_dim=8, shared_qk=True)
    assert Attention(num_heads=4, num_kv_heads=4, head_dim=8, shared_qk=True).made_heads == 8


def test_where_queries_of_keys_and_primers_norms_cannot_stand():
    plain, shared = Attention(num_heads=4, head_dim=8), Attention(num_heads=4, head_dim=8, shared_qk=True)
    for name, value in {"shared_qk": True, "conv_width": 3, "window": 4, "position": Buckets()}.items():
        cross = plain.model_copy(update={name: value})
        with pytest.raises(ValueError, match=rf"cross\.{name}: cross-attention looks at another text"):
            Block(mixer=plain, cross=cross, feedforward=FeedForward(hidden_dim=8))
    with pytest.raises(ValueError, match="residual=parallel goes with norm_at=in"):
        Block(mixer=shared, norm_at="in_out", residual="parallel", feedforward=FeedForward(hidden_dim=8))
