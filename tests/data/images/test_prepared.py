"""A prepared set: what is in it, that it is made once, and what damage to it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corestone.data.images.prepared import open_pictures, prepare_images
from corestone.data.images.spec import EmbeddedImages


@pytest.fixture(scope="module")
def mnist5k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_images(EmbeddedImages(name="mnist5k"), tmp_path_factory.mktemp("cache"))


def test_sides_of_mnist5k(mnist5k: Path) -> None:
    sides = {split: open_pictures(mnist5k, split, verify=True) for split in ("train", "validation", "test")}
    assert {split: len(side) for split, side in sides.items()} == {"train": 3953, "validation": 529, "test": 518}
    assert sides["train"].classes == tuple("0123456789")
    assert sides["train"].pixels(0).shape == (28, 28, 1)
    assert np.sum([np.bincount(side.labels) for side in sides.values()], axis=0).tolist() == [500] * 10
