"""The decoding policy, case by case, on files made here."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from corestone.data.images.decode import Decoded, Rules, decode, ending

COLOUR, GREY = Rules(channels=3, max_pixels=64_000_000), Rules(channels=1, max_pixels=64_000_000)


def noise(height: int = 24, width: int = 32, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int = 24, width: int = 32) -> np.ndarray:
    """Smooth colours, which JPEG keeps within a few steps."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y * 6, x * 6, 255 - y * 3 - x * 3], axis=-1).astype(np.uint8)


def file(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def decoded(data: bytes, rules: Rules = COLOUR) -> Decoded:
    done = decode(data, rules)
    assert isinstance(done, Decoded), done
    assert done.pixels.dtype == np.uint8
    assert done.pixels.shape[2] == rules.channels
    return done


def png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    """A PNG written by hand (PNG specification, sections 5 and 11)."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_give_the_pixels_back(form: str) -> None:
    pixels = noise()
    data = file(Image.fromarray(pixels), form, **({"lossless": True} if form == "WEBP" else {}))
    done = decoded(data)
    assert np.array_equal(done.pixels, pixels)
    assert done.changed == ()


def test_jpeg_is_near_its_pixels() -> None:
    pixels = smooth()
    found = decoded(file(Image.fromarray(pixels), "JPEG", quality=95)).pixels
    assert np.abs(found.astype(int) - pixels).max() <= 12  # measured 7


def test_grey_stays_grey_and_becomes_three_equal_channels() -> None:
    pixels = noise(channels=1)
    data = file(Image.fromarray(pixels), "PNG")
    assert np.array_equal(decoded(data, GREY).pixels[:, :, 0], pixels)
    assert np.array_equal(decoded(data).pixels, np.repeat(pixels[:, :, None], 3, axis=2))


def test_colour_becomes_luminance_of_bt601() -> None:
    pixels = noise()
    grey = decoded(file(Image.fromarray(pixels), "PNG"), GREY).pixels[:, :, 0]
    weights = np.array([0.299, 0.587, 0.114])
    assert np.abs(grey - pixels @ weights).max() <= 1


def test_no_bytes() -> None:
    assert decode(b"", COLOUR) == "empty file"


@pytest.mark.parametrize("data", [b"hello, world", b"\0" * 100, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_other_files_are_no_images(data: bytes) -> None:
    assert decode(data, COLOUR) == "not an image of a known kind"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_cut_short(form: str, share: float) -> None:
    data = file(Image.fromarray(noise(64, 64)), form)
    found = decode(data[: int(len(data) * share)], COLOUR)
    # Pillow tells a cut from other damage in most formats; WebP's and TIFF's libraries do not.
    assert found == "truncated image" or (form in ("WEBP", "TIFF") and found == "corrupt image")


def test_damaged_png_is_corrupt() -> None:
    data = bytearray(file(Image.fromarray(noise(64, 64)), "PNG"))
    data[len(data) // 2] ^= 0xFF  # its checksum tells
    assert decode(bytes(data), COLOUR) == "corrupt image"


def test_known_signature_with_a_damaged_head_is_corrupt() -> None:
    data = file(Image.fromarray(noise()), "PNG")
    assert decode(data[:8] + b"\0" * 40, COLOUR) == "corrupt image"


def test_cmyk_is_converted() -> None:
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[:, :4, 1:3] = 255  # full magenta and yellow: red; the rest without ink: white
    done = decoded(file(Image.fromarray(pixels, mode="CMYK"), "TIFF"))
    assert done.changed == ("CMYK",)
    assert (done.pixels[:, :4] == [255, 0, 0]).all()
    assert (done.pixels[:, 4:] == 255).all()


def test_cmyk_jpeg_is_converted_whichever_way_its_ink_is_written() -> None:
    """Photoshop writes ink inverted and says so in Adobe's marker; Pillow's writer does the same."""
    pixels = np.zeros((16, 16, 4), dtype=np.uint8)
    pixels[..., 1:3] = 255
    done = decoded(file(Image.fromarray(pixels, mode="CMYK"), "JPEG", quality=95))
    assert done.changed == ("CMYK",)
    assert np.abs(done.pixels.astype(int) - [255, 0, 0]).max() <= 4  # measured 0


def test_palette_becomes_its_colours() -> None:
    image = Image.new("P", (4, 2))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1, 0, 1, 1, 0, 1, 0])
    done = decoded(file(image, "PNG"))
    assert done.changed == ("palette",)
    assert done.pixels[0].tolist() == [[10, 20, 30], [200, 100, 50]] * 2


def test_transparent_palette_lies_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    done = decoded(file(image, "PNG", transparency=0))
    assert done.changed == ("palette", "transparency over white")
    assert done.pixels.tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_alpha_lies_over_white() -> None:
    pixels = noise(channels=4)
    done = decoded(file(Image.fromarray(pixels), "PNG"))
    alpha = pixels[:, :, 3:] / 255
    assert np.abs(done.pixels - (pixels[:, :, :3] * alpha + 255 * (1 - alpha))).max() <= 1
    assert done.changed == ("transparency over white",)


def test_opaque_alpha_is_no_change() -> None:
    pixels = np.concatenate([noise(), np.full((24, 32, 1), 255, dtype=np.uint8)], axis=2)
    done = decoded(file(Image.fromarray(pixels), "PNG"))
    assert np.array_equal(done.pixels, pixels[:, :, :3])
    assert done.changed == ()


def test_sixteen_bits_keep_the_upper_half() -> None:
    grey = np.random.default_rng(0).integers(0, 65536, (5, 7), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in grey)
    done = decoded(png(7, 5, 16, 0, rows), GREY)
    assert np.array_equal(done.pixels[:, :, 0], grey >> 8)
    assert done.changed == ("16 bits to 8",)
    colour = np.random.default_rng(1).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
    done = decoded(png(7, 5, 16, 2, rows))
    assert np.array_equal(done.pixels, colour >> 8)
    assert done.changed == ("16 bits to 8",)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_without_a_stated_range_are_refused(dtype: Any) -> None:
    assert decode(file(Image.fromarray(np.ones((4, 4), dtype=dtype)), "TIFF"), COLOUR) == "32-bit values"


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_of_several_frames(form: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    done = decoded(file(frames[0], form, **options, **({"lossless": True} if form == "WEBP" else {})))
    assert "first of several pictures" in done.changed
    assert (done.pixels == [255, 0, 0]).all()


def test_exif_turns_as_the_standard_says() -> None:
    """EXIF 2.3, table of tag 0x0112: where the stored row 0 and column 0 belong."""
    shown = noise(6, 9)
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.transpose(1, 0, 2),
        6: np.rot90(shown, 1),
        7: shown[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(shown, -1),
    }
    for turn, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = turn
        done = decoded(file(Image.fromarray(np.ascontiguousarray(pixels)), "PNG", exif=exif))
        assert np.array_equal(done.pixels, shown), turn
        assert done.changed == (("turned by EXIF",) if turn > 1 else ())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_unreadable_exif_does_not_cost_the_picture() -> None:
    pixels = smooth()
    data = file(Image.fromarray(pixels), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decoded(data).pixels.shape == pixels.shape


@pytest.mark.parametrize("side", [9_000, 10_000, 40_000])  # Pillow lets pass, warns of, refuses
@pytest.mark.parametrize("action", ["ignore", "error"])
def test_a_bomb_is_refused_before_it_is_decoded(side: int, action: Any) -> None:
    data = png(side, side, 8, 0, b"")  # no pixel data at all: decoding would find it corrupt
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        assert decode(data, COLOUR) == "too many pixels"


def test_the_limit_is_inclusive() -> None:
    data = file(Image.fromarray(noise(10, 10)), "PNG")
    assert isinstance(decode(data, Rules(channels=3, max_pixels=100)), Decoded)
    assert decode(data, Rules(channels=3, max_pixels=99)) == "too many pixels"


VALID = [file(Image.fromarray(noise(16, 16)), form) for form in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of metadata
@given(st.sampled_from(VALID), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8))
def test_no_damage_raises(data: bytes, damage: list[tuple[int, int]]) -> None:
    changed = bytearray(data)
    for place, value in damage:
        changed[place % len(changed)] = value
    done = decode(bytes(changed), Rules(channels=3, max_pixels=10_000))
    assert isinstance(done, str) or done.pixels.dtype == np.uint8


def test_endings_by_signature() -> None:
    found = [ending(data) for data in VALID]
    assert found == ["jpg", "png", "gif", "webp", "tif", "bmp"]
    assert ending(b"hello") == "img"
