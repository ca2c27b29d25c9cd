"""Score models that see pictures by the field's own protocols, on any pictures, beside floors on the same ones.

Shape letters: N pictures, D width of a picture's vector, E width of the space shared with texts, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from corestone.core.batch import ImageBatch
from corestone.core.errors import CheckpointError, DataError, SpecError
from corestone.core.metric import Metric
from corestone.core.paths import expanded
from corestone.data.cache import cache_dir
from corestone.data.images.loader import evaluation_batches
from corestone.data.images.named import parse_pictures
from corestone.data.images.pairs import HeldOutPairs
from corestone.data.images.picture_set import PictureSet, open_pictures, read_manifest
from corestone.data.images.prepared import prepare_images
from corestone.data.images.sources import describe
from corestone.data.images.spec import Images, ImageSource, Own, Pairs, PrepareImages
from corestone.evaluate.classification import (
    Answers,
    answers_of,
    answers_to,
    classification_metrics,
    confusion_matrix,
    joined,
    labelled,
)
from corestone.evaluate.picture_floors import chance, nearest_caption_floors, picture_floors
from corestone.evaluate.probes import choose_probe, class_vectors, fit_probe, neighbour_scores
from corestone.evaluate.spec import Captions, LinearProbe, Neighbours, PictureTask, Retrieval, ZeroShot
from corestone.evaluate.templates import PHOTO, class_names, read_class_names, read_prompts
from corestone.models.captioner import CaptionerModel
from corestone.models.two_tower import TwoTowerModel
from corestone.parallel.allocator import keep_freed_memory
from corestone.parallel.precision import Precision
from corestone.recipes.evaluate_pairs import captioned
from corestone.recipes.kept import about_checkpoint, keep
from corestone.recipes.load import is_run, open_run
from corestone.recipes.pairs import captioning, retrieval
from corestone.recipes.picture_model import PictureModel, load_picture_model
from corestone.recipes.results import plain_metric, show
from corestone.recipes.spec import Evaluation
from corestone.train.archive import PICTURES, locate

ROWS = 500
"""Pictures of which logits by vectors are made at a time."""
FEW_CLASSES = 20
"""Classes up to which the terminal shows the accuracy of each."""
CONFUSED_CLASSES = 100
"""Classes up to which it is kept how often each is taken for each other one."""


@dataclass(frozen=True)
class Sides:
    """The pictures of a task.

    Attributes:
        about: where they are from.
        scored: those that are scored, and `split`: which these are.
        train: those that may be learnt from; None where there are none besides.
    """

    about: str
    scored: PictureSet
    split: str
    train: PictureSet | None


@dataclass(frozen=True)
class Asked:
    """A model, pictures, and how many rows are computed at a time."""

    pictured: PictureModel
    sides: Sides
    batch_size: int

    @property
    def model(self) -> Any:
        return self.pictured.model

    def batches(self, side: PictureSet) -> Callable[[int], Iterator[ImageBatch]]:
        """A side in order, for a batch size."""
        return partial(evaluation_batches, side, self.pictured.augmentation)

    def vectors(self, side: PictureSet, of: Callable[[ImageBatch], Tensor]) -> tuple[Tensor, Tensor]:
        """What `of` gives of each picture of a side (N, D), float32, and its class (N,)."""
        found = list(labelled(self.model, self.batches(side), self.batch_size, of))
        if not found:
            raise DataError(f"{self.sides.about}: no picture of the {side.split} side has a class")
        return torch.cat([vectors for vectors, *_ in found]).float(), torch.cat([labels for _, labels, _ in found])

    def pairs(self, side: PictureSet) -> HeldOutPairs:
        """A side's pictures and captions in order."""
        pictured, tokenizer = self.pictured, self.pictured.tokenizer
        assert tokenizer is not None  # evaluate_pictures sees to it
        return HeldOutPairs(side, tokenizer, pictured.augmentation, pictured.context_length, pictured.seen.rows)


@dataclass(frozen=True)
class Found:
    """A task's outcome: the model's figures, what needs no model, the settings in words, and a classification's
    answers."""

    metrics: list[Metric]
    floors: list[Metric]
    settings: str = ""
    answers: Answers | None = None


def evaluate_pictures(
    path: Path,
    task: PictureTask,
    data: str | None = None,
    precision: Precision = "auto",
    batch_size: int | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Score the newest whole checkpoint of a run, or a checkpoint, on a task of pictures.

    Pictures go through the checkpoint's own steps of evaluation.

    Args:
        data: a picture source as the command line names it; None: the run's own.

    Returns:
        What was asked and of which checkpoint, the model's metrics and the floors'. It is kept in the folder of a run.

    Raises:
        SpecError: the model cannot do this. DataError: no or unusable pictures, captions, class names or templates.
    """
    keep_freed_memory()
    console = console or Console()
    if not (locate(path) / PICTURES).is_file():
        raise SpecError(f"--task {task.kind}: needs a model that sees pictures, and that of {path} reads text alone")
    pictured = load_picture_model(path, precision)
    _check_able(pictured, task)
    run = open_run(path) if is_run(path) else None
    sides = task_sides(pictured, task, data)
    asked = Asked(pictured, sides, batch_size or (run.evaluation if run else Evaluation()).batch_size)
    found = _score(asked, task)
    result: dict[str, Any] = {
        "task": task.kind,
        "variant": "; ".join(filter(None, [sides.split, found.settings])),
        "data": None if data is None else sides.about,
        "source": sides.about,
        "split": sides.split,
        **about_checkpoint(path),
        "precision": str(next(pictured.model.parameters()).dtype).removeprefix("torch."),
        "model": [plain_metric(metric) for metric in found.metrics],
        "floors": [plain_metric(metric) for metric in found.floors],
    }
    shown = found.metrics
    if found.answers is not None:
        result["classes"] = list(sides.scored.classes)
        if found.answers.classes <= CONFUSED_CLASSES:
            confused = confusion_matrix(found.answers.labels_N, found.answers.guesses_N, found.answers.classes)
            result["confusion"] = confused.tolist()
        if found.answers.classes > FEW_CLASSES:
            shown = [metric for metric in shown if not metric.name.startswith("accuracy of ")]
    show(console, result, shown, [], found.floors)
    conventions = dict.fromkeys(metric.convention for metric in found.metrics + found.floors if metric.convention)
    for convention in conventions:
        named = [metric.name for metric in found.metrics + found.floors if metric.convention == convention]
        more = f" and {len(named) - 1} more" if len(named) > 1 else ""
        console.print(f"{named[0]}{more}: {convention}", highlight=False, markup=False)
    keep(path, [result], console)
    return result


def _check_able(pictured: PictureModel, task: PictureTask) -> None:
    """SpecError where this kind of model cannot do what is asked."""
    if isinstance(task, Captions) and not isinstance(pictured.model, CaptionerModel):
        raise SpecError(
            f"--task captions: needs a model of kind captioner, and that of {pictured.path} is {pictured.kind}"
        )
    if not isinstance(task, ZeroShot | Retrieval | Captions):
        return
    if not isinstance(pictured.model, TwoTowerModel | CaptionerModel):
        raise SpecError(
            f"--task {task.kind}: needs a model that reads texts too (kind two_tower or captioner), and that of "
            f"{pictured.path} is {pictured.kind}; knn and linear_probe score its vectors"
        )
    if pictured.tokenizer is None:
        raise CheckpointError(f"{pictured.path}: holds no tokenizer, without which its model reads no text")


def task_sides(pictured: PictureModel, task: PictureTask, data: str | None) -> Sides:
    """The pictures to score, and those to learn from where the task learns.

    The test side is scored where there is one, else validation; of a source without either, everything, unless the
    task learns from training pictures.
    """
    learns = isinstance(task, Neighbours | LinearProbe)
    channels = pictured.augmentation.channels
    if data is not None:
        source: ImageSource = parse_pictures(data)
        if (
            isinstance(source, Own)
            and not learns
            and not {"validation_percent", "test_percent"} & source.model_fields_set
        ):
            source = source.model_copy(update={"validation_percent": 0.0})
        prepare = PrepareImages(channels=channels, deduplicate=False)  # a published side is scored whole
    else:
        if not is_run(pictured.path):
            raise CheckpointError(f"{pictured.path}: a checkpoint has no pictures of its own; name some with --data")
        own = open_run(pictured.path).data
        assert isinstance(own, Images | Pairs)  # its checkpoint says how it saw pictures
        source, prepare = own.source, own.prepare
    folder, about = prepare_images(source, cache_dir(), prepare), describe(source)
    known = read_manifest(folder)["splits"]
    name = next((side for side in ("test", "validation", *(() if learns else ("train",))) if side in known), None)
    if name is None or (learns and "train" not in known):
        wanted = "a train side and a test or validation side" if learns else "a side to score"
        raise DataError(f"{about}: has {', '.join(known)}, and {task.kind} needs {wanted}")
    scored = open_pictures(folder, name)
    if isinstance(task, Neighbours | LinearProbe | ZeroShot) and not scored.classes:
        cure = "name others with --data" if data is None else "give data with labels"
        raise DataError(f"{about}: its pictures have no classes, and {task.kind} needs them; {cure}")
    train = open_pictures(folder, "train") if "train" in known and name != "train" else None
    return Sides(about, scored, "all of it" if name == "train" else f"{name} side", train)


def _score(asked: Asked, task: PictureTask) -> Found:
    match task:
        case ZeroShot():
            return _zero_shot(asked, task)
        case Neighbours() | LinearProbe():
            return _by_features(asked, task)
        case Retrieval():
            own = asked.pairs(asked.sides.scored)
            return Found(list(retrieval(own, asked.batch_size).run(asked.model)), _caption_floors(asked, own))
        case Captions():
            own, pictured = asked.pairs(asked.sides.scored), asked.pictured
            assert pictured.tokenizer is not None  # evaluate_pictures sees to it
            score = captioning(own, pictured.tokenizer, asked.batch_size)
            return Found(list(score.run(asked.model)), _caption_floors(asked, own))


def _zero_shot(asked: Asked, task: ZeroShot) -> Found:
    """The class whose sentences are nearest to a picture, with the model's own scale as confidence."""
    classes, model = asked.sides.scored.classes, asked.model
    names = tuple(name.replace("_", " ") for name in classes)
    if task.class_names is not None:
        names = class_names(read_class_names(expanded(task.class_names), task.dataset), classes, task.class_names)
    prompts = [[PHOTO.replace("{c}", name)] for name in names]
    if task.templates is not None:
        prompts = read_prompts(expanded(task.templates), names, task.dataset)
    tokenizer, context = asked.pictured.tokenizer, asked.pictured.context_length
    assert tokenizer is not None  # evaluate_pictures sees to it
    ids = {text: tokenizer.encode(text) for texts in prompts for text in texts}
    cut = sum(len(tokens) > asked.pictured.longest_caption() for tokens in ids.values())

    def embed(texts: list[str]) -> Tensor:
        rows = [ids[text] for text in texts]
        parts = [rows[first : first + asked.batch_size] for first in range(0, len(rows), asked.batch_size)]
        return torch.cat([model.text(asked.pictured.captions(part)) for part in parts])

    with torch.inference_mode():
        vectors_KE = class_vectors(embed, prompts)
        scale = model.log_scale.exp()
    reading = f"{len(ids):,} sentences of {len(names):,} classes" + (
        f", {cut:,} cut to {context} tokens" if cut else ""
    )
    parts = labelled(
        model,
        asked.batches(asked.sides.scored),
        asked.batch_size,
        lambda batch: scale * model.image(batch).float() @ vectors_KE.T,
    )
    found = answers_to(parts)
    metrics = list(classification_metrics(found, classes, reading))
    floors = [chance("chance_accuracy", found.classes, len(found)), *_learnt_floors(asked)]
    files = [f"{key}={value}" for key, value in task.model_dump().items() if value is not None and key != "kind"]
    return Found(metrics, floors, ", ".join(files) or f"one sentence: {PHOTO}", found)


def _by_features(asked: Asked, task: Neighbours | LinearProbe) -> Found:
    """Classes by a picture's vector, of a model that stays as it is, with those of the training side."""
    of, train, classes = picture_vector(asked.model), asked.sides.train, asked.sides.scored.classes
    assert train is not None  # task_sides sees to it
    known_RD, known_R = asked.vectors(train, of)
    asked_ND, labels_N = asked.vectors(asked.sides.scored, of)
    if isinstance(task, Neighbours):
        said = f"{min(task.nearest, len(known_R)):,} nearest of {len(known_R):,} training pictures"
        settings = f"temperature {task.temperature:g}"
        logits_NK = neighbour_scores(asked_ND, known_RD, known_R, len(classes), task.nearest, task.temperature)
    else:
        if task.penalty is None:
            probe = choose_probe(known_RD, known_R, len(classes))
        else:
            probe = fit_probe(known_RD, known_R, len(classes), task.penalty)
        said, settings = f"{len(known_R):,} training pictures", f"penalty {probe.penalty:g}"
        settings += " chosen on a fifth of them" if task.penalty is None else ""
        logits_NK = probe(asked_ND)
    reading = f"{said}, {settings}, vectors of {known_RD.shape[1]:,} values"
    parts = zip(logits_NK.split(ROWS), labels_N.split(ROWS), range(0, len(labels_N), ROWS), strict=True)
    found = joined([answers_of(some_NK, own_N, first) for some_NK, own_N, first in parts])
    variant = f"{said.split(' of ')[0]}, {settings}"
    metrics = list(classification_metrics(found, classes, reading))
    if isinstance(task, Neighbours):  # a class without votes has no probability, and its pictures no finite nats
        metrics = [metric for metric in metrics if metric.name != "nats"]
    return Found(metrics, _learnt_floors(asked), variant, found)


def picture_vector(model: Any) -> Callable[[ImageBatch], Tensor]:
    """What makes a picture's vector (B, D): what stands in front of a classifier's head, or of the projection to the
    space shared with texts (Radford et al. 2021, appendix A.3)."""
    if isinstance(model, TwoTowerModel | CaptionerModel):
        return model.image_features
    return lambda batch: model(batch).hidden


def _learnt_floors(asked: Asked) -> list[Metric]:
    """What the training side teaches without a model; nothing where there is none."""
    if asked.sides.train is None:
        return []
    sides = (asked.batches(side)(asked.batch_size) for side in (asked.sides.train, asked.sides.scored))
    return picture_floors(*sides)


def _caption_floors(asked: Asked, own: HeldOutPairs) -> list[Metric]:
    train, n = asked.sides.train, own.count
    if train is None:
        return [chance("recall_at_1_by_chance", n, n)]
    writes = isinstance(asked.model, CaptionerModel)
    known, held_out = (captioned(pairs, asked.batch_size) for pairs in (asked.pairs(train), own))
    return nearest_caption_floors(known, held_out, writes)
