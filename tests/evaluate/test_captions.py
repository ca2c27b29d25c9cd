"""Captions word by word: figures by hand, and the floor that copies the nearest picture's caption."""

from __future__ import annotations

import pytest
import torch

from corestone.evaluate.captions import caption_metrics, word_f1
from corestone.evaluate.picture_floors import nearest_caption_floors


@pytest.mark.parametrize(
    ("written", "own", "wanted"),
    [
        ("red heart", "red heart", 1.0),
        ("heart RED", "red heart!", 1.0),
        ("red red heart", "red heart", 0.8),  # two in common, of three and two
        ("red", "red heart", 2 / 3),
        ("dog", "red heart", 0.0),
        ("", "red heart", 0.0),
        ("#", "*", 1.0),
        ("flag: Åland Islands", "flag Åland", 0.8),
    ],
)
def test_word_f1_by_hand(written, own, wanted):
    assert word_f1(written, own) == pytest.approx(wanted)
    assert word_f1(own, written) == pytest.approx(wanted)


def test_the_nearest_of_several_own_captions_counts():
    written = ["a dog", "Two  cats", "bird"]
    own = [("one dog", "a dog"), ("two cats",), ("a blue fish", "blue bird")]
    exact, f1 = caption_metrics(written, own, "greedy")
    assert (exact.name, exact.value, exact.n) == ("exact_name_rate", pytest.approx(2 / 3), 3)
    assert (f1.name, f1.value, f1.unit) == ("token_f1", pytest.approx((1 + 1 + 2 / 3) / 3), "F1")
    assert exact.interval[0] < exact.value < exact.interval[1]
    assert "greedy" in exact.convention
    assert "greedy" in f1.convention
    *_, of_many = caption_metrics(written * 20, own * 20)
    assert of_many.value == pytest.approx(f1.value)
    assert of_many.interval[0] < f1.value < of_many.interval[1]


def test_the_floor_copies_the_caption_of_the_nearest_training_picture():
    """Three patterns; the asked ones are the second and the third in another light."""
    known = torch.rand(3, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    asked = 0.8 * known[1:] + 0.1
    captions = [("black",), ("light grey", "other"), ("white",)]
    floors = nearest_caption_floors((known, captions), (asked, [("dark grey",), ("snow", "white")]), writes=True)
    found = {metric.name: metric.value for metric in floors}
    assert found == {
        "nearest_picture_has_the_caption": 0.5,
        "nearest_picture_token_f1": 0.75,
        "recall_at_1_by_chance": 0.5,
    }
    finding = nearest_caption_floors((known, captions), (asked, [("dark grey",), ("snow", "white")]))
    assert "nearest_picture_token_f1" not in {metric.name for metric in finding}
