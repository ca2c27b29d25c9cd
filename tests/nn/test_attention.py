"""The attention layer: shared heads, scale, and how unscaled attention starts."""

from __future__ import annotations

import pytest
import torch

from corestone.core.mask import Mask
from corestone.models.decoder import build_decoder
from corestone.nn.attention import AttentionLayer
from corestone.nn.lowered import lower_all
from corestone.nn.spec import Attention
from corestone.zoo.gpt import gpt2
from corestone.zoo.primer import primer_ez


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


def test_unscaled_scores_start_as_large_as_scaled_ones():
    """Both initialisations give scores of like size: q starts sqrt(head_dim) times smaller where nothing divides it."""
    spread = []
    for spec in (primer_ez(256, 1, 4, 512, vocab_size=64), gpt2(256, 1, 4, vocab_size=64)):
        layer = build_decoder(spec).stack.blocks[0].mixer
        x, weight = torch.randn(64, 256), layer.qkv.weight.detach()
        q, k = (x @ weight[part * 256 : (part + 1) * 256].t() / weight[256:512].std() for part in (0, 1))
        spread.append(float((q[:, :64] @ k[:, :64].t()).std()) * (layer.spec.scale or 64**-0.5))
    assert spread[0] == pytest.approx(spread[1], rel=0.05)


def test_heads_that_cannot_share_are_refused():
    with pytest.raises(ValueError, match="num_heads=4 is no multiple of num_kv_heads=3"):
        Attention(num_heads=4, num_kv_heads=3, head_dim=8)
