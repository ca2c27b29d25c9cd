"""Learning rates that shrink layer by layer towards the input, for fine-tuning."""

from __future__ import annotations

from corestone.core.errors import SpecError
from corestone.optim.spec import Rule


def layerwise_rules(
    depth: int,
    decay: float,
    weight_decay: float,
    head: tuple[str, ...],
    stack: str = "stack.blocks",
    embedding: tuple[str, ...] = ("embedding.*",),
) -> tuple[Rule, ...]:
    """Rules for an optimiser: the head at the full rate, each layer below at `decay` times the rate of the one above.

    With `depth` layers, layer i (from 0) learns at decay^(depth - i) and the embedding at decay^(depth + 1) of the full
    rate (Bao et al. 2022, BEiT; before it Clark et al. 2020, ELECTRA). Gains and biases do not decay.

    Args:
        depth: number of layers.
        decay: 0.65 to 0.95 in the papers.
        weight_decay: of matrices and tables.
        head: patterns of what stands above the layers, a final norm included, such as `head.*`.
        stack: the name under which the layers have their numbers.
        embedding: patterns of what stands below them.

    Raises:
        SpecError: no layer, or a decay that is not above 0 and at most 1.
    """
    if depth < 1 or not 0 < decay <= 1:
        raise SpecError(
            f"layer-wise rates: need at least one layer and a decay above 0 and at most 1 (got {depth} and {decay})"
        )
    places = [embedding, *((f"{stack}.{layer}.*",) for layer in range(depth)), head]
    return tuple(
        Rule(match=patterns, weight_decay=weight_decay, decay_vectors=False, lr_scale=decay ** (depth + 1 - height))
        for height, patterns in enumerate(places)
    )
