"""Pictures per second from JPEG bytes to training batches: Corestone beside torchvision's transforms in a DataLoader.

All sides take a random resized crop to 224 pixels, flip half of the pictures, normalise, and give float32
(B, 3, 224, 224) and class shares (B, 1000) in shuffled order, by the same number of workers: threads of one process
here, processes there (the usual `num_workers`). Three peers: torchvision's v2 steps on Pillow images, the same on
tensors, which v2 recommends, and on tensors that torchvision decodes itself. Corestone runs once as it does by default,
with the pixels that Pillow decodes, and once with JPEG files decoded at a smaller scale where the crop stays large
enough (`reduced`); how far its pixels are from the default's is printed too. The JPEG bytes lie in memory. Every
process keeps freed memory, as Corestone's runs do. Rounds of all sides alternate; medians and ratios of one run are
printed.

    python benchmarks/image_loading.py [--pictures 256] [--height 375] [--width 500] [--batch-size 64] [--workers 2]
        [--rounds 5]
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from corestone.core.rng import Draws
from corestone.data.images.augment import first_part, training_part
from corestone.data.images.augment_spec import Augmentation, HorizontalFlip, RandomResizedCrop
from corestone.data.images.decode import Rules
from corestone.data.images.jpeg import part_of
from corestone.data.images.loader import ImageLoader
from corestone.data.images.picture import Choose, Size, whole
from corestone.parallel.allocator import keep_freed_memory

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 224
RULES = Rules(channels=3, max_pixels=64_000_000)
Pair = tuple[Tensor, Tensor]


def photograph(number: int, height: int, width: int) -> bytes:
    """A JPEG file of colour noise whose spectrum falls as that of photographs (1/f)."""
    rng = np.random.default_rng(number)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    noise = rng.normal(size=(3, *frequency.shape)) + 1j * rng.normal(size=(3, *frequency.shape))
    grey, *colours = np.fft.irfft2(noise / frequency, s=(height, width))
    channels = [grey + 0.3 * colours[0], grey, grey + 0.3 * colours[1]]
    pixels = np.stack([128 + 45 * (channel - channel.mean()) / channel.std() for channel in channels], axis=-1)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


class Photographs:
    """JPEG files in memory, as a picture set and as torch's Dataset."""

    def __init__(self, files: list[bytes], classes: int = 1000) -> None:
        self.files = files
        self.labels = np.arange(len(files), dtype=np.int64) % classes
        self.classes = tuple(str(number) for number in range(classes))
        self.fingerprint = "photographs"

    def __len__(self) -> int:
        return len(self.files)

    def id(self, i: int) -> str:
        return str(i)

    def image(self, i: int) -> Image.Image:
        return Image.open(io.BytesIO(self.files[i])).convert("RGB")

    def tensor(self, i: int) -> Tensor:
        return decode_jpeg(torch.frombuffer(bytearray(self.files[i]), dtype=torch.uint8), ImageReadMode.RGB)

    def pixels(self, i: int) -> np.ndarray:
        return self.part(i, whole)

    def part(self, i: int, choose: Choose, least: Size | None = None) -> np.ndarray:
        found = part_of(self.files[i], RULES, choose, least)
        assert not isinstance(found, str)
        return found


class Transformed(Dataset):  # type: ignore[type-arg]
    """A map-style data set with torchvision's transform, as in its own examples."""

    def __init__(self, photographs: Photographs, read: Callable[[int], object], transform: v2.Transform) -> None:
        self.photographs, self.read, self.transform = photographs, read, transform

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, i: int) -> Pair:
        target = torch.zeros(len(self.photographs.classes))
        target[int(self.photographs.labels[i])] = 1
        return self.transform(self.read(i)), target


def augmentation(reduced: bool) -> Augmentation:
    steps = (RandomResizedCrop(reduced=reduced), HorizontalFlip())
    return Augmentation(size=(SIZE, SIZE), steps=steps, mean=MEAN, std=STD)


def corestone(photographs: Photographs, batch_size: int, workers: int, reduced: bool) -> Iterator[Pair]:
    with ImageLoader(photographs, augmentation(reduced), 0, batch_size, workers=workers, prefetch=2) as loader:
        step = 0
        while True:
            batch = loader.batch(step)
            assert batch.targets_BK is not None
            yield batch.images_BCHW, batch.targets_BK
            step += 1


def torchvision_loader(photographs: Photographs, batch_size: int, workers: int, way: str) -> Iterator[Pair]:
    crop = [v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()]
    steps = {"images": [*crop, v2.PILToTensor()], "tensors": [v2.PILToTensor(), *crop], "decoded": crop}[way]
    read = photographs.tensor if way == "decoded" else photographs.image
    transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    loader = DataLoader(
        Transformed(photographs, read, transform),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    while True:
        yield from loader


def speed(batches: Iterator[Pair], count: int, batch_size: int) -> float:
    """Pictures per second of so many batches, those that were made ahead left out."""
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * batch_size / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    photographs = Photographs([photograph(number, options.height, options.width) for number in range(options.pictures)])
    count = max(4, 2 * options.pictures // options.batch_size)
    common = (photographs, options.batch_size, options.workers)
    sides: dict[str, Callable[[], Iterator[Pair]]] = {
        "corestone": lambda: corestone(*common, reduced=False),
        "corestone, reduced": lambda: corestone(*common, reduced=True),
        "torchvision v2 on Pillow images, DataLoader": lambda: torchvision_loader(*common, "images"),
        "torchvision v2 on tensors, DataLoader": lambda: torchvision_loader(*common, "tensors"),
        "torchvision v2 and decode_jpeg, DataLoader": lambda: torchvision_loader(*common, "decoded"),
    }
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, side in sides.items():
            batches = side()
            for _ in range(4):  # the workers have started, and what they made ahead meanwhile is used up
                images, targets = next(batches)
            assert images.shape == (options.batch_size, 3, SIZE, SIZE)
            assert images.dtype == targets.dtype == torch.float32
            figures[name].append(speed(batches, count, options.batch_size))
            del batches
    report(photographs, figures, options)
    tell_difference(photographs)


def tell_difference(photographs: Photographs) -> None:
    """Print how far the pixels of reduced decoding are from those of full decoding, before they are normalised."""
    reduced, counts = 0, np.zeros(256, dtype=np.int64)
    for i in range(len(photographs)):
        (full, shape), (small, small_shape) = (crop(photographs, i, choice) for choice in (False, True))
        reduced += shape != small_shape
        counts += np.bincount((full.int() - small.int()).abs().flatten().numpy(), minlength=256)
    mean = counts @ np.arange(256) / counts.sum()
    most = np.flatnonzero(counts).max()
    near = np.searchsorted(counts.cumsum(), 0.99 * counts.sum())
    print(f"{reduced} of {len(photographs)} crops were decoded at a smaller scale; over all crops, values of ", end="")
    print(f"0 to 255 are {mean:.2f} off on average, 99 % of them by {near} or less, the worst by {most}")


def crop(photographs: Photographs, i: int, reduced: bool) -> tuple[Tensor, tuple[int, ...]]:
    """A picture's random resized crop, and the shape that it had before it was resized."""
    spec, draws = augmentation(reduced), Draws(0, range(i, i + 1))
    pixels = photographs.part(i, *first_part(spec, draws))
    return training_part(spec, pixels, draws), pixels.shape


def report(photographs: Photographs, figures: dict[str, list[float]], options: argparse.Namespace) -> None:
    size = statistics.mean(len(file) for file in photographs.files)
    print(f"{len(photographs):,} JPEG files of {options.width}x{options.height} pixels, ", end="")
    print(f"{size / 1000:.0f} kB on average; batches of {options.batch_size}, {options.workers} workers, ", end="")
    print(f"median of {options.rounds} alternating rounds; ", end="")
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, ", end="")
    print(f"torchvision {torchvision.__version__}, Pillow {Image.__version__}")
    medians = {name: statistics.median(values) for name, values in figures.items()}
    ours = medians["corestone"]
    print(f"{'pictures/s':<48}{'median':>10}{'least':>10}{'most':>10}{'corestone/it':>15}")
    for name, values in figures.items():
        print(f"{name:<48}{medians[name]:>10,.0f}{min(values):>10,.0f}{max(values):>10,.0f}", end="")
        print(f"{ours / medians[name]:>14.2f}x")


if __name__ == "__main__":
    main()
