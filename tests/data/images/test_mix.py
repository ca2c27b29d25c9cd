"""Mixed rows against torchvision's classes; classes have shares of the areas; shares follow their distribution."""

from __future__ import annotations

import pytest
import torch
from drawn_digits import Digits
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from corestone.core.batch import ImageBatch
from corestone.core.rng import Draws
from corestone.data.images.augment_spec import CutMix, Mixup
from corestone.data.images.mix import beta, mixed, partner, rectangle


def draws(rows: int, seed: int = 5) -> list[Draws]:
    return [Draws(seed, range(row, row + 1)) for row in range(rows)]


def batch(rows: int, height: int = 24, width: int = 20) -> ImageBatch:
    pictures = Digits(rows, height, width, 3)
    images = torch.stack([torch.from_numpy(pictures.pixels(i)).permute(2, 0, 1) / 255 for i in range(rows)])
    return ImageBatch(images, torch.eye(10)[torch.from_numpy(pictures.labels)])


def turned(whole: ImageBatch) -> ImageBatch:
    """Each row's partner in its place."""
    places = torch.tensor([partner(row) for row in range(len(whole))])
    assert whole.targets_BK is not None
    return ImageBatch(whole.images_BCHW[places], whole.targets_BK[places])


def test_partners_are_pairs() -> None:
    assert [partner(row) for row in range(6)] == [1, 0, 3, 2, 5, 4]


@pytest.mark.parametrize("seed", range(8))
def test_mixup_is_torchvisions(seed: int) -> None:
    """torchvision mixes with the row before, which of two rows is the partner. Measured worst case: 6e-8."""
    own = batch(2)
    found = mixed([Mixup(alpha=0.8)], own, turned(own), draws(2, seed))
    assert found.targets_BK is not None
    for row, numbers in enumerate(draws(2, seed)):
        numbers.uniform(1)  # which kind
        share = beta(0.8, numbers)
        params = {"lam": share, "labels": own.targets_BK, "batch_size": 2}
        images, targets = (v2.MixUp().transform(part, params) for part in (own.images_BCHW, own.targets_BK))
        assert torch.allclose(found.images_BCHW[row], images[row], rtol=0, atol=3e-7)
        assert torch.allclose(found.targets_BK[row], targets[row], rtol=0, atol=3e-7)


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_is_torchvisions(seed: int) -> None:
    """Pixels are equal; shares are rounded to float32 once (measured worst case: 6e-8)."""
    own = batch(2)
    found = mixed([CutMix(alpha=1.0)], own, turned(own), draws(2, seed))
    assert found.targets_BK is not None
    for row, numbers in enumerate(draws(2, seed)):
        numbers.uniform(1)
        share = beta(1.0, numbers)
        top, left, bottom, right = rectangle(share, 24, 20, float(numbers.uniform(1)), float(numbers.uniform(1)))
        kept = 1 - (bottom - top) * (right - left) / 480
        params = {"box": (left, top, right, bottom), "lam_adjusted": kept, "labels": own.targets_BK, "batch_size": 2}
        images, targets = (v2.CutMix().transform(part, params) for part in (own.images_BCHW, own.targets_BK))
        assert torch.equal(found.images_BCHW[row], images[row])
        assert torch.allclose(found.targets_BK[row], targets[row], rtol=0, atol=3e-7)


@settings(deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    alpha=st.floats(0.05, 1),
    seed=st.integers(0, 2**31),
    cut=st.booleans(),
)
def test_classes_sum_to_one_and_have_the_shares_of_the_pixels(
    height: int, width: int, alpha: float, seed: int, cut: bool
) -> None:
    """A white picture of class 0 and a black one of class 1: the mean of a mixed row's values is the share of class 0.

    Of a cut row this counts pixels; measured worst case 3e-8 of a mixed one, rounded to float32.
    """
    own = ImageBatch(torch.ones(4, 1, height, width), torch.tensor([[1.0, 0.0]] * 4))
    other = ImageBatch(torch.zeros(4, 1, height, width), torch.tensor([[0.0, 1.0]] * 4))
    found = mixed([CutMix(alpha=alpha) if cut else Mixup(alpha=alpha)], own, other, draws(4, seed))
    assert found.targets_BK is not None
    assert torch.allclose(found.targets_BK.sum(dim=1), torch.ones(4), rtol=0, atol=2e-7)
    assert ((found.targets_BK >= 0) & (found.targets_BK <= 1)).all()
    shares = found.images_BCHW.double().mean(dim=(1, 2, 3))
    assert torch.allclose(shares, found.targets_BK[:, 0].double(), rtol=0, atol=3e-7)
    if cut:
        assert set(found.images_BCHW.unique().tolist()) <= {0.0, 1.0}


@settings(deadline=None)
@given(share=st.floats(0, 1), height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 2**31))
def test_a_rectangle_away_from_the_edges_leaves_the_share_that_was_drawn(share, height, width, seed) -> None:
    top, left, bottom, right = rectangle(share, height, width, 0.5, 0.5)
    area = (1 - share) ** 0.5
    assert height * area - 2 <= bottom - top <= height * area  # half sides are rounded down
    assert width * area - 2 <= right - left <= width * area
    down, across = Draws(seed, range(1)).uniform(2)[0].tolist()
    top, left, bottom, right = rectangle(share, height, width, down, across)
    assert 0 <= top <= bottom <= height
    assert 0 <= left <= right <= width


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    """Each tenth of the unit interval against torch's own samples; 9 degrees of freedom, 1 in 100,000."""
    count = 5000
    ours = torch.tensor([beta(alpha, numbers) for numbers in draws(count)])
    theirs = torch.distributions.Beta(alpha, alpha).sample((20 * count,))
    expected = torch.histc(theirs, 10, 0, 1) / 20
    chi_squared = ((torch.histc(ours, 10, 0, 1) - expected).square() / (expected * 1.05)).sum()
    assert chi_squared < 40
    assert abs(float(ours.mean()) - 0.5) < 5 * (1 / (4 * (2 * alpha + 1)) / count) ** 0.5


def test_of_several_kinds_one_is_drawn_evenly_for_each_row() -> None:
    own = ImageBatch(torch.ones(2000, 1, 16, 16), torch.tensor([[1.0, 0.0]] * 2000))
    other = ImageBatch(torch.zeros(2000, 1, 16, 16), torch.tensor([[0.0, 1.0]] * 2000))
    found = mixed([Mixup(), CutMix()], own, other, draws(2000))
    whole_values = ((found.images_BCHW == 0) | (found.images_BCHW == 1)).all(dim=3).all(dim=2).all(dim=1)
    assert abs(float(whole_values.float().mean()) - 0.5) < 5 * (0.25 / 2000) ** 0.5


def test_pictures_without_classes_are_mixed_too() -> None:
    own = batch(4)
    found = mixed([Mixup()], ImageBatch(own.images_BCHW), ImageBatch(turned(own).images_BCHW), draws(4))
    assert found.targets_BK is None
    assert torch.equal(found.images_BCHW, mixed([Mixup()], own, turned(own), draws(4)).images_BCHW)
