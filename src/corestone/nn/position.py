"""Positions inside attention: rotary angles and linear biases.

Shape letters: B batch, T queries, S keys, N heads, H head dim, R half the rotated values of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from corestone.nn.norm import at_least_float32
from corestone.nn.spec import Rotary


def rotary_angles(spec: Rotary, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (B, 1, T, R), float32, of the angles `position * base^(-2r/dims)` (Su et al. 2021, eq. 15)."""
    exponents_R = torch.arange(0, spec.dims, 2, dtype=torch.float32, device=positions_BT.device) / spec.dims
    angles_BTR = positions_BT[:, :, None].float() * spec.base**-exponents_R
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
    q_T = torch.arange(sources - tokens, sources, device=device)
    distance_TS = torch.arange(sources, device=device)[None, :] - q_T[:, None]
    slopes_N = torch.tensor(alibi_slopes(num_heads), device=device)
    return (slopes_N[:, None, None] * distance_TS.clamp(max=0)).to(dtype)
