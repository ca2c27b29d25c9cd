"""A run's data, made up, from which a probe trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corestone.core.metric import Metric
from corestone.core.protocols import Objective
from corestone.core.rng import Draws
from corestone.core.vocabulary import Vocabulary
from corestone.data.images.augment_spec import Augmentation
from corestone.data.images.loader import ImageLoader
from corestone.data.images.picture import Choose, Pixels, Size, cut
from corestone.data.images.spec import Images, Pairs
from corestone.data.spec import Data
from corestone.generate.decode import caption, generate
from corestone.generate.spec import Sampling
from corestone.nn.modes import evaluation_mode
from corestone.parallel.collectives import World
from corestone.plan.ending import Ending
from corestone.recipes.made_up import Known, made_up, step_size
from corestone.recipes.pairs import SAMPLED
from corestone.recipes.run_data import EpochLoader
from corestone.recipes.spec import Run


def made_up_data(run: Run, known: Known, model: Any) -> MadeUpData:
    """The data of a run, of which no file is read."""
    return MadeUpData(run, known, model, "tokens" if isinstance(run.data, Data) else "pictures")


PROMPT_TOKENS = 8


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

    def ending(self, run: Run, objective: Any) -> Ending:
        """As while training."""
        return Ending(self.held_out_units(run, objective))

    def captions(self, run: Run, model: Any, count: int) -> list[list[int]]:
        """What a captioner writes of so many pictures, as long as captions may be."""
        assert self.known.vocabulary is not None  # captions are of tokens
        pictures = made_up(run, self.known, self.model, count).images
        sampling = Sampling(temperature=0.0, max_tokens=self.known.row_tokens - 1)
        return caption(model, self.known.vocabulary, pictures, sampling)

    def samples(self, run: Run, model: Any) -> Sequence[tuple[str, str]]:
        """What the model of a text makes of as many prompts as the recipe has, and a captioner of as many pictures as a
        sample shows."""
        prompts, vocabulary = run.samples.prompts, self.known.vocabulary
        if model.generates == "captions":
            return [(str(place), str(ids)) for place, ids in enumerate(self.captions(run, model, SAMPLED))]
        if not prompts or vocabulary is None or model.generates not in ("continuations", "answers"):
            return []
        begun = list(range(vocabulary.size // 4, vocabulary.size // 4 + PROMPT_TOKENS))
        written = generate(model, vocabulary, [begun] * len(prompts), run.samples.sampling)
        return [(prompt, " ".join(map(str, ids))) for prompt, ids in zip(prompts, written, strict=True)]


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
