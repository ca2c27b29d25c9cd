"""Which documents a step saw, and which steps saw a document: computed, never logged.

Both answers follow from the order of draws (`corestone.data.mixture`), one forwards and one through its inverse.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from corestone.core.errors import DataError, nearest
from corestone.data.packing import Tokens, draw_order, sample_count
from corestone.data.spec import Data


@dataclass(frozen=True)
class Seen:
    """Part of a document in a step: the tokens [start, stop) of its component's stream, taken as inputs."""

    document: str
    component: int
    start: int
    stop: int


def documents_of_step(token_sets: Sequence[Tokens], spec: Data, seed: int, batch_size: int, step: int) -> list[Seen]:
    """What a step (counted from 0) sees over all ranks, row by row and left to right within a row."""
    T = spec.context_length
    draws = np.arange(step * batch_size, (step + 1) * batch_size)
    components, indices = draw_order(token_sets, spec, seed).samples(draws)
    seen = []
    for component, index in zip(components.tolist(), indices.tolist(), strict=True):
        token_set, start, stop = token_sets[component], index * T, index * T + T
        first = int(np.searchsorted(token_set.starts, start, side="right")) - 1
        last = int(np.searchsorted(token_set.starts, stop, side="left")) - 1
        for number in range(first, last + 1):
            begin, end = int(token_set.starts[number]), int(token_set.starts[number + 1])
            seen.append(Seen(token_set.document_id(number), component, max(begin, start), min(end, stop)))
    return seen


def steps_of_document(
    token_sets: Sequence[Tokens], spec: Data, seed: int, batch_size: int, document_id: str, until_step: int
) -> list[int]:
    """The steps before `until_step` (counted from 0) that see any token of a document, ascending.

    The cost follows the number of epochs and the length of the document, not the number of steps. A document that
    lies wholly in the tail of a stream that fills no sample is never seen.

    Raises:
        DataError: no set holds a document of this id; the nearest id is named.
    """
    T = spec.context_length
    mixture = draw_order(token_sets, spec, seed)
    steps: set[int] = set()
    known = False
    for component, token_set in enumerate(token_sets):
        samples = sample_count(token_set, T)
        for number in range(token_set.n_documents):
            if token_set.document_id(number) != document_id:
                continue
            known = True
            begin, end = int(token_set.starts[number]), int(token_set.starts[number + 1])
            indices = np.arange(begin // T, min((end - 1) // T + 1, samples))
            draws = mixture.draws(component, indices, until_step * batch_size)
            steps.update((draws // batch_size).tolist())
    if not known:
        raise DataError(_unknown_document(token_sets, document_id))
    return sorted(steps)


def _unknown_document(token_sets: Sequence[Tokens], document_id: str) -> str:
    known = {token_set.document_id(i) for token_set in token_sets for i in range(token_set.n_documents)}
    wanted = _trigrams(document_id)
    # Comparing with every id of a large set would take minutes; those that share most letter triples will do.
    close = heapq.nlargest(200, sorted(known), key=lambda name: len(wanted & _trigrams(name)))
    guess = nearest(document_id, close)
    hint = f"did you mean '{guess}'? " if guess else ""
    return f"unknown document '{document_id}': {hint}the training sets hold {len(known):,} documents"


def _trigrams(text: str) -> set[str]:
    return {text[i : i + 3] for i in range(max(1, len(text) - 2))}
