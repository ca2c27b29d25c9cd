"""A part of a file is what `decode` makes of the whole file, cut: bit for bit, unless a smaller scale is asked for."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from corestone.core.rng import Draws, fold
from corestone.data.images.augment import first_part, normalise, training_part, training_picture
from corestone.data.images.augment_spec import Augmentation, HorizontalFlip, RandomResizedCrop
from corestone.data.images.decode import Decoded, Rules, decode
from corestone.data.images.jpeg import jpeg_head, part_of
from corestone.data.images.loader import ImageLoader
from corestone.data.images.picture import Box, whole
from corestone.data.images.prepared import open_pictures, prepare_images
from corestone.data.images.spec import ImageFolder

COLOUR, GREY = Rules(channels=3, max_pixels=1_000_000), Rules(channels=1, max_pixels=1_000_000)


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Waves of three colours under fine grain, so that no block is flat."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9 + seed) * np.cos(y / 7), np.sin((x + y) / 13), np.cos(x / 31 - y / 17 + seed)]
    grain = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    return (128 + 90 * np.stack(waves, axis=-1) + grain).clip(0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(stream, "JPEG", **options)
    return stream.getvalue()


def pillow(data: bytes, rules: Rules = COLOUR) -> np.ndarray:
    done = decode(data, rules)
    assert isinstance(done, Decoded), done
    return done.pixels


def boxes(height: int, width: int, count: int = 40) -> list[Box]:
    """Every row as the last one in turn, and the whole."""
    chance = random.Random(height * width)
    found: list[Box] = [(0, 0, height, width)]
    for _ in range(count):
        h, w = chance.randint(1, height), chance.randint(1, width)
        found.append((chance.randint(0, height - h), chance.randint(0, width - w), h, w))
    return found + [(0, 0, bottom, width) for bottom in range(1, height, 3)]


FORMS = {
    "4:4:4": {"subsampling": "4:4:4"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:2:0": {"subsampling": "4:2:0"},
    "4:1:1": {"subsampling": "4:1:1"},
    "restarts": {"restart_marker_blocks": 3},
    "restarts by row": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
    "fine": {"quality": 100, "optimize": True},
}


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("height", "width"), [(67, 53), (128, 96)])
def test_parts_are_those_of_pillows_pixels(options: dict[str, object], height: int, width: int) -> None:
    data = jpeg(scene(height, width), **options)
    assert jpeg_head(data) is not None
    expected = pillow(data)
    for top, left, h, w in boxes(height, width):
        found = part_of(data, COLOUR, lambda size, box=(top, left, h, w): box)
        assert isinstance(found, np.ndarray)
        assert np.array_equal(found, expected[top : top + h, left : left + w]), (top, left, h, w)
        assert found.flags.owndata
        assert found.flags.writeable


@pytest.mark.parametrize("rules", [GREY, COLOUR], ids=["as grey", "as colour"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour(rules: Rules, channels: int) -> None:
    data = jpeg(scene(67, 53)[:, :, :channels])
    found = part_of(data, rules, lambda size: (3, 2, 40, 50))
    assert np.array_equal(found, pillow(data, rules)[3:43, 2:52])


def left_to_pillow() -> dict[str, bytes]:
    pixels, turned = scene(67, 53), Image.Exif()
    turned[0x0112] = 6
    upright = Image.Exif()
    upright[0x0112] = 1
    png, cmyk = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    Image.fromarray(pixels).convert("CMYK").save(cmyk, "JPEG")
    return {
        "turned": jpeg(pixels, exif=turned),
        "upright": jpeg(pixels, exif=upright),
        "unreadable EXIF": jpeg(pixels, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
        "CMYK": cmyk.getvalue(),
        "RGB kept as such": jpeg(pixels, keep_rgb=True),
        "PNG": png.getvalue(),
        "bytes behind the end": jpeg(pixels) + b"\0\0",
    }


@pytest.mark.parametrize("data", left_to_pillow().values(), ids=left_to_pillow())
def test_what_needs_pillows_policy_gets_it(data: bytes) -> None:
    expected, asked = pillow(data), []

    def choose(size: tuple[int, int]) -> Box:
        asked.append(size)
        return 5, 4, 30, 20

    assert np.array_equal(part_of(data, COLOUR, choose), expected[5:35, 4:24])
    assert asked == [expected.shape[:2]]  # once: what chance decides is drawn there


def test_refusals_are_those_of_decode() -> None:
    good = jpeg(scene(67, 53))
    refused = {
        "empty file": b"",
        "not an image of a known kind": b"hello, world",
        "truncated image": good[: len(good) // 2],
        "corrupt image": good[:4] + bytes(40) + good[-2:],
    }
    for reason, data in refused.items():
        assert part_of(data, COLOUR, lambda size: (0, 0, 8, 8)) == reason == decode(data, COLOUR)
    assert part_of(good, Rules(channels=3, max_pixels=67 * 53 - 1), whole) == "too many pixels"


def test_damage_never_gives_other_pixels_than_pillow_and_never_raises() -> None:
    """One byte after another of a file is changed. Of parts that end early this holds for what lies in them."""
    good, unlike = jpeg(scene(48, 40), quality=60), 0
    for place in range(2, len(good), 3):
        data = bytearray(good)
        data[place] ^= 0x5A
        done = decode(bytes(data), COLOUR)
        found = part_of(bytes(data), COLOUR, whole)
        if isinstance(done, str):
            assert found == done, place
        else:
            assert np.array_equal(found, done.pixels), place
            early = part_of(bytes(data), COLOUR, lambda size: (0, 0, min(20, size[0]), size[1]))
            unlike += not np.array_equal(early, done.pixels[:20])
    # A false marker in the stream ends it for Pillow; the rest is grey then. Shortened files end there all the same.
    assert unlike == 0


def test_a_smaller_scale_is_taken_while_the_part_stays_large_enough() -> None:
    data = jpeg(scene(403, 517))
    for box, least, shape in (
        ((10, 20, 200, 240), (100, 100), (100, 120)),
        ((10, 20, 200, 240), (101, 100), (200, 240)),
        ((203, 277, 200, 240), (25, 30), (25, 30)),
        ((1, 3, 399, 511), (60, 60), (99, 127)),
        ((0, 0, 403, 517), (1, 1), (50, 64)),
    ):
        found = part_of(data, COLOUR, lambda size, box=box: box, least)
        assert isinstance(found, np.ndarray)
        assert found.shape == (*shape, 3)
        assert part_of(data, COLOUR, lambda size, box=box: box).shape == (*box[2:], 3)


def test_a_smaller_scale_shows_the_same_scene() -> None:
    """Against the mean of each square of pixels, on a scene without fine grain."""
    y, x = np.mgrid[0:256, 0:320]
    smooth = np.stack([128 + 90 * np.sin(x / 29), 128 + 90 * np.cos(y / 37), (x + y) * 0.4], axis=-1)
    data = jpeg(smooth.clip(0, 255).astype(np.uint8), quality=95)
    top, left, height, width = 32, 64, 160, 192
    for by in (2, 4, 8):
        found = part_of(data, COLOUR, lambda size: (top, left, height, width), (height // by, width // by))
        squares = pillow(data)[top : top + height, left : left + width].reshape(height // by, by, width // by, by, 3)
        worst = np.abs(found - squares.mean(axis=(1, 3))).max()
        assert worst <= 4, by  # measured 1.9 at most


def test_workers_read_files_alike_and_as_whole_pictures(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for number in range(12):
        data = jpeg(scene(150 + 9 * number, 200 - 7 * number, number), quality=80 + number)
        (tmp_path / "own" / f"{number:02d}.jpg").write_bytes(data)
    source = ImageFolder(path=str(tmp_path / "own"), validation_percent=0)
    pictures = open_pictures(prepare_images(source, tmp_path / "cache"), "train")
    for reduced in (False, True):
        steps = (RandomResizedCrop(reduced=reduced), HorizontalFlip())
        spec = Augmentation(size=(32, 32), steps=steps, mean=(0.5,) * 3, std=(0.5,) * 3)
        batches = [ImageLoader(pictures, spec, 3, 8, workers=workers).batch(5).images_BCHW for workers in (0, 1, 4)]
        assert torch.equal(batches[0], batches[1])
        assert torch.equal(batches[0], batches[2])
        (row, *_), (i, *_) = ImageLoader(pictures, spec, 3, 8).rows_of(5)
        expected = training_picture(spec, pictures.pixels(i), Draws(fold(3, "augment", 5), range(row, row + 1)))
        assert torch.equal(normalise(spec, expected), batches[0][0]) is not reduced


def test_augmentation_asks_for_a_smaller_scale_only_where_it_says_so() -> None:
    data = jpeg(scene(600, 800))
    for reduced in (False, True):
        steps = (RandomResizedCrop(scale=(0.5, 1.0), reduced=reduced), HorizontalFlip())
        spec = Augmentation(size=(96, 128), steps=steps, mean=(0.5,) * 3, std=(0.5,) * 3)
        draws = Draws(1, range(7, 8))
        part = part_of(data, COLOUR, *first_part(spec, draws))
        assert isinstance(part, np.ndarray)
        assert (part.shape[0] > 300) is not reduced
        assert training_part(spec, part, draws).shape == (3, 96, 128)
