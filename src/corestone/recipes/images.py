"""Runs on pictures: their data, opened, how they are scored, and how their model is read back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from corestone.core.batch import ImageBatch
from corestone.core.errors import SpecError
from corestone.core.protocols import Evaluator
from corestone.core.spec import plain
from corestone.core.vocabulary import Vocabulary
from corestone.data.cache import cache_dir
from corestone.data.images.augment_spec import Augmentation
from corestone.data.images.loader import ImageLoader, evaluation_batches
from corestone.data.images.picture_set import PictureSet
from corestone.data.images.prepared import open_pictures, prepare_images
from corestone.data.images.sources import card
from corestone.data.images.spec import Images, Pairs
from corestone.evaluate.objective import ObjectiveScore
from corestone.objectives.spec import Classification
from corestone.parallel.collectives import World
from corestone.plan.ending import Ending
from corestone.recipes.spec import Run
from corestone.train.archive import PICTURES

TIMED = 32
"""Pictures that are read to see how long one takes."""

IN_ORDER = "every picture once, without chance"


@dataclass(frozen=True)
class ImageData:
    """A run's prepared pictures. Satisfies `recipes.run_data.RunData`.

    Attributes:
        sides: by name: train and validation, and test where the source has one.
    """

    spec: Images
    folder: Path
    sides: dict[str, PictureSet]

    unit, more_is_better = "pictures", False

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Pictures have none."""
        return None

    def check(self, model: Any) -> None:
        """Refuse a model that reads pictures of another size, or names other classes."""
        check_pictures(model, self.spec.augmentation)
        classes = self.sides["train"].classes
        if model.classes != len(classes):
            raise SpecError(f"model: names {model.classes} classes and the data has {len(classes)}; set classes")

    def batch(self, run: Run) -> tuple[int, int]:
        """Pictures of one step over all ranks, twice: a picture is a row."""
        pictures = run.training.batch_examples or 0
        return pictures, pictures

    def row_tokens(self) -> int:
        """A picture has none."""
        return 1

    def loader(self, run: Run, rows: int, world: World) -> ImageLoader:
        """Batches of the training side."""
        return ImageLoader(
            self.sides["train"],
            self.spec.augmentation,
            run.seed,
            rows,
            rank=world.rank,
            world_size=world.size,
            workers=self.spec.workers,
            prefetch=self.spec.prefetch,
        )

    def files(self) -> dict[str, str]:
        """Class names, and how a picture becomes what the model sees."""
        told = {"classes": list(self.sides["train"].classes), "augmentation": plain(self.spec.augmentation)}
        return {PICTURES: json.dumps(told, indent=1, ensure_ascii=False) + "\n"}

    def described(self) -> list[dict[str, Any]]:
        """The cards of the source's parts, each with the set's manifest."""
        manifest = self.sides["train"].manifest
        return [{"card": one, "manifest": manifest} for one in card(self.spec.source)]

    def summary(self) -> str:
        """Pictures of each side, classes, size."""
        counts = ", ".join(f"{len(side):,} {name}" for name, side in self.sides.items())
        size = picture_size(self.spec.augmentation)
        return f"{counts} pictures, {len(self.sides['train'].classes)} classes, {size}"

    def held_out(self, run: Run, objective: Any) -> Evaluator:
        """The beginning of the validation side, by which checkpoints are chosen; never the test side."""
        return self.scorer(run, objective, "validation", run.evaluation.pictures_while_training)

    def scorer(self, run: Run, objective: Any, side: str, pictures: int | None = None) -> Evaluator:
        """The objective's own figures on a side, or on its first pictures."""
        return ObjectiveScore(objective, self.batches(side), run.evaluation.batch_size, pictures, IN_ORDER)

    def batches(self, side: str) -> Callable[[int], Iterator[ImageBatch]]:
        """A side in order, for a batch size."""
        return partial(evaluation_batches, self.sides[side], self.spec.augmentation)

    def held_out_units(self, run: Run, objective: Any) -> int:
        """The first pictures of the validation side."""
        return min(len(self.sides["validation"]), run.evaluation.pictures_while_training)

    def ending(self, run: Run, objective: Any) -> Ending:
        """The test side, or the validation side where there is none, beside floors."""
        return read_at_the_end(self.sides, lambda side: self.batches(side)(TIMED))

    def samples(self, run: Run, model: Any) -> list[tuple[str, str]]:
        """A classifier writes nothing."""
        return []


def open_images(run: Run, world: World) -> ImageData:
    """Prepare what is not prepared yet (the main rank does) and open it."""
    spec = run.data
    if not isinstance(spec, Images):
        raise SpecError(f"{run.name}: learns from {spec.kind}; what was asked needs a run on pictures")
    folder, sides = open_sides(spec, world)
    objective = run.objective
    if has_several(sides["train"]) and isinstance(objective, Classification) and objective.loss != "sigmoid":
        raise SpecError("objective.loss: pictures of the data have several classes at once; set objective.loss=sigmoid")
    return ImageData(spec, folder, sides)


def read_at_the_end(sides: Mapping[str, PictureSet], batches: Callable[[str], Iterator[ImageBatch]]) -> Ending:
    """The side that is scored is read for the scores, and with the training side for floors, which take about as long
    as reading does. How long that is, the first batch shows, read again: the first time, libraries are loaded."""
    side = "test" if "test" in sides else "validation"
    next(batches(side))
    begun = time.perf_counter()
    count = len(next(batches(side)))
    seconds = (time.perf_counter() - begun) / count
    asked = len(sides[side])
    return Ending(asked, seconds=seconds * (3 * asked + 2 * len(sides["train"])))


def has_several(pictures: PictureSet) -> bool:
    """Whether several classes may apply to a picture."""
    return pictures.labels.ndim == 2


def open_sides(spec: Images | Pairs, world: World) -> tuple[Path, dict[str, PictureSet]]:
    """A prepared set's folder and its sides; train and validation are there, or SpecError says so."""
    if world.is_main:
        folder = prepare_images(spec.source, cache_dir(), spec.prepare)
    world.barrier()
    if not world.is_main:
        folder = prepare_images(spec.source, cache_dir(), spec.prepare)
    found = json.loads((folder / "manifest.json").read_text("utf-8"))["splits"]
    for side in ("train", "validation"):
        if side not in found:
            raise SpecError(f"data.source: has no {side} side, and a run needs one (it has {', '.join(found)})")
    return folder, {side: open_pictures(folder, side) for side in ("train", "validation", "test") if side in found}


def check_pictures(model: Any, seen: Augmentation) -> None:
    """SpecError for a model that reads pictures of another size."""
    if model.image_size != seen.size or model.channels != seen.channels:
        wanted = _shape((*model.image_size, model.channels))
        raise SpecError(
            f"data.augmentation: gives pictures of {picture_size(seen)} and the model reads {wanted}; make size and "
            "channels agree with the model's image_size and channels"
        )


def picture_size(seen: Augmentation) -> str:
    """Height, width and channels of what the model sees."""
    return _shape((*seen.size, seen.channels))


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
