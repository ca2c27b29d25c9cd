"""Numbers for people to read. Imports nothing, so that the command line may."""

from __future__ import annotations


def si(value: float, unit: str = "", digits: int = 3) -> str:
    """Format a number with an SI prefix: `si(124e6)` gives `124 M`, `si(4.3e11, "FLOP/s")` gives `430 GFLOP/s`."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{value / factor:.{digits}g} {prefix}{unit}".rstrip()
    return f"{value:.{digits}g} {unit}".rstrip()


def clock(seconds: float) -> str:
    """Format a time span: `4:07` or `1:02:33`."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"
