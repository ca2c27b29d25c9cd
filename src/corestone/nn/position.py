"""Positions inside attention: rotary angles, linear biases, buckets of distances, offsets on a map.

Shape letters: B batch, T queries, S keys, N heads, H head dim, R half the rotated values of a head, U buckets or
offsets, Y X their rows and columns.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from corestone.core.errors import SpecError
from corestone.nn.norm import at_least_float32
from corestone.nn.spec import Buckets, Rotary


def rotary_angles(dims: int, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (B, 1, T, R), float32, of `position * 10000^(-2r/dims)` (Su et al. 2021, equation 15)."""
    exponents_R = torch.arange(0, dims, 2, dtype=torch.float32, device=positions_BT.device) / dims
    angles_BTR = positions_BT[:, :, None].float() * 10_000.0**-exponents_R
    return angles_BTR.cos()[:, None], angles_BTR.sin()[:, None]


def rotate(spec: Rotary, x_BNTH: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair of the first `dims` values of a head by its angle, in float32; the rest passes."""
    cos, sin = angles
    turned, rest = at_least_float32(x_BNTH[..., : spec.dims]), x_BNTH[..., spec.dims :]
    if spec.interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
        pairs = (first * cos - second * sin, second * cos + first * sin)
        out = torch.stack(pairs, dim=-1).flatten(-2)
    else:
        first, second = turned.chunk(2, dim=-1)
        out = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    out = out.to(x_BNTH.dtype)
    return out if rest.shape[-1] == 0 else torch.cat((out, rest), dim=-1)


def alibi_slopes(num_heads: int) -> list[float]:
    """One slope per head: 2^(-8i/n) for n heads, a power of two; otherwise those of the power of two below, then every
    second one of the power of two above (Press et al. 2022, section 3, and their code)."""
    below = 2 ** (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (i + 1) / below) for i in range(below)]
    between = [2.0 ** (-4.0 * (i + 1) / below) for i in range(0, 2 * (num_heads - below), 2)]
    return slopes + between


def alibi_bias(num_heads: int, tokens: int, sources: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`-slope * distance` (N, T, S) of the last `tokens` queries of `sources` keys.

    Distances are counted along the row: within a document that is the distance of positions, and other documents are
    masked.
    """
    slopes_N = torch.tensor(alibi_slopes(num_heads), device=device)
    return (slopes_N[:, None, None] * _distances(tokens, sources, device).clamp(max=0)).to(dtype)


def bucket_of(spec: Buckets, distance: Tensor, causal: bool) -> Tensor:
    """The bucket of each distance `key - query` (Raffel et al. 2020, section 2.1, and their code).

    Seen causally, later keys share the bucket of distance 0; else they have the upper half of the buckets.
    """
    num = spec.num if causal else spec.num // 2
    upper = torch.zeros_like(distance) if causal else (distance > 0) * num
    steps = (-distance).clamp(min=0) if causal else distance.abs()
    exact = num // 2
    share = torch.log(steps.clamp(min=1).float() / exact) / math.log(spec.max_distance / exact)
    wide = (exact + (share * (num - exact)).long()).clamp(max=num - 1)
    return upper + torch.where(steps < exact, steps, wide)


def bucket_bias(spec: Buckets, table_UN: Tensor, tokens: int, sources: int, causal: bool) -> Tensor:
    """The learned bias (N, T, S) of the last `tokens` queries of `sources` keys; U buckets."""
    buckets_TS = bucket_of(spec, _distances(tokens, sources, table_UN.device), causal)
    return table_UN[buckets_TS].permute(2, 0, 1).contiguous()  # every layer adds it to its scores


def grid_bias(table_UN: Tensor, height: int, width: int) -> Tensor:
    """The learned bias (N, T, S) between the places of a map, which are counted row by row (Dai et al. 2021, section
    2.1). For a key `y` above the query and `x` to its left it is the table's row
    `(2 width - 1) (y + height - 1) + x + width - 1`."""
    table_NYX = table_UN.T.unflatten(1, (2 * height - 1, 2 * width - 1))
    windows = table_NYX.unfold(1, height, 1).unfold(2, width, 1)  # of each query, the offsets of its keys from the last
    bias_NTS: Tensor = windows.flip(3, 4).flatten(3, 4).flatten(1, 2)
    return bias_NTS


def resized_offsets(table_UN: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """The table of `grid_bias` for a map of another height and width, interpolated bilinearly between its offsets (Dai
    et al. 2021, appendix A). The middle of the table, the place itself, stays the middle.

    Args:
        table_UN: one row per offset, as `grid_bias` counts them.
        old: height and width of the map that the table is of.
        new: those that are wanted.

    Returns:
        (U, N) in the table's format; the arithmetic is float32.

    Raises:
        SpecError: the table has another number of rows than the old map has offsets.
    """
    rows, columns = 2 * old[0] - 1, 2 * old[1] - 1
    if len(table_UN) != rows * columns:
        raise SpecError(
            f"a table of {len(table_UN)} offsets does not fit a map of {old[0]}x{old[1]} places, which has "
            f"{rows * columns}; give the size it was trained with"
        )
    if old == new:
        return table_UN.clone()
    table_1NYX = table_UN.float().T.reshape(1, -1, rows, columns)
    size = (2 * new[0] - 1, 2 * new[1] - 1)
    resized_1NYX = F.interpolate(table_1NYX, size=size, mode="bilinear", align_corners=False)
    return resized_1NYX[0].flatten(1).T.to(table_UN.dtype)


def _distances(tokens: int, sources: int, device: torch.device) -> Tensor:
    """`key - query` (T, S)."""
    q_T = torch.arange(sources - tokens, sources, device=device)
    return torch.arange(sources, device=device)[None, :] - q_T[:, None]
