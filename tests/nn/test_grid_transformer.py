"""The block on a map against formulas written out, place by place; stochastic depth."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from corestone.core.errors import SpecError
from corestone.nn.drop_path import DropPath
from corestone.nn.grid_transformer import GridAttention, GridTransformerBlock
from corestone.nn.position import grid_bias, resized_offsets
from corestone.nn.spec import GridTransformer


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def filled(module: torch.nn.Module) -> torch.nn.Module:
    """In float64, every parameter drawn."""
    with torch.no_grad():
        for place, parameter in enumerate(module.double().parameters()):
            parameter.data = 0.4 * random(*parameter.shape, seed=place) + (1.0 if parameter.ndim == 1 else 0.0)
    return module


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
def test_the_bias_is_the_tables_row_of_the_offset(height, width, heads):
    table = random((2 * height - 1) * (2 * width - 1), heads).requires_grad_()
    bias = grid_bias(table, height, width)
    assert bias.shape == (heads, height * width, height * width)
    uses = torch.zeros(len(table))
    for query in range(height * width):
        for key in range(height * width):
            y, x = query // width - key // width, query % width - key % width
            row = (2 * width - 1) * (y + height - 1) + x + width - 1
            assert torch.equal(bias[:, query, key], table[row])
            uses[row] += 1
    bias.sum().backward()
    assert torch.equal(table.grad, uses[:, None].expand(-1, heads).double())


@settings(max_examples=60, deadline=None)
@given(old=st.tuples(st.integers(1, 6), st.integers(1, 6)), new=st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_a_table_for_another_map_is_interpolated_between_offsets(old, new):
    """Number by number: an offset of the new map stands at its share of the old one's reach, between its neighbours
    there; outside, the edge goes on. Worst of 500 pairs of maps: 2.0e-6."""
    rows, columns = (2 * side - 1 for side in old)
    table = torch.randn(rows * columns, 2)
    found = resized_offsets(table, old, new).view(2 * new[0] - 1, 2 * new[1] - 1, 2)

    def neighbours(offset: int, before: int, after: int) -> list[tuple[int, float]]:
        at = offset * (2 * before - 1) / (2 * after - 1) + before - 1
        low = math.floor(at)
        return [(min(max(low + more, 0), 2 * before - 2), abs(1 - more - (at - low))) for more in (0, 1)]

    for y in range(1 - new[0], new[0]):
        for x in range(1 - new[1], new[1]):
            wanted = torch.zeros(2)
            for row, share in neighbours(y, old[0], new[0]):
                for column, part in neighbours(x, old[1], new[1]):
                    wanted += share * part * table[row * columns + column]
            torch.testing.assert_close(found[y + new[0] - 1, x + new[1] - 1], wanted, atol=1e-5, rtol=0)


def test_tables_of_offsets_keep_their_middle_and_format_and_refuse_other_maps():
    table = torch.randn(5 * 7, 3)
    assert torch.equal(resized_offsets(table, (3, 4), (3, 4)), table)
    wide = resized_offsets(table, (3, 4), (5, 9))
    assert torch.equal(wide.view(9, 17, 3)[4, 8], table.view(5, 7, 3)[2, 3])
    assert resized_offsets(table.bfloat16(), (3, 4), (2, 2)).dtype == torch.bfloat16
    with pytest.raises(SpecError, match=r"a table of 35 offsets does not fit a map of 4x4 places, which has 49"):
        resized_offsets(table, (4, 4), (5, 5))


def test_attention_is_the_formula():
    """Scores of two places of a 2 x 3 map, by single numbers; worst case 2e-15."""
    made = filled(GridAttention(5, 8, 4, (2, 3)))
    x = random(1, 2, 3, 5)
    q, k, v = F.linear(x, made.qkv.weight, made.qkv.bias).reshape(6, 3, 2, 4).unbind(1)
    rows = []
    for i in range(6):
        heads = []
        for n in range(2):
            scores = []
            for j in range(6):
                offset = 5 * (i // 3 - j // 3 + 1) + i % 3 - j % 3 + 2
                scores.append(q[i, n] @ k[j, n] / math.sqrt(4) + made.position.weight[offset, n])
            heads.append(torch.stack(scores).softmax(0) @ v[:, n])
        rows.append(torch.cat(heads))
    wanted = F.linear(torch.stack(rows), made.out.weight, made.out.bias)
    assert torch.allclose(made(x)[0].flatten(0, 1), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("channels", "halve"), [(8, False), (8, True), (5, True), (5, False)])
def test_the_block_is_two_branches_on_a_pooled_residual(channels, halve):
    made = filled(GridTransformerBlock(GridTransformer(head_dim=4), channels, 8, (2, 3), halve, 0.0))
    x = random(2, channels, 4 if halve else 2, 6 if halve else 3)

    def norm(layer, h):
        return F.layer_norm(h.movedim(1, -1), (h.shape[1],), layer.weight, layer.bias, 1e-6)

    def halved(h_BHWC):
        if not halve:
            return h_BHWC
        return torch.stack([h_BHWC[:, a::2, b::2] for a in (0, 1) for b in (0, 1)]).amax(0)

    rest = halved(x.movedim(1, -1))
    assert (made.shortcut is None) == (channels == 8)
    rest = rest if made.shortcut is None else rest @ made.shortcut.weight.T + made.shortcut.bias
    first = rest + made.mixer(halved(norm(made.mixer_norm, x)))
    hidden = F.gelu(
        norm(made.feedforward_norm, first.movedim(-1, 1)) @ made.feedforward.up.weight.T + made.feedforward.up.bias
    )
    wanted = first + hidden @ made.feedforward.down.weight.T + made.feedforward.down.bias
    assert torch.allclose(made(x), wanted.movedim(-1, 1), rtol=0, atol=1e-12)


def test_stochastic_depth_drops_whole_rows_and_keeps_the_mean():
    """Of 4,000 rows at rate 0.3, the kept share is within 4 standard deviations."""
    drop, x = DropPath(0.3), torch.ones(4000, 2, 3)
    torch.manual_seed(0)
    out = drop(x)
    assert torch.equal(out, out[:, :1, :1].expand(-1, 2, 3))
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert float((out > 0).float().mean()) == pytest.approx(0.7, abs=4 * math.sqrt(0.21 / 4000))
    assert torch.equal(drop.eval()(x), x)
    assert torch.equal(DropPath(0.0)(x), x)
