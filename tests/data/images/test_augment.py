"""Each step against torchvision's own class or a plain definition; what is drawn, by frequency; no state is touched."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from drawn_digits import Digits
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from corestone.core.errors import DataError, SpecError
from corestone.core.rng import Draws
from corestone.core.spec import parse
from corestone.data.images import augment
from corestone.data.images.augment import apply, denormalise, evaluation_picture, normalise, training_picture
from corestone.data.images.augment_spec import (
    Augmentation,
    CenterCrop,
    ColorJitter,
    CutMix,
    HorizontalFlip,
    Mixup,
    RandAugment,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    Resize,
)

EVERYTHING = (
    RandomResizedCrop(),
    RandomAffine(degrees=20, translate=0.2),
    RandAugment(layers=14),
    ColorJitter(),
    HorizontalFlip(),
    RandomErasing(probability=0.5),
    RandomCrop(padding=4),
)


def draws(row: int, seed: int = 3) -> Draws:
    return Draws(seed, range(row, row + 1))


def picture(height: int = 40, width: int = 56, channels: int = 3, number: int = 0) -> Tensor:
    return torch.from_numpy(Digits(number + 1, height, width, channels).pixels(number)).permute(2, 0, 1)


def spec(size: tuple[int, int], channels: int = 3, **fields: object) -> Augmentation:
    return Augmentation(size=size, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels, **fields)


def within_chance(found: float, probability: float, count: int) -> bool:
    """Within five standard deviations of a frequency: a right one fails once in two million."""
    return abs(found - probability) < 5 * (probability * (1 - probability) / count) ** 0.5


@settings(deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted).map(tuple),
    ratio=st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)).map(sorted).map(tuple),
    seed=st.integers(0, 2**31),
)
def test_a_resized_crop_lies_inside_and_has_the_asked_area_and_shape(height, width, scale, ratio, seed):
    step = RandomResizedCrop(scale=scale, ratio=ratio)
    numbers = draws(0, seed).uniform(22)[0].tolist()
    top, left, h, w = augment.resized_crop_box(step, (height, width), numbers)
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w
    assert min(h, w) > 0
    if (top, left) == ((height - h) // 2, (width - w) // 2):
        return  # perhaps the middle, which is taken where nothing fits: the next test's
    # Whole pixels move each side by half a pixel at most.
    assert (h - 0.5) * (w - 0.5) <= scale[1] * height * width * (1 + 1e-6)
    assert (h + 0.5) * (w + 0.5) >= scale[0] * height * width * (1 - 1e-6)
    assert (w + 0.5) / max(h - 0.5, 1e-9) >= ratio[0] * (1 - 1e-6)
    assert (w - 0.5) / (h + 0.5) <= ratio[1] * (1 + 1e-6)


@pytest.mark.parametrize("size", [(10, 100), (100, 10), (33, 101), (7, 1)])
def test_where_nothing_fits_the_middle_is_taken_as_torchvision_does(size):
    expected = v2.RandomResizedCrop(8, scale=(1.0, 1.0)).make_params([torch.zeros(3, *size)])
    step = RandomResizedCrop(scale=(1.0, 1.0))
    found = augment.resized_crop_box(step, size, draws(0).uniform(22)[0].tolist())
    assert found == tuple(expected[name] for name in ("top", "left", "height", "width"))


def test_a_resized_crop_is_torchvisions_and_pillows():
    """Pillow resizes with weights of other precision: 1 grey level apart at most (measured: on 0.03 % of values)."""
    step, whole = RandomResizedCrop(), picture(90, 70)
    for row in range(20):
        found = apply(step, whole, (24, 32), draws(row))
        top, left, h, w = augment.resized_crop_box(step, (90, 70), draws(row).uniform(22)[0].tolist())
        theirs = v2.RandomResizedCrop((24, 32)).transform(whole, {"top": top, "left": left, "height": h, "width": w})
        assert torch.equal(found, theirs)
        box = (left, top, left + w, top + h)
        cut = Image.fromarray(whole.permute(1, 2, 0).numpy()).crop(box)
        pillow = cut.resize((32, 24), Image.Resampling.BILINEAR)
        difference = (found.int() - torch.from_numpy(np.array(pillow)).permute(2, 0, 1).int()).abs()
        assert difference.max() <= 1


def test_the_area_of_a_resized_crop_is_drawn_evenly():
    step, count = RandomResizedCrop(scale=(0.2, 0.9), ratio=(1.0, 1.0)), 4000
    boxes = [augment.resized_crop_box(step, (1000, 1000), draws(row).uniform(22)[0].tolist()) for row in range(count)]
    shares = np.array([h * w / 1e6 for _, _, h, w in boxes])
    counts, _ = np.histogram(shares, bins=10, range=(0.2, 0.9))
    assert np.square(counts - count / 10).sum() / (count / 10) < 35  # chi-squared, 9 degrees of freedom: 1 in 10,000
    places = np.array([top / max(1, 1000 - h) for top, _, h, _ in boxes])
    assert abs(places.mean() - 0.5) < 5 * (1 / 12 / count) ** 0.5


def test_a_random_crop_is_a_window_of_the_padded_picture_and_each_is_as_likely():
    whole = torch.arange(1, 145, dtype=torch.uint8).reshape(1, 12, 12)
    padded = np.pad(whole.numpy(), ((0, 0), (2, 2), (2, 2)))
    windows = {padded[:, y : y + 12, x : x + 12].tobytes(): (y, x) for y in range(5) for x in range(5)}
    counts = dict.fromkeys(windows.values(), 0)
    for row in range(5000):
        counts[windows[apply(RandomCrop(padding=2), whole, (12, 12), draws(row)).numpy().tobytes()]] += 1
    assert sum((found - 200) ** 2 / 200 for found in counts.values()) < 63  # 24 degrees of freedom: 1 in 20,000


def test_flips_are_mirror_images_and_as_frequent_as_asked():
    whole, flips = picture(), 0
    mirrored = torch.from_numpy(whole.numpy()[:, :, ::-1].copy())
    for row in range(4000):
        found = apply(HorizontalFlip(probability=0.3), whole, (40, 56), draws(row))
        flipped = torch.equal(found, mirrored)
        assert flipped or torch.equal(found, whole)
        flips += flipped
    assert within_chance(flips / 4000, 0.3, 4000)
    for probability, expected in ((0.0, whole), (1.0, mirrored)):
        step = HorizontalFlip(probability=probability)
        assert all(torch.equal(apply(step, whole, (40, 56), draws(row)), expected) for row in range(50))


def test_an_affine_step_is_torchvisions():
    step, whole = RandomAffine(degrees=20, translate=0.2), picture(30, 40, 1)
    theirs = v2.RandomAffine(20, (0.2, 0.2))
    for row in range(50):
        turn, right, down = (2 * number - 1 for number in draws(row).uniform(3)[0].tolist())
        translate = (round(right * 0.2 * 40), round(down * 0.2 * 30))
        params = {"angle": 20 * turn, "translate": translate, "scale": 1.0, "shear": (0.0, 0.0)}
        assert torch.equal(apply(step, whole, (30, 40), draws(row)), theirs.transform(whole, params))


def test_shifts_move_whole_pixels_as_far_as_asked_and_bring_in_black():
    whole, seen = picture(20, 20, 1), set()
    shifted = {}
    for y in range(-4, 5):
        for x in range(-4, 5):
            plain = np.zeros((20, 20), dtype=np.uint8)
            plain[max(0, y) : 20 + y, max(0, x) : 20 + x] = whole[0, max(0, -y) : 20 - y, max(0, -x) : 20 - x].numpy()
            shifted[plain.tobytes()] = (y, x)
    for row in range(2000):
        seen.add(shifted[apply(RandomAffine(translate=0.2), whole, (20, 20), draws(row)).numpy().tobytes()])
    assert len(seen) == 81  # the rarest shift, to a corner, is missed by 2,000 draws once in 2,000 seeds


def test_turns_are_even_between_the_bounds(monkeypatch):
    angles: list[float] = []
    monkeypatch.setattr(F, "affine", lambda whole, angle, **_: angles.append(angle) or whole)
    for row in range(4000):
        apply(RandomAffine(degrees=20), picture(8, 8, 1), (8, 8), draws(row))
    counts, _ = np.histogram(angles, bins=10, range=(-20, 20))
    assert counts.sum() == 4000
    assert np.square(counts - 400).sum() / 400 < 35


NAMES = tuple(v2.RandAugment._AUGMENTATION_SPACE)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_of_randaugment_is_torchvisions(name, channels):
    """torchvision's step 3 m of 30 is the paper's magnitude m.

    Contrast takes a mean that is rounded once, not at every addition: measured equal here too.
    """
    assert len(NAMES) == len(augment.OPERATIONS) == 14
    theirs = v2.RandAugment(fill=[128] * channels)
    magnitudes, signed = v2.RandAugment._AUGMENTATION_SPACE[name]
    for magnitude in (0, 1, 3, 5, 9, 10):
        for sign in (-1, 1):
            whole = picture(37, 50, channels, number=magnitude)
            found = augment.OPERATIONS[NAMES.index(name)](whole, magnitude / 10, sign)
            table = magnitudes(31, 37, 50)
            level = 0.0 if table is None else float(table[3 * magnitude]) * (sign if signed else 1)
            expected = theirs._apply_image_or_video_transform(whole, name, level, theirs.interpolation, theirs._fill)
            assert torch.equal(found, expected), (magnitude, sign)


def test_strengths_beyond_ten_go_on_as_far_as_they_can():
    whole = picture()
    by_name = dict(zip(NAMES, augment.OPERATIONS, strict=True))
    assert torch.equal(by_name["Rotate"](whole, 1.5, 1), F.rotate(whole, 45.0, fill=[128] * 3))
    assert torch.equal(by_name["Brightness"](whole, 1.5, 1), F.adjust_brightness(whole, 2.35))
    assert not by_name["Brightness"](whole, 3.0, -1).any()
    assert torch.equal(by_name["Posterize"](whole, 3.0, 1), F.posterize(whole, 1))
    assert torch.equal(by_name["Solarize"](whole, 3.0, 1), F.invert(whole))
    for operate in augment.OPERATIONS:
        for sign in (-1, 1):
            assert operate(whole, 3.0, sign).shape == whole.shape


def test_operations_and_signs_are_drawn_evenly_layer_by_layer(monkeypatch):
    drawn: list[tuple[int, int]] = []

    def tagged(number: int):
        return lambda whole, strength, sign: drawn.append((number, sign)) or whole

    monkeypatch.setattr(augment, "OPERATIONS", tuple(tagged(number) for number in range(14)))
    for row in range(2800):
        apply(RandAugment(layers=2), picture(8, 8, 1), (8, 8), draws(row))
    assert len(drawn) == 5600
    counts = np.zeros((14, 2))
    np.add.at(counts, ([number for number, _ in drawn], [int(sign > 0) for _, sign in drawn]), 1)
    assert np.square(counts - 200).sum() / 200 < 67  # 27 degrees of freedom: 1 in 30,000
    same = sum(one[0] == two[0] for one, two in zip(drawn[::2], drawn[1::2], strict=True))
    assert within_chance(same / 2800, 1 / 14, 2800)


def test_erasing_fills_a_rectangle_with_even_noise_and_nothing_else():
    step, count = RandomErasing(probability=0.4), 1500
    whole = torch.full((3, 60, 50), 44, dtype=torch.uint8)
    erased, values = 0, []
    for row in range(count):
        found = apply(step, whole, (60, 50), draws(row))
        places = (found != whole).any(dim=0).nonzero()
        if len(places) == 0:
            continue
        erased += 1
        (top, left), (bottom, right) = places.min(dim=0).values.tolist(), (places.max(dim=0).values + 1).tolist()
        inside = found[:, top:bottom, left:right]
        # A side may look a pixel shorter where all of it was drawn as it had been, which is rare (1 in 256^3 a pixel).
        assert 0.015 < (bottom - top) * (right - left) / 3000 < 0.345
        assert 0.25 < (bottom - top) / (right - left) < 3.8
        assert len(places) > 0.9 * (bottom - top) * (right - left)
        values.append(inside.flatten().float())
    assert within_chance(erased / count, 0.4, count)
    noise = torch.cat(values)
    assert abs(float(noise.mean()) - 127.5) < 5 * 73.9 / len(noise) ** 0.5
    assert abs(float(noise.std()) - 73.9) < 0.5
    assert torch.equal(whole, torch.full_like(whole, 44))  # written nowhere


def test_colour_jitter_is_torchvisions():
    whole, theirs = picture(), v2.ColorJitter(0.4, 0.4, 0.4)
    orders = set()
    for row in range(60):
        numbers = draws(row).uniform(6)[0].tolist()
        factors = [0.6 + 0.8 * number for number in numbers[:3]]
        order = tuple(np.argsort(numbers[3:]).tolist())
        orders.add(order)
        names = ("brightness_factor", "contrast_factor", "saturation_factor")
        params = {"fn_idx": order, "hue_factor": None, **dict(zip(names, factors, strict=True))}
        assert torch.equal(
            apply(ColorJitter(strength=0.4), whole, (40, 56), draws(row)), theirs.transform(whole, params)
        )
    assert len(orders) == 6
    assert torch.equal(apply(ColorJitter(strength=0), whole, (40, 56), draws(0)), whole)
    assert apply(ColorJitter(strength=3), whole, (40, 56), draws(0)).shape == whole.shape


def test_evaluation_resizes_as_pillow_and_cuts_the_middle():
    """Measured: 1 grey level at most from Pillow."""
    whole = Digits(1, 90, 60, 3).pixels(0)
    short = evaluation_picture(spec((48, 32), evaluation=(Resize(shorter=32),)), whole)
    pillow = torch.from_numpy(np.array(Image.fromarray(whole).resize((32, 48), Image.Resampling.BILINEAR)))
    assert (short.permute(1, 2, 0).int() - pillow.int()).abs().max() <= 1
    both = evaluation_picture(spec((20, 24), evaluation=(Resize(shorter=32), CenterCrop())), whole)
    assert torch.equal(both, short[:, 14:34, 4:28])
    squeezed = evaluation_picture(spec((40, 40), evaluation=(Resize(),)), whole)
    pillow = torch.from_numpy(np.array(Image.fromarray(whole).resize((40, 40), Image.Resampling.BILINEAR)))
    assert (squeezed.permute(1, 2, 0).int() - pillow.int()).abs().max() <= 1


SHAPES = [((90, 60), (32, 48)), ((60, 90), (40, 40)), ((17, 23), (50, 31)), ((33, 33), (33, 33))]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_a_resize_is_torchvisions_own(interpolation, shape, size):
    """Bit for bit, smoothing included; and the other way between pixels is another picture."""
    whole = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    chw, other = torch.from_numpy(whole).permute(2, 0, 1), {"bilinear": "bicubic", "bicubic": "bilinear"}[interpolation]
    for step, sides in (
        (Resize(interpolation=interpolation), size),
        (Resize(interpolation=interpolation, shorter=29), 29),
    ):
        theirs = v2.Resize(sides, v2.InterpolationMode(interpolation), antialias=True)(chw)
        seen = spec(tuple(theirs.shape[1:]), evaluation=(step,))
        found = evaluation_picture(seen, whole)
        assert torch.equal(found, theirs)
        assert torch.equal(apply(step, chw, seen.size, draws(0)), theirs)
        if theirs.shape != chw.shape:
            changed = spec(seen.size, evaluation=(step.model_copy(update={"interpolation": other}),))
            assert (evaluation_picture(changed, whole).int() - found.int()).abs().max() > 10


def test_bicubic_is_pillows_but_for_rounding():
    """Measured: 1 grey level at most, where nothing is cut off at black or white."""
    generator = np.random.default_rng(0)
    for shape, size in SHAPES:
        whole = generator.integers(64, 193, (*shape, 3), dtype=np.uint8)
        found = evaluation_picture(spec(size, evaluation=(Resize(interpolation="bicubic"),)), whole)
        pillow = np.array(Image.fromarray(whole).resize((size[1], size[0]), Image.Resampling.BICUBIC))
        assert (found.permute(1, 2, 0).int() - torch.from_numpy(pillow).int()).abs().max() <= 1


def test_another_way_between_pixels_is_refused():
    with pytest.raises(SpecError, match="interpolation"):
        parse(Resize, {"kind": "resize", "interpolation": "lanczos"}, "test")


channel = st.tuples(st.floats(0, 1), st.floats(0.05, 1))


@settings(deadline=None)
@given(values=st.lists(channel, min_size=3, max_size=3))
def test_normalising_is_torchvisions_and_can_be_undone(values):
    """Measured worst case: 4.3e-6, of values up to 20."""
    mean, std = tuple(m for m, _ in values), tuple(s for _, s in values)
    record = Augmentation(size=(16, 16), mean=mean, std=std)
    whole = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, -1, -1)
    found = normalise(record, whole)
    expected = F.normalize(F.to_dtype(whole, torch.float32, scale=True), list(mean), list(std))
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)
    assert torch.equal(denormalise(record, found), whole)


def test_the_mnist_recipes_scale_is_minus_one_to_one():
    record = Augmentation(size=(1, 2), channels=1, mean=(0.5,), std=(0.5,))
    assert normalise(record, torch.tensor([[[0, 255]]], dtype=torch.uint8)).tolist() == [[[-1.0, 1.0]]]


def test_grey_becomes_three_equal_channels_and_colour_becomes_grey_as_in_pillow():
    grey, colour = Digits(1).pixels(0), Digits(1, channels=3).pixels(0)
    three = training_picture(spec((28, 28)), grey, draws(0))
    assert torch.equal(three, torch.from_numpy(grey).permute(2, 0, 1).expand(3, -1, -1))
    one = training_picture(spec((28, 28), 1), colour, draws(0))
    pillow = np.array(Image.fromarray(colour).convert("L")).astype(int)
    assert np.abs(one[0].numpy().astype(int) - pillow).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_every_step_takes_grey_and_colour_and_leaves_read_only_pixels_alone(channels):
    pixels = Digits(1, 90, 120, channels).pixels(0)
    before = pixels.copy()
    pixels.flags.writeable = False
    for row in range(20):
        found = training_picture(spec((32, 24), channels, steps=EVERYTHING), pixels, draws(row))
        assert found.shape == (channels, 32, 24)
        assert found.dtype == torch.uint8
    assert np.array_equal(pixels, before)


def test_no_global_random_state_is_read_or_written():
    def states() -> tuple[object, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    pixels, record = Digits(1, 64, 64, 3).pixels(0), spec((32, 32), steps=EVERYTHING)
    before = states()
    first = [training_picture(record, pixels, draws(row)) for row in range(20)]
    assert states() == before
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert all(torch.equal(training_picture(record, pixels, draws(row)), first[row]) for row in range(20))
    assert not torch.equal(first[0], first[1])


def test_the_number_of_threads_inside_torch_changes_nothing():
    """Pictures large enough for torch to share: there torchvision's own contrast takes means that differ."""
    record, before = spec((480, 480), steps=EVERYTHING), torch.get_num_threads()
    pixels = Digits(1, 520, 610, 3).pixels(0)
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append([training_picture(record, pixels, draws(row)) for row in range(6)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_pictures_that_do_not_fit_are_refused_with_the_cure():
    small = Digits(1, 20, 30).pixels(0)
    with pytest.raises(DataError, match=r"random_crop cannot cut 28x28 pixels .* out of 24x34; put a resize before it"):
        training_picture(spec((28, 28), 1, steps=(RandomCrop(padding=2),)), small, draws(0))
    with pytest.raises(DataError, match=r"center_crop cannot cut 28x28 pixels"):
        evaluation_picture(spec((28, 28), 1, evaluation=(CenterCrop(),)), small)
    with pytest.raises(DataError, match=r"20x30 pixels .* after augmentation.steps, where .*size=28x28; add"):
        training_picture(spec((28, 28), 1), small, draws(0))
    with pytest.raises(DataError, match=r"20x30 pixels .* after augmentation.evaluation"):
        evaluation_picture(spec((28, 28), 1), small)
    with pytest.raises(DataError, match=r"shape \(20, 30, 2\) are no picture"):
        evaluation_picture(spec((28, 28), 1), np.zeros((20, 30, 2), np.uint8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [0.5]}, r"mean=\[0.5\] must have one value per channel \(3\)"),
        ({"std": [0.1, 0.0, 0.1]}, "must be positive"),
        ({"size": [0, 4]}, r"size=\[0, 4\] must be a height and a width"),
        ({"steps": [{"kind": "random_resized_crop", "scale": [0.5, 0.2]}]}, "must ascend within 0"),
        ({"steps": [{"kind": "random_resized_crop", "ratio": [0.0, 0.2]}]}, "must be positive and ascend"),
        ({"steps": [{"kind": "random_crop", "pading": 4}]}, "did you mean 'padding'"),
        ({"evaluation": [{"kind": "horizontal_flip"}]}, "horizontal_flip"),
        ({"mix": [{"kind": "mixup", "alpha": 2.0}]}, "less than or equal to 1"),
    ],
)
def test_records_refuse_what_cannot_be(change, message):
    tree = {"size": [4, 4], "mean": [0.5] * 3, "std": [0.2] * 3}
    parse(Augmentation, tree, "augmentation")
    with pytest.raises(SpecError, match=message):
        parse(Augmentation, {**tree, **change}, "augmentation")


def test_a_whole_record_reads_back_from_its_text():
    record = spec(
        (32, 32),
        steps=EVERYTHING,
        evaluation=(Resize(shorter=36), CenterCrop()),
        mix=(Mixup(), CutMix()),
    )
    assert parse(Augmentation, record.model_dump(mode="json"), "augmentation") == record
