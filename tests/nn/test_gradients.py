"""Gradients by direction: pixel by pixel with plain loops, and what they leave out."""

from __future__ import annotations

import math

import pytest
import torch

from corestone.core.errors import SpecError
from corestone.core.spec import parse
from corestone.nn.gradients import GradientMaps
from corestone.nn.spec import Gradients


def shares(pixel: int, cell: int, cells: int) -> list[float]:
    """How much a pixel counts in each cell of its row: less the farther its centre is, 0 one cell away."""
    near = [[max(0.0, 1 - abs((p + 0.5) / cell - (c + 0.5))) for c in range(cells)] for p in range(cell * cells)]
    return [near[pixel][c] / sum(row[c] for row in near) for c in range(cells)]


def plain_maps(image: torch.Tensor, spec: Gradients) -> torch.Tensor:
    """(C, H, W) to (G + C, H // cell, W // cell), one pixel after the other."""
    C, H, W = image.shape
    G, rows, columns = spec.directions, H // spec.cell, W // spec.cell
    votes, out = torch.zeros(G, rows, columns, dtype=torch.float64), torch.zeros(G + C, rows, columns)
    for y in range(rows * spec.cell):
        for x in range(columns * spec.cell):
            steps = [
                (
                    float(image[c, y, x + 1] - image[c, y, x - 1]) if 0 < x < W - 1 else 0.0,
                    float(image[c, y + 1, x] - image[c, y - 1, x]) if 0 < y < H - 1 else 0.0,
                )
                for c in range(C)
            ]
            across, down = max(steps, key=lambda step: math.hypot(*step))
            for row, by_row in enumerate(shares(y, spec.cell, rows)):
                for column, by_column in enumerate(shares(x, spec.cell, columns)):
                    share = by_row * by_column
                    out[G:, row, column] += share * image[:, y, x]
                    for g in range(G):
                        angle = math.atan2(down, across) - g * math.pi / G
                        votes[g, row, column] += (
                            share * math.hypot(across, down) * max(0.0, 2 * math.cos(2 * angle) - 1)
                        )
    near = range(-spec.around, spec.around + 1)
    for y in range(rows):
        for x in range(columns):
            squares = 0.0
            for dy in near:
                for dx in near:
                    row, column = min(max(y + dy, 0), rows - 1), min(max(x + dx, 0), columns - 1)
                    squares += float(votes[:, row, column].square().sum())
            contrast = math.sqrt(squares / len(near) ** 2) + spec.floor
            out[:G, y, x] = (votes[:, y, x] / contrast).sqrt()
    return out


@pytest.mark.parametrize(
    ("cell", "directions", "around", "size"), [(2, 9, 3, (12, 14)), (4, 4, 0, (9, 14)), (3, 6, 1, (10, 9))]
)
def test_maps_are_those_of_plain_loops(cell, directions, around, size):
    """Worst of the three: 4.8e-7 at values up to 1.1. Roots are compared by their squares, for near 0 a root magnifies
    rounding."""
    spec = Gradients(cell=cell, directions=directions, around=around)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    wanted = torch.stack([plain_maps(image, spec) for image in images])
    found = GradientMaps(spec)(images)
    for maps in (found, wanted):
        maps[:, :directions].square_()
    torch.testing.assert_close(found, wanted, atol=5e-6, rtol=0)


def test_an_edge_counts_for_its_direction_whatever_its_contrast_and_sign():
    """A border between left and right is direction 0; inverted it is the same, and at a quarter of the contrast it
    keeps more than four fifths (measured: 0.87)."""
    edge = torch.zeros(1, 3, 16, 16)
    edge[..., 8:] = 4.0
    maps, faint, inverted = (GradientMaps(Gradients())(picture)[0, :9] for picture in (edge, edge / 4, -edge))
    assert (maps.sum(dim=(1, 2)).argmax(), maps[4:6].abs().max()) == (0, 0)
    torch.testing.assert_close(inverted, maps)
    assert 0.8 < float(faint.sum() / maps.sum()) < 1
    flat = GradientMaps(Gradients())(torch.full((1, 3, 16, 16), 2.0))[0]
    assert (float(flat[:9].abs().max()), float(flat[9:].mean())) == (0.0, 2.0)


def test_bfloat16_pictures_are_seen_in_float32():
    images = torch.randn(2, 3, 8, 8).to(torch.bfloat16)
    assert torch.equal(GradientMaps(Gradients())(images), GradientMaps(Gradients())(images.float()))


def test_two_directions_are_refused():
    with pytest.raises(SpecError, match="directions"):
        parse(Gradients, {"directions": 2}, "gradients")
