"""The captions nearest to a picture, counted by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from corestone.evaluate import nearest_captions
from corestone.evaluate.nearest_captions import DistinctCaptions

TEXTS = ["red", "blue", "red", "green", "sky"]
OWNER = torch.tensor([0, 1, 2, 2, 1])
"""Pictures 0 and 2 are both red."""


def unit(*degrees: float) -> torch.Tensor:
    """Unit vectors (N, 2) at these angles, float32."""
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack((angles.cos(), angles.sin()), dim=1)


@pytest.fixture
def captions() -> DistinctCaptions:
    return DistinctCaptions(unit(0, 90, 0, 180, 270), TEXTS, OWNER)


def test_a_caption_that_several_have_counts_once(captions: DistinctCaptions) -> None:
    assert captions.said == ["red", "blue", "green", "sky"]
    assert captions.own([0, 1, 2]).tolist() == [[1, 0, 0, 0], [0, 1, 0, 1], [1, 0, 1, 0]]


def test_the_nearest_are_sorted_and_the_own_ones_marked(captions: DistinctCaptions) -> None:
    images = unit(10, 30, 100)
    first, second, third = captions.nearest(images, [0, 1, 2])
    assert [(text, own) for text, _, own in first.nearest] == [("red", True), ("blue", False), ("sky", False)]
    assert first.before == 0
    assert second.own[0] == "blue"
    assert second.own[1] == pytest.approx(0.5, abs=1e-6)  # the cosine of 60 degrees; worst seen 6e-8
    assert second.before == 1
    assert [(text, own) for text, _, own in third.nearest][:2] == [("blue", False), ("green", True)]
    assert third.own[0] == "green"
    assert len(captions.nearest(images, [1], most=9)[0].nearest) == 4


def test_mistakes_are_sorted_by_how_much_nearer_the_others_are(captions: DistinctCaptions) -> None:
    assert captions.mistaken(unit(10, 30, 100)) == [2, 1]  # 0.985 - 0.174 of blue, 0.866 - 0.5 of red
    assert captions.mistaken(unit(10, 80, 170)) == []


def test_a_model_that_says_the_same_of_everything_is_mistaken_everywhere() -> None:
    same = DistinctCaptions(unit(0, 0, 0, 0, 0), TEXTS, OWNER)
    assert same.mistaken(unit(0, 0, 0)) == [0, 1, 2]
    assert same.nearest(unit(0, 0, 0), [1])[0].before == 2


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts = (F.normalize(torch.randn(n, 8), dim=1) for n in (40, 60))
    owner = torch.arange(60) % 40
    captions = DistinctCaptions(texts, [f"text {number % 50}" for number in range(60)], owner)
    whole = captions.mistaken(images)
    assert len(whole) > 20
    monkeypatch.setattr(nearest_captions, "CHUNK", 7 * 50)
    assert captions.mistaken(images) == whole
