"""How fast this machine multiplies matrices: what utilisation is measured against."""

from __future__ import annotations

import time

import torch


def gemm_peak(dtype: torch.dtype, device: torch.device, seconds: float = 0.4) -> float:
    """Best observed FLOP/s of square-ish products of a transformer's shapes, in about `seconds` per shape.

    The best of repeats is taken, not the median: the peak is what the machine can do when nothing disturbs it.
    """
    shapes = [(2048, 768, 3072), (2048, 3072, 768)] if device.type == "cpu" else [(8192, 8192, 8192)]
    best = 0.0
    for rows, inner, columns in shapes:
        a = torch.randn(rows, inner, device=device).to(dtype)
        b = torch.randn(inner, columns, device=device).to(dtype)
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            start = time.perf_counter()
            for _ in range(4):
                torch.mm(a, b)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = max(best, 4 * 2.0 * rows * inner * columns / (time.perf_counter() - start))
    return best
