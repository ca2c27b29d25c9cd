"""Rules for the optimiser of a two-tower model whose image tower was trained before."""

from __future__ import annotations

from corestone.optim.spec import Rule


def locked_image(weight_decay: float) -> tuple[Rule, ...]:
    """The image tower frozen, and the rest trained, its matrices and tables decaying."""
    rest = ("image_projection.*", "text_tower.*", "similarity.*")
    return Rule(match=("image_tower.*",), frozen=True), Rule(match=rest, weight_decay=weight_decay, decay_vectors=False)
