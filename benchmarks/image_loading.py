"""Pictures per second from JPEG bytes to training batches: Corestone beside torchvision's transforms in a DataLoader.

All sides decode with Pillow, take a random resized crop to 224 pixels, flip half of the pictures, normalise, and give
float32 (B, 3, 224, 224) and class shares (B, 1000) in shuffled order, by the same number of workers: threads of one
process here, processes there (the usual `num_workers`). Two peers: torchvision's v2 steps on Pillow images, and the
same on tensors, which v2 recommends. The JPEG bytes lie in memory. Rounds of all sides alternate; medians and ratios of
one run are printed.

    python benchmarks/image_loading.py [--pictures 256] [--batch-size 64] [--workers 2] [--rounds 5]
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
from torchvision.transforms import v2

from corestone.data.images.augment_spec import Augmentation, HorizontalFlip, RandomResizedCrop
from corestone.data.images.loader import ImageLoader

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 224
Pair = tuple[Tensor, Tensor]


def photograph(number: int, height: int = 375, width: int = 500) -> bytes:
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

    def pixels(self, i: int) -> np.ndarray:
        return np.asarray(self.image(i))


class Transformed(Dataset):  # type: ignore[type-arg]
    """A map-style data set with torchvision's transform, as in its own examples."""

    def __init__(self, photographs: Photographs, transform: Callable[[Image.Image], Tensor]) -> None:
        self.photographs, self.transform = photographs, transform

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, i: int) -> Pair:
        target = torch.zeros(len(self.photographs.classes))
        target[int(self.photographs.labels[i])] = 1
        return self.transform(self.photographs.image(i)), target


def corestone(photographs: Photographs, batch_size: int, workers: int) -> Iterator[Pair]:
    spec = Augmentation(size=(SIZE, SIZE), steps=(RandomResizedCrop(), HorizontalFlip()), mean=MEAN, std=STD)
    with ImageLoader(photographs, spec, 0, batch_size, workers=workers, prefetch=2) as loader:
        step = 0
        while True:
            batch = loader.batch(step)
            assert batch.targets_BK is not None
            yield batch.images_BCHW, batch.targets_BK
            step += 1


def torchvision_loader(photographs: Photographs, batch_size: int, workers: int, tensors: bool) -> Iterator[Pair]:
    crop = [v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()]
    steps = [v2.PILToTensor(), *crop] if tensors else [*crop, v2.PILToTensor()]
    transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    loader = DataLoader(
        Transformed(photographs, transform),
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
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    photographs = Photographs([photograph(number) for number in range(options.pictures)])
    count = max(4, 2 * options.pictures // options.batch_size)
    common = (photographs, options.batch_size, options.workers)
    sides: dict[str, Callable[[], Iterator[Pair]]] = {
        "corestone": lambda: corestone(*common),
        "torchvision v2 on Pillow images, DataLoader": lambda: torchvision_loader(*common, tensors=False),
        "torchvision v2 on tensors, DataLoader": lambda: torchvision_loader(*common, tensors=True),
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


def report(photographs: Photographs, figures: dict[str, list[float]], options: argparse.Namespace) -> None:
    size = statistics.mean(len(file) for file in photographs.files)
    print(f"{len(photographs):,} JPEG files of 500x375 pixels, {size / 1000:.0f} kB on average; batches of ", end="")
    print(f"{options.batch_size}, {options.workers} workers, median of {options.rounds} alternating rounds; ", end="")
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
