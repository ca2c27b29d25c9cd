"""Mixing two pictures of a batch, row by row.

The partner of row r of the *global* batch is row r ^ 1 (rows 0 and 1, rows 2 and 3, ...), as augmented and before it is
mixed itself; share and rectangle are drawn from the numbers of row r. So a mixed row is a function of the step and its
own number, and any split of a step over ranks or micro-batches gives the same rows: a rank whose run of rows begins or
ends inside a pair makes the missing partner too. The two rows of a pair are mixed by draws of their own.

Shape letters: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from corestone.core.batch import ImageBatch
from corestone.core.rng import Draws
from corestone.data.images.augment_spec import CutMix, Mix, Mixup

Rectangle = tuple[int, int, int, int]
"""First row and column of pixels, and the row and column behind the last."""


def partner(row: int) -> int:
    """The row of the global batch that a row is mixed with."""
    return row ^ 1


def mixed(mixes: Sequence[Mix], own: ImageBatch, other: ImageBatch, draws: Sequence[Draws]) -> ImageBatch:
    """Mix each row of `own` with the same row of `other`, by one of `mixes`.

    Args:
        draws: those of each row.
    """
    own_BCHW, other_BCHW = own.images_BCHW, other.images_BCHW
    images_BCHW = torch.empty_like(own_BCHW)
    shares = []
    for row, numbers in enumerate(draws):
        mix = mixes[int(_number(numbers) * len(mixes))]
        pair = (own_BCHW[row], other_BCHW[row])
        share = beta(mix.alpha, numbers)
        if isinstance(mix, Mixup):
            torch.lerp(pair[1], pair[0], share, out=images_BCHW[row])
        else:
            share = _cut(mix, *pair, share=share, draws=numbers, out=images_BCHW[row])
        shares.append(share)
    if own.targets_BK is None or other.targets_BK is None:
        return ImageBatch(images_BCHW)
    share_B1 = torch.tensor(shares)[:, None]
    return ImageBatch(images_BCHW, share_B1 * own.targets_BK + (1 - share_B1) * other.targets_BK)


def beta(alpha: float, draws: Draws) -> float:
    """A number of Beta(alpha, alpha), alpha at most 1, by Jöhnk's rejection (1964)."""
    while True:
        first, second = (number ** (1 / alpha) for number in draws.uniform(2)[0].tolist())
        if 0 < first + second <= 1:
            return float(first / (first + second))


def rectangle(share: float, height: int, width: int, down: float, right: float) -> Rectangle:
    """The rectangle whose middle lies at these parts of the height and width and which leaves `share` of the area,
    cut off at the edges."""
    y, x = int(down * height), int(right * width)
    half = 0.5 * math.sqrt(1 - share)
    h, w = int(half * height), int(half * width)
    return max(0, y - h), max(0, x - w), min(height, y + h), min(width, x + w)


def _cut(spec: CutMix, own: Tensor, other: Tensor, *, share: float, draws: Draws, out: Tensor) -> float:
    """Write the picture with its rectangle of the other to `out`; returns the share of the area that it keeps."""
    height, width = own.shape[-2:]
    top, left, bottom, right = rectangle(share, height, width, _number(draws), _number(draws))
    out.copy_(own)
    out[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    return 1 - (bottom - top) * (right - left) / (height * width)


def _number(draws: Draws) -> float:
    return float(draws.uniform(1))
