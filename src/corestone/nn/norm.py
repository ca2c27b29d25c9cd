"""Normalisation."""

from __future__ import annotations

from torch import nn

from corestone.nn.spec import Norm


def build_norm(spec: Norm, width: int) -> nn.Module:
    """The layer that a Norm record describes, over the last axis."""
    return nn.LayerNorm(width, eps=spec.eps)
