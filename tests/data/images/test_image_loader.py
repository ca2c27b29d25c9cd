"""A row is what a plain loop makes of its number; workers, ranks, prefetching and resuming change no bit."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
import torch
from drawn_digits import Digits
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from corestone.core.batch import ImageBatch
from corestone.core.errors import DataError
from corestone.core.rng import Draws, fold
from corestone.data.images.augment import evaluation_picture, normalise, training_picture
from corestone.data.images.augment_spec import (
    Augmentation,
    CenterCrop,
    ColorJitter,
    CutMix,
    HorizontalFlip,
    Mixup,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    Resize,
)
from corestone.data.images.loader import ImageLoader, evaluation_batches
from corestone.data.permutation import permute

PLAIN = Augmentation(
    size=(24, 20),
    channels=3,
    steps=(RandomResizedCrop(), HorizontalFlip(), RandAugment(), ColorJitter(), RandomErasing()),
    evaluation=(Resize(shorter=26), CenterCrop()),
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
)
MIXED = PLAIN.model_copy(update={"mix": (Mixup(), CutMix())})
ASIS = Augmentation(size=(28, 28), channels=1, mean=(0.5,), std=(0.5,))


def digits(count: int = 37) -> Digits:
    return Digits(count, 40, 36, 3, uneven=True)


def equal(one: ImageBatch, other: ImageBatch) -> bool:
    if one.targets_BK is None or other.targets_BK is None:
        return one.targets_BK is other.targets_BK and torch.equal(one.images_BCHW, other.images_BCHW)
    return torch.equal(one.images_BCHW, other.images_BCHW) and torch.equal(one.targets_BK, other.targets_BK)


def joined(parts: list[ImageBatch]) -> ImageBatch:
    targets = [part.targets_BK for part in parts if part.targets_BK is not None]
    return ImageBatch(torch.cat([part.images_BCHW for part in parts]), torch.cat(targets))


@settings(deadline=None, max_examples=20)
@given(batch_size=st.integers(1, 9), step=st.integers(0, 300), seed=st.integers(0, 99))
def test_a_row_is_what_a_plain_loop_makes(batch_size: int, step: int, seed: int) -> None:
    pictures = digits()
    batch = ImageLoader(pictures, PLAIN, seed, batch_size).batch(step)
    assert batch.targets_BK is not None
    assert batch.images_BCHW.dtype == batch.targets_BK.dtype == torch.float32
    assert batch.images_BCHW.is_contiguous()
    assert len(batch) == batch_size
    for row in range(batch_size):
        epoch, turn = divmod(step * batch_size + row, len(pictures))
        (i,) = permute(np.array([turn]), len(pictures), fold(seed, "samples", 0, epoch)).tolist()
        draws = Draws(fold(seed, "augment", step), range(row, row + 1))
        expected = normalise(PLAIN, training_picture(PLAIN, pictures.pixels(i), draws))
        assert torch.equal(batch.images_BCHW[row], expected)
        assert batch.targets_BK[row].tolist() == [float(label == pictures.labels[i]) for label in range(10)]


@pytest.mark.parametrize("spec", [PLAIN, MIXED], ids=["plain", "mixed"])
def test_workers_and_prefetching_change_no_bit_through_jumps(spec: Augmentation) -> None:
    pictures, steps = digits(), [0, 1, 2, 3, 3, 40, 41, 2]
    direct = ImageLoader(pictures, spec, 5, 8)
    expected = [direct.batch(step) for step in steps]
    for workers in (0, 1, 4):
        for prefetch in (0, 3):
            with ImageLoader(pictures, spec, 5, 8, workers=workers, prefetch=prefetch) as loader:
                for step, batch in zip(steps, expected, strict=True):
                    assert equal(loader.batch(step), batch), (workers, prefetch, step)


@settings(deadline=None, max_examples=25)
@given(
    world=st.integers(1, 6),
    per_rank=st.integers(1, 4),
    step=st.integers(0, 200),
    seed=st.integers(0, 99),
    mix=st.booleans(),
)
def test_the_ranks_together_hold_the_single_ranks_batch(
    world: int, per_rank: int, step: int, seed: int, mix: bool
) -> None:
    """Also where a pair of mixed rows falls on two ranks."""
    batch_size = world * per_rank * (2 if mix and world * per_rank % 2 else 1)
    pictures, spec = digits(), MIXED if mix else PLAIN
    parts = [ImageLoader(pictures, spec, seed, batch_size, rank, world).batch(step) for rank in range(world)]
    assert {len(part) for part in parts} == {batch_size // world}
    assert equal(joined(parts), ImageLoader(pictures, spec, seed, batch_size).batch(step))


def test_a_mixed_row_is_made_of_its_own_and_its_partners_picture_and_is_not_the_unmixed_one() -> None:
    pictures = Digits(40)
    spec = ASIS.model_copy(update={"mix": (Mixup(alpha=1.0),)})
    plain, found = (ImageLoader(pictures, kind, 1, 8).batch(2) for kind in (ASIS, spec))
    assert plain.targets_BK is not None
    assert found.targets_BK is not None
    for row in range(8):
        one, two = plain.images_BCHW[row].double(), plain.images_BCHW[row ^ 1].double()
        difference = (one - two).flatten()
        share = float((found.images_BCHW[row].double() - two).flatten() @ difference / (difference @ difference))
        assert 0 < share < 1
        assert torch.allclose(share * one + (1 - share) * two, found.images_BCHW[row].double(), atol=1e-6)
        expected = share * plain.targets_BK[row] + (1 - share) * plain.targets_BK[row ^ 1]
        assert torch.allclose(expected, found.targets_BK[row], atol=1e-6)


@pytest.mark.parametrize("start", [1, 4, 11])
def test_a_run_resumed_at_any_step_goes_on_as_it_would_have(start: int) -> None:
    pictures = digits()
    with ImageLoader(pictures, MIXED, 9, 6, workers=2, prefetch=2) as whole:
        expected = [whole.batch(step) for step in range(start + 3)][start:]
    with ImageLoader(pictures, MIXED, 9, 6, workers=1, prefetch=1) as resumed:
        assert all(equal(resumed.batch(start + i), batch) for i, batch in enumerate(expected))


def test_pictures_wait_as_bytes_and_are_normalised_as_torchvision_does() -> None:
    """Worst: 4.8e-7 at values up to 3."""
    batch = ImageLoader(digits(), PLAIN, 3, 8).batch(0)
    assert (batch.pixels_BCHW.dtype, batch.images_BCHW.dtype) == (torch.uint8, torch.float32)
    wanted = v2.Normalize(list(PLAIN.mean), list(PLAIN.std))(batch.pixels_BCHW / 255)
    torch.testing.assert_close(batch.images_BCHW, wanted, atol=2e-6, rtol=0)
    part = batch.rows(2, 5).to(torch.device("cpu"))
    assert (part.pixels_BCHW.dtype, len(part)) == (torch.uint8, 3)
    assert torch.equal(part.images_BCHW, batch.images_BCHW[2:5])


def test_each_epoch_is_a_shuffle_and_augments_anew() -> None:
    pictures = Digits(36)
    loader = ImageLoader(pictures, ASIS, 3, 12)
    assert loader.epoch_units == 36
    epochs = [[name for step in range(3 * e, 3 * e + 3) for name in loader.names(step)] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(pictures.id(i) for i in range(36))
    assert sum(one == two for one, two in zip(*epochs[:2], strict=True)) < 8
    shown: dict[str, list[torch.Tensor]] = {}
    spec = ASIS.model_copy(update={"steps": (RandomResizedCrop(),)})
    augmented = ImageLoader(pictures, spec, 3, 12)
    for step in range(6):
        for name, image in zip(augmented.names(step), augmented.batch(step).images_BCHW, strict=True):
            shown.setdefault(name, []).append(image)
    assert {len(images) for images in shown.values()} == {2}
    assert not any(torch.equal(*images) for images in shown.values())


def test_names_are_those_of_all_ranks_each_once() -> None:
    pictures = Digits(5)
    whole = ImageLoader(pictures, ASIS, 0, 10)
    assert sorted(whole.names(0)) == [f"digit-{i}" for i in range(5)]
    half = ImageLoader(pictures, ASIS, 0, 10, rank=1, world_size=2)
    assert half.names(3) == whole.names(3)


def test_a_picture_that_cannot_be_read_stops_the_step_with_its_name_and_the_loader_recovers() -> None:
    pictures = Digits(12)
    for workers, prefetch in ((0, 0), (2, 2)):
        pictures.broken = None
        with ImageLoader(pictures, ASIS, 0, 4, workers=workers, prefetch=prefetch) as loader:
            good = loader.batch(0)
            pictures.broken = 7
            (step,) = (step for step in range(3, 6) if "digit-7" in loader.names(step))
            for _ in range(2):
                with pytest.raises(DataError, match="picture 'digit-7': the file ends early; prepare the set again"):
                    loader.batch(step)
            pictures.broken = None
            assert equal(loader.batch(0), good)


def test_a_picture_of_another_size_is_named() -> None:
    loader = ImageLoader(Digits(4, 30, 30), ASIS, 0, 4)
    with pytest.raises(DataError, match=r"picture 'digit-\d': 30x30 pixels .* augmentation.size=28x28"):
        loader.batch(0)
    with pytest.raises(DataError, match=r"picture 'digit-0': 30x30 pixels"):
        next(evaluation_batches(Digits(4, 30, 30), ASIS, 4))


def test_close_ends_every_thread_and_leaves_the_callers_settings() -> None:
    def ours() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("corestone-")]

    threads = torch.get_num_threads()
    loader = ImageLoader(Digits(12), ASIS, 0, 4, workers=3, prefetch=2)
    first = loader.batch(0)
    assert "corestone-loader" in ours()
    assert any(name.startswith("corestone-pictures") for name in ours())
    loader.close()
    assert not ours()
    assert torch.get_num_threads() == threads
    assert equal(loader.batch(0), first)
    loader.close()


def test_no_global_random_state_is_touched() -> None:
    def states() -> tuple[object, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    pictures, before = digits(), states()
    with ImageLoader(pictures, MIXED, 5, 8, workers=2, prefetch=2) as loader:
        first = loader.batch(0)
        assert states() == before
        random.seed(8)
        np.random.seed(8)
        torch.manual_seed(8)
        loader.batch(7)
        assert equal(loader.batch(0), first)
    assert not equal(ImageLoader(pictures, MIXED, 6, 8).batch(0), first)


def test_evaluation_shows_every_picture_once_in_order_whatever_the_batch_size() -> None:
    pictures = digits(23)
    whole = joined(list(evaluation_batches(pictures, MIXED, 23)))
    for i in range(23):
        assert torch.equal(whole.images_BCHW[i], normalise(MIXED, evaluation_picture(MIXED, pictures.pixels(i))))
    assert whole.targets_BK is not None
    assert whole.targets_BK.argmax(dim=1).tolist() == pictures.labels.tolist()
    assert (whole.targets_BK.sum(dim=1) == 1).all()
    for batch_size in (1, 4, 50):
        batches = list(evaluation_batches(pictures, MIXED, batch_size))
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert equal(joined(batches), whole)


def test_without_classes_there_are_no_targets() -> None:
    pictures = Digits(8)
    pictures.classes, pictures.labels = (), np.full(8, -1)
    assert ImageLoader(pictures, ASIS, 0, 4).batch(0).targets_BK is None
    assert next(evaluation_batches(pictures, ASIS, 4)).targets_BK is None


def test_what_cannot_be_is_refused_with_the_cure() -> None:
    pictures = Digits(8)
    with pytest.raises(DataError, match=r"batch of 10 pictures .* evenly by 4 ranks; make it a multiple of 4"):
        ImageLoader(pictures, ASIS, 0, 10, 0, 4)
    with pytest.raises(DataError, match=r"rank 4 lies outside 0..3"):
        ImageLoader(pictures, ASIS, 0, 8, 4, 4)
    with pytest.raises(DataError, match=r"batch of 5 pictures cannot be mixed in pairs; make it even"):
        ImageLoader(pictures, MIXED, 0, 5)
    with pytest.raises(DataError, match="the picture set is empty"):
        ImageLoader(Digits(0), ASIS, 0, 4)
    for label in (-1, 10):
        pictures.labels[3] = label
        with pytest.raises(DataError, match=rf"picture 'digit-3': label {label} lies outside 0..9, as for 1 pictures"):
            ImageLoader(pictures, ASIS, 0, 4)
        with pytest.raises(DataError, match="picture 'digit-3'"):
            next(evaluation_batches(pictures, ASIS, 4))
