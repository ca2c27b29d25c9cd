"""How long reading takes at the end of a run is told from its first batch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from corestone.core.batch import ImageBatch
from corestone.recipes import images
from corestone.recipes.images import read_at_the_end


def test_what_is_loaded_once_is_no_part_of_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch takes 50 s, of which 48 load libraries; four pictures are then read in 2 s."""
    clock = [0.0]

    def batches(side: str) -> Iterator[ImageBatch]:
        clock[0] += 2 if clock[0] else 50
        yield ImageBatch(torch.zeros(4, 1, 2, 2))

    monkeypatch.setattr(images.time, "perf_counter", lambda: clock[0])
    ending = read_at_the_end({"train": range(100), "validation": range(20)}, batches)
    assert (ending.units, ending.captions) == (20, 0)
    assert ending.seconds == pytest.approx(0.5 * (3 * 20 + 2 * 100))
