"""Randomness without state: every random choice is a function of named numbers, so resuming needs no saved state."""

from __future__ import annotations

import hashlib


def fold(seed: int, *words: int | str) -> int:
    """Derive a 63-bit seed from a seed and any number of words (step, rank, purpose, parameter name)."""
    text = "\x1f".join([str(seed), *(str(word) for word in words)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
