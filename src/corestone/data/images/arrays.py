"""Readers of the classic binary sets: MNIST's idx files, CIFAR-10 and STL-10. Pictures are pixels.

Shape letters: N pictures, H height, W width, C channels.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from corestone.core.errors import DataError
from corestone.core.paths import expanded
from corestone.data.document import Problem
from corestone.data.files import missing
from corestone.data.images.picture import Picture, pixels_sha256, side_of_three
from corestone.data.images.spec import Cifar10, Idx, Own, Stl10

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_CIFAR_ROW = 1 + 3 * 32 * 32
_STL_PICTURE = 3 * 96 * 96
_AT_ONCE = 1000
_MAX_IDX_BYTES = 1 << 33


def own_side(source: Own, group: str) -> str:
    """The side of a group of own pictures."""
    return source.side or side_of_three(group, source.validation_percent, source.test_percent)


# -- idx ----------------------------------------------------------------------------------------------------------


def read_idx(source: Idx) -> Iterator[Picture | Problem]:
    """One picture per place of the first axis; ids are `file:0` on, the group is the picture itself."""
    path = expanded(source.images)
    try:
        pixels = _idx(path)
        labels = None if source.labels is None else _idx(expanded(source.labels))
        if pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3)):
            raise DataError(f"{path}: holds {pixels.shape}, where pictures (N, H, W) or (N, H, W, 1 or 3) belong")
        if labels is not None and labels.shape != pixels.shape[:1]:
            raise DataError(f"{source.labels}: holds {labels.shape} labels for the {len(pixels)} pictures of {path}")
    except DataError as error:
        yield Problem("unreadable idx file", str(error))
        return
    for row, one in enumerate(pixels.reshape(*pixels.shape[:3], -1)):
        label = None if labels is None else str(int(labels[row]))
        yield Picture(f"{path.name}:{row}", one, own_side(source, pixels_sha256(one)), str(path), label)


def _idx(path: Path) -> NDArray[np.uint8]:
    """The array of an idx file: two zeros, type 8 (unsigned byte), number of axes, their lengths (big-endian)."""
    data = _whole(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != 8:
        raise DataError(f"{path}: not an idx file of unsigned bytes (it begins with {data[:4].hex(' ') or 'nothing'})")
    axes = data[3]
    lengths = data[4 : 4 + 4 * axes]
    shape = tuple(int(n) for n in np.frombuffer(lengths, ">u4", count=len(lengths) // 4))
    wanted = 4 + 4 * axes + math.prod(shape)
    if len(data) != wanted:
        raise DataError(f"{path}: {len(data):,} bytes, its head says {wanted:,}; fetch it again")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _whole(path: Path) -> bytes:
    """The bytes of a file, plain or gzip."""
    if not path.exists():
        raise DataError(missing(path))
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            return bytes(stream.read(_MAX_IDX_BYTES))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); fetch it again") from None


# -- CIFAR-10 -----------------------------------------------------------------------------------------------------


def read_cifar10(source: Cifar10) -> Iterator[Picture | Problem]:
    """Each row is a class and 32 x 32 values of red, green and blue; ids are `file:0` on, the group is the picture."""
    folder = expanded(source.path)
    if not folder.is_dir():
        raise DataError(missing(folder))
    names = _names(folder / "batches.meta.txt", CIFAR10_CLASSES)
    files = sorted(folder.glob("data_batch_*.bin")) + sorted(folder.glob("test_batch.bin"))
    if not files:
        pickles = (folder / "data_batch_1").exists() or (folder / "test_batch").exists()
        what = "the Python version of CIFAR-10, whose files are pickles, which can run any program and are never loaded"
        found = what if pickles else "no data_batch_*.bin and no test_batch.bin"
        raise DataError(f"{folder}: {found}; fetch the binary version (cifar-10-binary.tar.gz) and unpack it")
    for path in files:
        fixed = "test" if path.name == "test_batch.bin" else None
        for row, data in _rows(path, _CIFAR_ROW):
            if isinstance(data, Problem):
                yield data
            elif data[0] >= len(names):
                where = f"{path}, picture {row}"
                yield Problem("class out of range", f"{where}: class {data[0]} of {len(names)}; fetch the file again")
            else:
                pixels = np.ascontiguousarray(data[1:].reshape(3, 32, 32).transpose(1, 2, 0))
                side = source.side or fixed or own_side(source, pixels_sha256(pixels))
                yield Picture(f"{path.name}:{row}", pixels, side, str(path), names[data[0]])


# -- STL-10 -------------------------------------------------------------------------------------------------------


def read_stl10(source: Stl10) -> Iterator[Picture | Problem]:
    """Pictures are columns: 96 x 96 values of red, green and blue, each column by column (Coates et al. 2011)."""
    folder = expanded(source.path)
    if not folder.is_dir():
        raise DataError(missing(folder))
    names = _names(folder / "class_names.txt", STL10_CLASSES)
    found = False
    for part, fixed in (("train", None), ("test", "test"), ("unlabeled", "unlabelled")):
        path = folder / f"{part}_X.bin"
        if path.exists():
            found = True
            yield from _stl10_part(source, path, names, fixed)
    if not found:
        raise DataError(f"{folder}: none of train_X.bin, test_X.bin, unlabeled_X.bin; fetch stl10_binary.tar.gz")


def _stl10_part(source: Stl10, path: Path, names: tuple[str, ...], fixed: str | None) -> Iterator[Picture | Problem]:
    labels = None
    if fixed != "unlabelled":
        labels_path = path.with_name(path.name.replace("_X", "_y"))
        labels = _whole(labels_path)
        if len(labels) != path.stat().st_size // _STL_PICTURE:
            pictures = path.stat().st_size // _STL_PICTURE
            message = f"{labels_path}: {len(labels):,} labels for {pictures:,} pictures; fetch both again"
            yield Problem("labels do not match", message)
            return
    for row, data in _rows(path, _STL_PICTURE):
        if isinstance(data, Problem):
            yield data
            continue
        if labels is not None and not 1 <= labels[row] <= len(names):
            where = f"{path}, picture {row}"
            yield Problem("class out of range", f"{where}: class {labels[row]} of 1 to {len(names)}; fetch it again")
            continue
        pixels = np.ascontiguousarray(data.reshape(3, 96, 96).transpose(2, 1, 0))
        side = source.side or fixed or own_side(source, pixels_sha256(pixels))
        label = None if labels is None else names[labels[row] - 1]
        yield Picture(f"{path.name}:{row}", pixels, side, str(path), label)


def _rows(path: Path, size: int) -> Iterator[tuple[int, NDArray[np.uint8] | Problem]]:
    """Rows of equal length, some at a time; a rest is a problem."""
    row = 0
    with path.open("rb") as stream:
        while data := stream.read(size * _AT_ONCE):
            whole = len(data) // size
            for one in np.frombuffer(data[: whole * size], np.uint8).reshape(whole, size):
                yield row, one
                row += 1
            if len(data) % size:
                message = f"{path}, after picture {row}: {len(data) % size} bytes left, a picture has {size}; cut short"
                yield row, Problem("truncated file", f"{message}: fetch it again")
    if not row:
        yield 0, Problem("empty file", f"{path}: no picture in it; fetch it again")


def _names(path: Path, known: tuple[str, ...]) -> tuple[str, ...]:
    """The class names of a set: those of its own file where it is there."""
    if not path.exists():
        return known
    return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
