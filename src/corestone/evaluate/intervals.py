"""95 % intervals: of a ratio of sums over text by the block bootstrap, of proportions, and of other statistics.

Losses of neighbouring tokens depend on each other, so single tokens must not be resampled: whole blocks are
(Künsch 1989, "The jackknife and the bootstrap for general stationary observations"; here with blocks that do not
overlap). The interval says how far the number would move with other held-out text of the same kind. It says nothing
about other training seeds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FEWEST = 30  # a percentile bootstrap over fewer units is noticeably too narrow
MOST = 1000  # more blocks than this only cost time: neighbours are merged
REFUSED = 8  # under this many blocks no interval is given
RESAMPLES = 2000


def block_starts(lengths: NDArray[np.int64], least: int) -> NDArray[np.int64]:
    """Cut a stream of documents into the blocks that are resampled.

    A block is a run of whole documents of at least `least` units together, so that differences between documents are
    part of the interval. Where that gives fewer than 30 blocks (few, long documents) the stream is cut into equal
    pieces instead, whatever the documents: of `least` units, or shorter, down to an eighth of it, where even those
    would be fewer than 30. The interval then holds for text like these few documents, not for documents at large.

    Args:
        lengths: units (tokens or symbols) of each document, in stream order.
        least: units that a block holds at least.

    Returns:
        Offset of each block's first unit, ascending from 0, at most about 1,000 of them.
    """
    total = int(lengths.sum())
    wanted = max(least, -(-total // MOST))
    ends = np.cumsum(lengths)
    starts, begin = [], 0
    while total - begin >= wanted:
        starts.append(begin)
        begin = int(ends[np.searchsorted(ends, begin + wanted)])
    if len(starts) >= FEWEST:
        return np.array(starts, dtype=np.int64)  # a short rest belongs to the last block
    size = min(wanted, max(least // 8, total // FEWEST, 1))
    pieces = max(1, total // size)
    return np.arange(pieces, dtype=np.int64) * total // pieces


def add_to_blocks(
    sums: NDArray[np.float64], starts: NDArray[np.int64], begin: int, values: NDArray[np.floating]
) -> None:
    """Add values that stand at `begin, begin + 1, ...` of the stream to the sums of their blocks, in place."""
    block = np.searchsorted(starts, np.arange(begin, begin + len(values)), side="right") - 1
    sums += np.bincount(block, weights=values, minlength=len(starts))


def ratio_interval(
    totals: NDArray[np.float64], weights: NDArray[np.float64], seed: int = 0
) -> tuple[float, float] | None:
    """The 95 % interval of `sum(totals) / sum(weights)`: the percentiles over 2,000 resamples of the blocks.

    Args:
        totals: numerator of each block.
        weights: denominator of each block.
        seed: of the resampling; equal input gives an equal interval.

    Returns:
        Low and high end, or None where there are fewer than 8 blocks or a number is not finite.
    """
    n = len(totals)
    if n < REFUSED or not (np.isfinite(totals).all() and np.isfinite(weights).all()):
        return None
    picks = np.random.Generator(np.random.PCG64(seed)).integers(0, n, size=(RESAMPLES, n), dtype=np.int32)
    ratios = totals[picks].sum(axis=1) / weights[picks].sum(axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], float], n: int, value: float, seed: int = 0
) -> tuple[float, float] | None:
    """The 95 % interval of a statistic of n independent units by the reflected bootstrap: `2 value - percentile`
    (Davison and Hinkley 1997, equation 5.6), which undoes the bias that sums of absolute differences have; stretched to
    hold the value itself.

    Args:
        statistic: of the units with these numbers, drawn with repetition.
        value: the statistic of all units.

    Returns:
        Low and high end, or None where there are fewer than 8 units.
    """
    if n < REFUSED:
        return None
    draw = np.random.Generator(np.random.PCG64(seed))
    found = [statistic(draw.integers(0, n, size=n)) for _ in range(RESAMPLES)]
    low, high = np.quantile(found, (0.025, 0.975))
    return min(value, 2 * value - float(high)), max(value, 2 * value - float(low))


def proportion_interval(hits: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion of independent trials (Wilson 1927); sound near 0 and 1 too."""
    z2 = 1.959964**2
    centre, half = (hits + z2 / 2) / (n + z2), (z2 * (hits * (n - hits) / n + z2 / 4)) ** 0.5 / (n + z2)
    return max(0.0, centre - half), min(1.0, centre + half)
