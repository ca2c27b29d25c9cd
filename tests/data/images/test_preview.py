"""The grid shows the rows of the first batch, as they were before the scale of the values changed."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_digits import Digits

from corestone.core.errors import DataError
from corestone.core.rng import Draws, fold
from corestone.data.images.augment import training_picture
from corestone.data.images.augment_spec import Augmentation, HorizontalFlip, Mixup, RandomAffine
from corestone.data.images.loader import ImageLoader
from corestone.data.images.preview import preview


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_the_first_batch(channels):
    pictures = Digits(30, 28, 24, channels)
    spec = Augmentation(
        size=(28, 24),
        channels=channels,
        steps=(RandomAffine(degrees=20, translate=0.2), HorizontalFlip()),
        mean=(0.3,) * channels,
        std=(0.2,) * channels,
    )
    grid = preview(pictures, spec, 4, rows=3, columns=5)
    assert grid.dtype == np.uint8
    assert grid.shape == (3 * 30 - 2, 5 * 26 - 2, channels)
    names = ImageLoader(pictures, spec, 4, 15).names(0)
    for place, name in enumerate(names):
        top, left = place // 5 * 30, place % 5 * 26
        draws = Draws(fold(4, "augment", 0), range(place, place + 1))
        expected = training_picture(spec, pictures.pixels(int(name.removeprefix("digit-"))), draws)
        assert np.array_equal(grid[top : top + 28, left : left + 24], expected.permute(1, 2, 0).numpy())
    assert (grid[28:30] == 255).all()
    assert (grid[:, 24:26] == 255).all()


def test_what_cannot_be_shown_is_refused():
    spec = Augmentation(size=(28, 28), channels=1, mix=(Mixup(),), mean=(0.5,), std=(0.5,))
    assert preview(Digits(3), spec, 0, rows=1, columns=2).shape == (28, 58, 1)
    with pytest.raises(DataError, match="batch of 3 pictures cannot be mixed in pairs"):
        preview(Digits(3), spec, 0, rows=1, columns=3)
    with pytest.raises(DataError, match="a grid of 0 x 3 pictures holds none"):
        preview(Digits(3), spec, 0, rows=0, columns=3)
