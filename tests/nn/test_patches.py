"""Pictures as tokens, and positions at another resolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from corestone.core.errors import SpecError
from corestone.core.spec import parse
from corestone.nn.patches import PatchEmbeddingLayer, patches_of, resized_positions
from corestone.nn.spec import Norm, PatchEmbedding

SIDES = st.integers(1, 6)


@settings(deadline=None, max_examples=40)
@given(rows=SIDES, columns=SIDES, size=st.integers(1, 5), channels=st.integers(1, 4), over=st.tuples(SIDES, SIDES))
def test_the_map_of_a_patch_is_a_convolution_whose_stride_is_its_size(rows, columns, size, channels, over):
    """Pixels left over change nothing. Worst of 500 random shapes: 1.6e-15, in float64."""
    height, width = rows * size + over[0] % size, columns * size + over[1] % size
    embedding = PatchEmbedding(
        image_size=(height, width), channels=channels, patch_size=size, class_token=False, position=None
    )
    assert embedding.grid == (rows, columns)
    layer = PatchEmbeddingLayer(embedding, 7).double()
    images = torch.randn(2, channels, height, width, dtype=torch.float64)
    kernel = layer.patch.weight.view(7, channels, size, size)
    expected = F.conv2d(images, kernel, layer.patch.bias, stride=size).flatten(2).transpose(1, 2)
    torch.testing.assert_close(layer(images), expected, atol=1e-12, rtol=0)


def test_patches_stand_row_by_row_and_hold_channels_rows_and_columns():
    images = torch.arange(2 * 3 * 5 * 7).view(2, 3, 5, 7)
    patches = patches_of(images, 2)
    assert patches.shape == (2, 2 * 3, 3 * 2 * 2)
    for row in range(2):
        for column in range(3):
            square = images[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(patches[:, 3 * row + column], square.flatten(1))


def test_the_class_token_stands_first_and_has_the_first_position():
    layer = PatchEmbeddingLayer(PatchEmbedding(image_size=(4, 6), channels=1, patch_size=2), 5)
    images = torch.randn(3, 1, 4, 6)
    tokens = layer(images)
    assert tokens.shape == (3, 7, 5)
    assert torch.equal(tokens[:, 0], (layer.class_token.weight + layer.position.weight[:1]).expand(3, -1))
    torch.testing.assert_close(tokens[:, 1:], layer.patch(patches_of(images, 2)) + layer.position.weight[1:])


def test_a_norm_stands_behind_the_positions():
    spec = PatchEmbedding(image_size=(4, 6), channels=1, patch_size=2)
    torch.manual_seed(0)
    plain = PatchEmbeddingLayer(spec, 5)
    normed = PatchEmbeddingLayer(spec.model_copy(update={"norm": Norm(eps=0.1)}), 5)
    normed.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.constant_(normed.norm.bias, 0.5)
    images = torch.randn(3, 1, 4, 6)
    torch.testing.assert_close(normed(images), F.layer_norm(plain(images), (5,), eps=0.1) + 0.5)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 1, 8, 12), (1, 3, 12, 8)])
def test_pictures_of_another_shape_are_refused(shape):
    layer = PatchEmbeddingLayer(PatchEmbedding(image_size=(8, 12), patch_size=4), 5)
    with pytest.raises(SpecError, match=r"reach a model for 3x8x12 .* set model.embedding.image_size"):
        layer(torch.zeros(shape))


def test_a_picture_smaller_than_a_patch_is_refused():
    with pytest.raises(SpecError, match="image_size=16x8 has no room for a patch of patch_size=14"):
        parse(PatchEmbedding, {"image_size": [16, 8], "patch_size": 14}, "model.embedding")


GRIDS = st.tuples(st.integers(1, 6), st.integers(1, 6))


@settings(deadline=None, max_examples=40)
@given(grid=GRIDS, class_token=st.booleans())
def test_positions_of_the_same_grid_stay_bit_for_bit(grid, class_token):
    table = torch.randn(grid[0] * grid[1] + class_token, 5)
    same = resized_positions(table, grid, grid, class_token)
    assert torch.equal(same, table)
    assert same.data_ptr() != table.data_ptr()


@settings(deadline=None, max_examples=60)
@given(old=GRIDS, new=GRIDS, class_token=st.booleans())
def test_positions_are_interpolated_as_the_channels_of_a_picture(old, new, class_token):
    table = torch.randn(old[0] * old[1] + class_token, 3)
    found = resized_positions(table, old, new, class_token)
    first = int(class_token)
    assert torch.equal(found[:first], table[:first])
    for channel in range(3):
        picture = table[first:, channel].view(1, 1, *old)
        expected = picture if old == new else F.interpolate(picture, new, mode="bicubic", align_corners=False)
        torch.testing.assert_close(found[first:, channel].view(new), expected[0, 0], atol=1e-6, rtol=0)


def _cubic(x: float) -> float:
    """Keys's kernel, a = -3/4 (Keys 1981)."""
    a, x = -0.75, abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def _weights(old: int, new: int) -> torch.Tensor:
    """The matrix that interpolates a row of `old` values at `new` places; what lies outside is the edge again."""
    matrix = torch.zeros(new, old, dtype=torch.float64)
    for place in range(new):
        at = (place + 0.5) * old / new - 0.5
        for key in range(int(at // 1) - 1, int(at // 1) + 3):
            matrix[place, min(max(key, 0), old - 1)] += _cubic(at - key)
    return matrix


@pytest.mark.parametrize(("old", "new"), [((4, 4), (7, 7)), ((3, 5), (5, 4)), ((6, 2), (3, 9)), ((1, 4), (2, 2))])
def test_interpolation_by_hand(old, new):
    """Rows and columns apart, by the kernel's formula. Worst of 200 random tables: 2.4e-6."""
    table = torch.randn(old[0] * old[1] + 1, 6)
    expected = torch.einsum(
        "ah,bw,hwd->abd", _weights(old[0], new[0]), _weights(old[1], new[1]), table[1:].view(*old, 6).double()
    )
    found = resized_positions(table, old, new, class_token=True)
    torch.testing.assert_close(found[1:].view(*new, 6).double(), expected, atol=1e-5, rtol=0)


def test_positions_keep_their_format_and_a_wrong_grid_is_refused():
    table = torch.randn(10, 4)
    low = resized_positions(table.bfloat16(), (3, 3), (6, 5), class_token=True)
    full = resized_positions(table.bfloat16().float(), (3, 3), (6, 5), class_token=True)
    assert torch.equal(low, full.bfloat16())
    with pytest.raises(SpecError, match="a table of 10 positions does not fit 3x3 patches, which have 9"):
        resized_positions(table, (3, 3), (6, 6), class_token=False)
