"""Pictures with lists of classes, from the table to the evaluation, on real digits: two of them in each picture."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from corestone.core.errors import DataError, SpecError
from corestone.core.spec import override
from corestone.core.units import duration
from corestone.data.document import Counts
from corestone.data.images.augment_spec import Augmentation, Mixup
from corestone.data.images.loader import ImageLoader, evaluation_batches
from corestone.data.images.prepared import open_pictures, prepare_images
from corestone.data.images.sources import pictures
from corestone.data.images.spec import EmbeddedImages, Images, ImageTable, PrepareImages, Together, WebDataset
from corestone.models.picture_spec import ClassHead
from corestone.objectives.spec import Classification
from corestone.optim.spec import AdamW, Cosine
from corestone.recipes.pretrain import pretrain
from corestone.recipes.spec import Run
from corestone.train.spec import Rhythm, Training
from corestone.zoo.vit import vit

QUIET = Console(quiet=True)
GREY = PrepareImages(channels=1, deduplicate=False)
SEEN = Augmentation(size=(8, 16), channels=1, mean=(0.5,), std=(0.5,))


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of the table's sides, next to one another; one picture in ten shows none. A table for each side."""
    folder, generator = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    sides: dict[str, list[tuple[np.ndarray, str]]] = {"train": [], "validation": [], "test": []}
    for digit in pictures(EmbeddedImages(name="digits"), "stop", Counts()):
        assert isinstance(digit.content, np.ndarray)
        sides[digit.split].append((digit.content[:, :, 0], str(digit.label)))
    for side, digits in sides.items():
        lines = []
        for number in range({"train": 3000, "validation": 200, "test": 400}[side]):
            chosen = [digits[place] for place in generator.integers(0, len(digits), 2)]
            empty = number % 10 == 9
            shown = np.hstack([pixels for pixels, _ in chosen])
            shown = generator.integers(0, 90, shown.shape).astype(np.uint8) if empty else shown
            (folder / f"{side}-{number}.png").write_bytes(png(shown))
            labels = [] if empty else [label for _, label in chosen]
            lines.append(json.dumps({"image": f"{side}-{number}.png", "labels": labels}))
        (folder / f"{side}.jsonl").write_text("\n".join(lines))
    return folder


def side_of(folder: Path, side: str) -> ImageTable:
    return ImageTable(paths=(str(folder / f"{side}.jsonl"),), label_key="labels", label_list=True, side=side)


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    model = vit(64, 2, 4, 4, image_size=(8, 16), head=ClassHead(classes=10))
    return Run(
        name="two-digits",
        model=model.model_copy(update={"embedding": model.embedding.model_copy(update={"channels": 1})}),
        objective=Classification(loss="sigmoid"),
        data=Images(
            source=Together(parts=tuple(side_of(folder, side) for side in ("train", "validation", "test"))),
            prepare=GREY,
            augmentation=SEEN,
        ),
        optimiser=AdamW(learning_rate=2e-3, beta2=0.999, weight_decay=0.05),
        schedule=Cosine(warmup=duration("20 steps"), final=0.05),
        training=Training(length=duration("300 steps"), batch_examples=64, precision="float32"),
        rhythm=Rhythm(evaluate=duration("300 steps"), sample=None, checkpoint=duration("300 steps")),
    )


def test_a_classifier_of_several_digits_beats_ridge_regression(run: Run, tmp_path: Path) -> None:
    """Half a minute on a free core. Seen: 0.974, where ridge regression has 0.923 and chance 0.173 (n = 400)."""
    pretrain(run, tmp_path / "run", console=QUIET)
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    values = {metric["name"]: metric for part in ("model", "floors") for metric in found[part]}
    print({name: round(metric["value"], 4) for name, metric in values.items()})
    model = values["mean_average_precision"]
    assert found["split"] == "test"
    assert model["n"] == 400
    assert model["convention"].startswith("mean over 10 of 10 classes")
    assert {f"average precision of {digit}" for digit in range(10)} <= values.keys()
    assert model["interval"][0] > values["mean_average_precision_of_pixel_ridge"]["interval"][1]
    assert (
        values["mean_average_precision_of_pixel_ridge"]["value"] > values["mean_average_precision_by_chance"]["value"]
    )
    assert (tmp_path / "run" / "report.html").is_file()


def test_softmax_over_lists_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"set objective\.loss=sigmoid"):
        pretrain(override(run, ["objective.loss=softmax"]), tmp_path / "run", console=QUIET)


def test_targets_are_the_lists(folder: Path, tmp_path: Path) -> None:
    prepared = open_pictures(prepare_images(side_of(folder, "test"), tmp_path, GREY), "test")
    wanted = [json.loads(line)["labels"] for line in (folder / "test.jsonl").read_text().splitlines()]
    assert prepared.classes == tuple(str(digit) for digit in range(10))
    assert prepared.labels.shape == (len(prepared), 2)
    targets = [row for batch in evaluation_batches(prepared, SEEN, 64) for row in batch.targets_BK]
    assert len(targets) == len(wanted) == 400
    for row, labels in zip(targets, wanted, strict=True):
        assert row.tolist() == [float(str(digit) in labels) for digit in range(10)]
    mixed = ImageLoader(prepared, SEEN.model_copy(update={"mix": (Mixup(),)}), 0, 8).batch(0)
    assert mixed.targets_BK is not None
    assert 0 < mixed.targets_BK.max() <= 1
    assert prepared.manifest["splits"]["test"]["labelled"] == 360


def test_lists_in_text_and_in_shards(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(np.full((8, 8), 80 * number, np.uint8)))
    (tmp_path / "t.csv").write_text("image,tags\n0.png,sea; sky\n1.png,\n2.png,sky;sky\n")
    table = ImageTable(
        paths=(str(tmp_path / "t.csv"),), label_key="tags", label_list=True, label_separator=";", side="train"
    )
    assert [picture.label for picture in pictures(table, "stop", Counts())] == [("sea", "sky"), (), ("sky",)]
    members = {"0.json": b'{"label": ["sky", 7]}', "1.json": b'{"label": []}', "2.cls": b"sea\nsky\n"}
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for number in range(3):
            members[f"{number}.png"] = (tmp_path / f"{number}.png").read_bytes()
        for name, data in sorted(members.items()):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    shards = WebDataset(shards=(str(tmp_path / "s.tar"),), label_list=True, side="train")
    assert [picture.label for picture in pictures(shards, "stop", Counts())] == [("7", "sky"), (), ("sea", "sky")]
    one_each = shards.model_copy(update={"label_list": False})
    counts = Counts()
    assert len(list(pictures(one_each, "skip", counts))) == 1
    assert counts.dropped == {"unreadable text beside the picture": 2}
    both = Together(parts=(table, table.model_copy(update={"label_key": "image", "label_list": False})))
    with pytest.raises(DataError, match=r"a class, and .*: a list of classes; give all of them lists"):
        prepare_images(both, tmp_path / "cache", PrepareImages(deduplicate=False))
    unknown = Together(parts=(table, table.model_copy(update={"label_key": None, "label_list": False})))
    with pytest.raises(DataError, match=r"no class, and .*: a list of classes"):
        prepare_images(unknown, tmp_path / "cache", PrepareImages(deduplicate=False))


def test_rows_without_a_list_are_refused(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(np.zeros((8, 8), np.uint8)))
    for value in (None, 3, {"a": 1}, [1.5], ["a", None]):
        (tmp_path / "t.jsonl").write_text(json.dumps({"image": "0.png", "tags": value}))
        source = ImageTable(paths=(str(tmp_path / "t.jsonl"),), label_key="tags", label_list=True)
        with pytest.raises(DataError, match=r"row 1: 'tags' is .*, where a list of classes belongs"):
            list(pictures(source, "stop", Counts()))
