"""Hashes of what looks alike lie near one another, and the search by bands finds every near one."""

from __future__ import annotations

import io
import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from corestone.data.images.near import NearDuplicates, perceptual_hash


def scene(number: int) -> np.ndarray:
    """Colour noise whose spectrum falls as that of photographs."""
    generator = np.random.default_rng(number)
    frequency = np.hypot(np.fft.fftfreq(96)[:, None], np.fft.rfftfreq(120)[None])
    frequency[0, 0] = 1
    noise = generator.normal(size=(3, *frequency.shape)) + 1j * generator.normal(size=(3, *frequency.shape))
    waves = np.fft.irfft2(noise / frequency, s=(96, 120))
    return (128 + 45 * waves / waves.std()).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def unlike(one: np.ndarray, other: np.ndarray) -> int:
    return (perceptual_hash(one) ^ perceptual_hash(other)).bit_count()


def test_scaling_recompression_and_light_move_few_bits_and_other_pictures_many() -> None:
    changed, others = [], []
    for number in range(40):
        image = Image.fromarray(scene(number))
        stream = io.BytesIO()
        image.resize((77, 60), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=40)
        smaller = np.asarray(Image.open(stream))
        lighter = (scene(number) * 0.8 + 30).astype(np.uint8)
        changed += [unlike(scene(number), smaller), unlike(scene(number), lighter)]
        others.append(unlike(scene(number), scene(number + 1)))
    assert max(changed) <= 6  # measured 4
    assert min(others) >= 14  # measured 18


def test_grey_pictures_hash_as_their_colours() -> None:
    grey = scene(0)[:, :, :1]
    assert perceptual_hash(grey) == perceptual_hash(np.repeat(grey, 3, axis=2))


@given(distance=st.integers(0, 7), seed=st.integers(0, 10_000))
def test_the_search_finds_what_comparing_all_finds(distance: int, seed: int) -> None:
    chance = random.Random(seed)
    near, held = NearDuplicates(distance), []
    for _ in range(60):
        value = chance.getrandbits(64)
        if held and chance.random() < 0.7:
            value = chance.choice(held)
            for bit in chance.sample(range(64), chance.randint(0, distance + 2)):
                value ^= 1 << bit
        assert near.seen(value) == any((value ^ other).bit_count() <= distance for other in held)
        near.add(value)
        held.append(value)
