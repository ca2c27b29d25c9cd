"""Batches of pictures as a pure function of (set, augmentation, seed, step, rank, world size).

There is no loader state, as with text: draw number step * batch_size + row says which picture a row of the global batch
holds, each epoch is a shuffle of the set, and a rank takes a run of consecutive rows. What chance decides about a row
is drawn from (seed, step, row), whoever makes it, so neither workers nor ranks change a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corestone.core.batch import ImageBatch
from corestone.core.errors import DataError
from corestone.core.rng import Draws, fold
from corestone.core.tensors import each_tensor
from corestone.data.ahead import Prefetched
from corestone.data.images.augment import colours, evaluation_picture, first_part, training_part
from corestone.data.images.augment_spec import Augmentation
from corestone.data.images.mix import mixed, partner
from corestone.data.images.picture import Choose, Pixels, Size
from corestone.data.mixture import Mixture


class Pictures(Protocol):
    """One side of a prepared set.

    Attributes:
        labels: int64 (N,), the number of each picture's class; or (N, most of a picture), the numbers of all that
            apply, filled up with -1.
        classes: their names; none where nothing is known, and batches have no targets then.
        fingerprint: of the content.
    """

    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int: ...

    def id(self, i: int) -> str: ...

    def pixels(self, i: int) -> Pixels:
        """(H, W, C); many threads may ask at once."""
        ...

    def part(self, i: int, choose: Choose, least: Size | None = None) -> Pixels:
        """The part of it that `choose` names by height and width, at a smaller scale where that keeps it as large as
        `least`."""
        ...


class ImageLoader:
    """Batches of augmented pictures.

    Args:
        pictures: the training side.
        spec: how pictures become rows.
        seed: names the order of the pictures and everything drawn about them.
        batch_size: pictures of one step over all ranks.
        rank, world_size: which part of each step's rows this process takes.
        workers: threads that decode and augment; 0: the thread that makes the batch.
        prefetch: batches made ahead by a background thread; 0: none.

    Raises:
        DataError: an empty set, labels outside the classes, or a batch size that the ranks cannot share or that
            cannot be mixed in pairs.

    Attributes:
        epoch_units: pictures of one pass over the set.
    """

    def __init__(
        self,
        pictures: Pictures,
        spec: Augmentation,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        prefetch: int = 0,
    ) -> None:
        _check(pictures)
        if batch_size < 1 or batch_size % world_size:
            raise DataError(
                f"a global batch of {batch_size} pictures cannot be shared evenly by {world_size} ranks; make it a "
                f"multiple of {world_size}"
            )
        if not 0 <= rank < world_size:
            raise DataError(f"rank {rank} lies outside 0..{world_size - 1} of a world of {world_size}")
        if spec.mix and batch_size % 2:
            raise DataError(f"a global batch of {batch_size} pictures cannot be mixed in pairs; make it even")
        self._pictures, self._spec, self._seed, self._batch_size = pictures, spec, seed, batch_size
        self._rows = range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self._partners = [partner(row) for row in self._rows] if spec.mix else []
        self._order = Mixture([len(pictures)], [1.0], seed)
        self._workers = workers
        self._pool: ThreadPoolExecutor | None = None
        self._ahead = Prefetched(self._make, prefetch)
        self.epoch_units = len(pictures)

    def batch(self, step: int) -> ImageBatch:
        """This rank's rows of a step (steps count from 0)."""
        return self._ahead.batch(step)

    def rows_of(self, step: int) -> tuple[range, list[int]]:
        """This rank's rows of a step, by their global numbers, and the picture of each."""
        return self._rows, self._indices(step, self._rows)

    def names(self, step: int) -> list[str]:
        """Ids of the pictures that a step sees, over all ranks, each once, in the order of the rows."""
        return list(dict.fromkeys(self._pictures.id(i) for i in self._indices(step, range(self._batch_size))))

    def close(self) -> None:
        """Stop the threads. The loader stays usable."""
        self._ahead.close()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def __enter__(self) -> ImageLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _indices(self, step: int, rows: Iterable[int]) -> list[int]:
        draws = step * self._batch_size + np.fromiter(rows, dtype=np.int64)
        indices: list[int] = self._order.samples(draws)[1].tolist()
        return indices

    def _make(self, step: int) -> ImageBatch:
        rows = sorted({*self._rows, *self._partners})
        indices = self._indices(step, rows)
        pixels_BCHW = torch.empty(len(rows), self._spec.channels, *self._spec.size, dtype=torch.uint8)
        seed = fold(self._seed, "augment", step)

        def fill(place: int) -> None:
            row, i = rows[place], indices[place]
            draws = Draws(seed, range(row, row + 1))
            pixels = self._pictures.part(i, *first_part(self._spec, draws))
            try:
                pixels_BCHW[place] = training_part(self._spec, pixels, draws)
            except DataError as error:
                raise _of_picture(self._pictures, i, error) from None

        for _ in self._map(fill, range(len(rows))):
            pass
        batch = ImageBatch(pixels_BCHW, _targets(self._pictures, indices), colours(self._spec))
        return self._mixed(batch, rows, step) if self._spec.mix else batch

    def _mixed(self, batch: ImageBatch, rows: list[int], step: int) -> ImageBatch:
        """This rank's rows of a batch of these rows, each mixed with its partner."""
        places = {row: place for place, row in enumerate(rows)}
        own, other = (_select(batch, [places[row] for row in chosen]) for chosen in (self._rows, self._partners))
        seed = fold(self._seed, "mix", step)
        return mixed(self._spec.mix, own, other, [Draws(seed, range(row, row + 1)) for row in self._rows])

    def _map(self, make: Callable[[int], None], places: range) -> Iterator[None]:
        if self._workers == 0:
            return map(make, places)
        if self._pool is None:
            # One core a picture: each worker takes the setting for itself, and threads that begin later inherit it.
            self._pool = ThreadPoolExecutor(self._workers, "corestone-pictures", torch.set_num_threads, (1,))
        return self._pool.map(make, places)


def evaluation_batches(pictures: Pictures, spec: Augmentation, batch_size: int) -> Iterator[ImageBatch]:
    """Every picture once, in the set's order and without chance; the last batch may be smaller.

    Raises DataError as ImageLoader does.
    """
    _check(pictures)
    for first in range(0, len(pictures), batch_size):
        indices = range(first, min(first + batch_size, len(pictures)))
        images = []
        for i in indices:
            pixels = pictures.pixels(i)
            try:
                images.append(evaluation_picture(spec, pixels))
            except DataError as error:
                raise _of_picture(pictures, i, error) from None
        yield ImageBatch(torch.stack(images), _targets(pictures, indices), colours(spec))


def _check(pictures: Pictures) -> None:
    if len(pictures) == 0:
        raise DataError("the picture set is empty; prepare it from a source that holds pictures")
    if pictures.classes:
        least = 0 if pictures.labels.ndim == 1 else -1
        outside = (pictures.labels < least) | (pictures.labels >= len(pictures.classes))
        wrong = np.flatnonzero(outside.reshape(len(pictures), -1).any(axis=1))
        if wrong.size:
            i = int(wrong[0])
            label = int(np.extract(outside[i], pictures.labels[i])[0])
            raise DataError(
                f"picture '{pictures.id(i)}': label {label} lies outside "
                f"0..{len(pictures.classes) - 1}, as for {wrong.size} pictures in all; prepare the set again"
            )


def _of_picture(pictures: Pictures, i: int, error: DataError) -> DataError:
    return DataError(f"picture '{pictures.id(i)}': {error}")


def _targets(pictures: Pictures, indices: Sequence[int]) -> Tensor | None:
    if not pictures.classes:
        return None
    labels = pictures.labels[list(indices)]
    rows, columns = np.nonzero(labels.reshape(len(indices), -1) >= 0)
    targets_BK = torch.zeros(len(indices), len(pictures.classes))
    targets_BK[torch.from_numpy(rows), torch.from_numpy(labels.reshape(len(indices), -1)[rows, columns])] = 1
    return targets_BK


def _select(batch: ImageBatch, places: list[int]) -> ImageBatch:
    return each_tensor(batch, lambda tensor: tensor[places])
