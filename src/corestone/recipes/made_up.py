"""A run's data, made up: batches of the loader's form, for plans and probes of runs whose data is not opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corestone.core.batch import ImageBatch, ImageTextBatch
from corestone.core.metric import Metric
from corestone.core.protocols import Objective
from corestone.core.rng import Draws
from corestone.core.vocabulary import Vocabulary
from corestone.data.images.augment_spec import Augmentation
from corestone.data.images.caption_rows import caption_batch, caption_rows
from corestone.data.images.loader import ImageLoader
from corestone.data.images.picture import Choose, Pixels, Size, cut
from corestone.data.images.spec import Images, Pairs
from corestone.data.packing import pack
from corestone.data.spec import Data
from corestone.nn.modes import evaluation_mode
from corestone.parallel.collectives import World
from corestone.recipes.run_data import EpochLoader
from corestone.recipes.spec import Run


@dataclass(frozen=True)
class Known:
    """What is known of a run's data: of all where it is prepared, of less where it is planned alone.

    Attributes:
        available: units of the training side; None: not known.
        row_tokens: tokens of a row.
        held_out: units that an evaluation while training sees; None: as many as the recipe allows.
    """

    vocabulary: Vocabulary | None
    available: float | None
    row_tokens: int
    held_out: float | None = None


def guessed(run: Run, available: float | None, model: Any) -> Known:
    """Of data that is not opened: an ordinary vocabulary of the model's size, rows as long as they may be."""
    if isinstance(run.data, Images):
        return Known(None, available, 1)
    size = int(model.vocab_size)
    marks = tuple(range(size - min(100, size // 4), size))
    starts = np.ones(size, dtype=np.bool_)
    made = Vocabulary(size, 0, 1, 2, 3, None, marks, (0, 1, 2, 3), starts)
    return Known(made, available, run.data.context_length)


def step_size(run: Run) -> tuple[int, int]:
    """Rows and units of a step over all ranks."""
    if isinstance(run.data, Data):
        tokens = run.training.batch_tokens or 0
        return max(1, tokens // run.data.context_length), tokens
    return run.training.batch_examples or 1, run.training.batch_examples or 1


def made_up(run: Run, known: Known, model: Any, rows: int) -> Any:
    """A batch of the loader's form: ordinary tokens in two documents a row, where documents are kept apart."""
    data = run.data
    if isinstance(data, Data):
        T = data.context_length
        inner = np.arange(rows) * T + T // 2 if data.keep_documents_apart else None
        return pack(_ids(known, rows, T + 1), inner)
    images = torch.zeros(rows, data.augmentation.channels, *data.augmentation.size)
    if isinstance(data, Pairs):
        assert known.vocabulary is not None  # captions are of tokens
        ids = _ids(known, rows, max(1, known.row_tokens - 2)).tolist()
        texts = caption_batch(ids, caption_rows(data.rows, known.vocabulary), data.context_length)
        return ImageTextBatch(ImageBatch(images), texts)
    targets = torch.zeros(rows, model.classes)
    targets[:, 0] = 1.0
    return ImageBatch(images, targets)


def _ids(known: Known, rows: int, columns: int) -> Any:
    assert known.vocabulary is not None
    half = max(1, known.vocabulary.size // 2)
    return (known.vocabulary.size // 4 + np.arange(rows * columns) % half).reshape(rows, columns)


def made_up_data(run: Run, known: Known, model: Any) -> MadeUpData:
    """The data of a run, of which no file is read."""
    return MadeUpData(run, known, model, "tokens" if isinstance(run.data, Data) else "pictures")


@dataclass
class MadeUpData:
    """Satisfies `recipes.run_data.RunData`.

    Args:
        model: as `recipes.plan.model_of` makes it, whose settings alone are read.
    """

    run: Run
    known: Known
    model: Any
    unit: str

    more_is_better = False

    @property
    def vocabulary(self) -> Vocabulary | None:
        """An ordinary one."""
        return self.known.vocabulary

    def check(self, model: Any) -> None:
        """Made for the model, it fits."""

    def batch(self, run: Run) -> tuple[int, int]:
        """Rows and units of a step over all ranks."""
        return step_size(run)

    def row_tokens(self) -> int:
        """Tokens of a row."""
        return self.known.row_tokens

    def loader(self, run: Run, rows: int, world: World) -> EpochLoader:
        """Of pictures the house's loader over made-up ones, which it augments; else one batch again and again."""
        data = run.data
        if isinstance(data, Images) and not isinstance(data, Pairs):
            pictures = _noise(data.augmentation, self.model.classes)
            return ImageLoader(
                pictures, data.augmentation, run.seed, rows, workers=data.workers, prefetch=data.prefetch
            )
        return _Again(made_up(run, self.known, self.model, rows // world.size), rows)

    def files(self) -> Mapping[str, str]:
        """Nothing travels."""
        return {}

    def described(self) -> list[dict[str, Any]]:
        """No set is described."""
        return []

    def summary(self) -> str:
        """That nothing here is real."""
        return f"made-up {self.unit}"

    def held_out(self, run: Run, objective: Objective) -> _Losses:
        """The objective's loss of as many rows as the recipe scores at a time."""
        return _Losses(made_up(run, self.known, self.model, run.evaluation.batch_size), objective)

    def held_out_units(self, run: Run, objective: Any) -> int:
        """Of the rows that `held_out` scores."""
        rows, units = step_size(run)
        return run.evaluation.batch_size * max(1, units // rows)

    def samples(self, run: Run, model: Any) -> Sequence[tuple[str, str]]:
        """No text is asked for."""
        return []


@dataclass(frozen=True)
class _Again:
    """A loader of one batch. Satisfies `recipes.run_data.EpochLoader`."""

    rows: Any
    epoch_units: int

    def batch(self, step: int) -> Any:
        return self.rows

    def names(self, step: int) -> list[str]:
        return ["made up"]

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class _Losses:
    """Satisfies `core.protocols.Evaluator`."""

    rows: Any
    objective: Objective

    def run(self, model: Any) -> Iterator[Metric]:
        """One figure of all rows."""
        with evaluation_mode(model), torch.inference_mode():
            asked = self.objective.corrupt(self.rows, Draws(0, range(len(self.rows))))
            loss = self.objective.loss(model, asked)
        yield Metric("loss", float(loss.total / loss.weight), "nats", int(loss.weight))


@dataclass
class _Noise:
    """Pictures of noise. Satisfies `data.images.loader.Pictures`."""

    picture: Pixels
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    fingerprint: str = "made up"

    def __len__(self) -> int:
        return len(self.labels)

    def id(self, i: int) -> str:
        return f"made up:{i}"

    def pixels(self, i: int) -> Pixels:
        return self.picture

    def part(self, i: int, choose: Choose, least: Size | None = None) -> Pixels:
        height, width, _ = self.picture.shape
        return cut(self.picture, choose((height, width)))


def _noise(spec: Augmentation, classes: int) -> _Noise:
    """A thousand pictures of the size that the model reads."""
    picture = np.random.default_rng(0).integers(0, 256, (*spec.size, spec.channels), dtype=np.uint8)
    return _Noise(picture, np.arange(1000) % classes, tuple(map(str, range(classes))))
