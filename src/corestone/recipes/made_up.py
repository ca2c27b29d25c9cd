"""Batches of a loader's form, made up, for plans and probes of runs whose data is not opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from corestone.core.batch import ImageBatch, ImageTextBatch
from corestone.core.errors import SpecError
from corestone.core.units import Duration
from corestone.core.vocabulary import Vocabulary
from corestone.data.images.caption_rows import caption_batch, caption_rows
from corestone.data.images.spec import Images, Pairs
from corestone.data.packing import pack
from corestone.data.spec import Data
from corestone.plan.ending import Ending
from corestone.recipes.run_data import RunData
from corestone.recipes.spec import Run


@dataclass(frozen=True)
class Known:
    """What is known of a run's data: of all where it is prepared, of less where it is planned alone.

    Attributes:
        available: units of the training side; None: not known.
        row_tokens: tokens of a row.
        held_out: units that an evaluation while training sees; None: as many as the recipe allows.
        ending: what is done after training; None: as much is scored as while training, beside no floors.
    """

    vocabulary: Vocabulary | None
    available: float | None
    row_tokens: int
    held_out: float | None = None
    ending: Ending | None = None


def known_of(run: Run, data: RunData, objective: Any, epoch_units: int) -> Known:
    """Of prepared data, which is opened."""
    held_out, ending = data.held_out_units(run, objective), data.ending(run, objective)
    return Known(data.vocabulary, epoch_units, data.row_tokens(), held_out, ending)


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


def in_steps(length: Duration, rows: int, units: int, epoch: float | None) -> int:
    """A duration in steps."""
    if length.unit == "epochs" and epoch is None:
        raise SpecError(f"plan: {length} of data whose size is not known; say how much there is by --available N")
    return length.steps(batch_tokens=units, batch_examples=rows, epoch_tokens=int(epoch or 0))


def in_whole_steps(run: Run, epoch: float | None) -> Run:
    """The run with its own length and its schedule's in whole steps, which need no data to be known.

    Args:
        epoch: units of the training side; SpecError where that is None and a length is in epochs.
    """
    rows, units = step_size(run)

    def whole(length: Duration) -> Duration:
        return Duration(value=in_steps(length, rows, units, epoch), unit="steps")

    parts = {name: whole(part) for name, part in vars(run.schedule).items() if isinstance(part, Duration)}
    training = run.training.model_copy(update={"length": whole(run.training.length)})
    return run.model_copy(update={"training": training, "schedule": run.schedule.model_copy(update=parts)})


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
