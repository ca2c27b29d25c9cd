"""Filtering pairs by a model: wrong captions go, every drop is counted, a killed run scores nothing twice."""

from __future__ import annotations

import json
import os
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from corestone.core.errors import CheckpointError, DataError
from corestone.core.spec import read_yaml
from corestone.core.units import duration
from corestone.data.document import Counts
from corestone.data.images.augment_spec import Augmentation, RandomResizedCrop
from corestone.data.images.pair_shards import PairShards, source_of
from corestone.data.images.picture import Label, Picture
from corestone.data.images.sources import pictures
from corestone.data.images.spec import (
    FilterPairs,
    ImageTable,
    Pairs,
    Together,
)
from corestone.data.spec import Bytes
from corestone.models.picture_spec import ImageEncoder, TextTower, TwoTower
from corestone.nn.spec import Norm, PatchEmbedding, TokenEmbedding
from corestone.objectives.spec import Contrastive
from corestone.optim.spec import AdamW, Constant
from corestone.recipes.filter_pairs import filter_pairs
from corestone.recipes.pretrain import pretrain
from corestone.recipes.spec import Run
from corestone.train.spec import Rhythm, Training
from corestone.zoo.clip import stack

QUIET = Console(quiet=True)
COLOURS = {"red": (210, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "yellow": (220, 210, 20)}
NAMES = list(COLOURS)
PLACES = {"top": (0, 16), "bottom": (16, 0)}
RULES = FilterPairs(similarity=0.5, characters=5, file_bytes=300, near=3)


def drawing(number: int) -> np.ndarray:
    """Grain over a colour, and a white bar of its own at the top or at the bottom."""
    generator = np.random.default_rng(number)
    grain = generator.integers(-60, 60, (8, 8, 1)).repeat(4, 0).repeat(4, 1)
    pixels = np.array(COLOURS[NAMES[number % 4]]) + grain
    start = 16 * (number // 4 % 2)
    pixels[start + 2 : start + 6 + number % 7, 3 + number % 5 : 20 + number % 11] = 255
    return pixels.clip(0, 255).astype(np.uint8)


def caption(number: int) -> str:
    return f"a {NAMES[number % 4]} card, bar at the {list(PLACES)[number // 4 % 2]}"


def png(pixels: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def table(folder: Path, numbers: range, captions: dict[int, object], name: str = "pairs") -> Path:
    lines = []
    for number in numbers:
        path = folder / f"{number}.png"
        if not path.exists():
            path.write_bytes(png(drawing(number)))
        lines.append(json.dumps({"path": path.name, "caption": captions.get(number, caption(number))}))
    (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder / f"{name}.jsonl"


def source(path: Path, **more: object) -> ImageTable:
    return ImageTable(paths=(str(path),), image_key="path", caption_key="caption", **more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two towers that saw 160 cards with right captions."""
    folder = tmp_path_factory.mktemp("cards")
    image = ImageEncoder(
        embedding=PatchEmbedding(image_size=(32, 32), patch_size=8, bias=False, norm=Norm()), stack=stack(64, 2)
    )
    text = TextTower(embedding=TokenEmbedding(vocab_size=320, context_length=40), stack=stack(64, 1))
    run = Run(
        name="cards",
        model=TwoTower(image=image, text=text, embed_dim=32),
        objective=Contrastive(),
        data=Pairs(
            source=source(table(folder, range(160), {}), validation_percent=10),
            augmentation=Augmentation(
                size=(32, 32), steps=(RandomResizedCrop(scale=(0.8, 1.0)),), mean=(0.5,) * 3, std=(0.25,) * 3
            ),
            tokenizer=Bytes(),
            context_length=40,
        ),
        optimiser=AdamW(learning_rate=2e-3),
        schedule=Constant(),
        training=Training(length=duration("90 steps"), batch_examples=32, precision="float32"),
        rhythm=Rhythm(evaluate=None, sample=None, checkpoint=duration("90 steps")),
    )
    pretrain(run, folder / "run", console=QUIET)
    return folder / "run"


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Cards that the model never saw, with every kind of what is to go; and how many of each."""
    folder = tmp_path_factory.mktemp("noisy")
    captions: dict[int, object] = {number: caption(number + 1) for number in range(200, 300, 3)}
    captions |= {301: "red", 302: [caption(302), caption(303), "hm"]}
    for copy, number in ((310, 201), (311, 202)):
        captions[copy] = caption(number)
        larger = Image.fromarray(drawing(number)).resize((64, 64), Image.Resampling.BICUBIC)
        larger.save(folder / f"{copy}.png")
    (folder / "303.png").write_bytes(png(drawing(303))[:-60])
    Image.new("RGB", (32, 32), COLOURS["red"]).save(folder / "304.png")
    path = table(folder, range(200, 312), captions)
    return path, {
        "similarity below 0.5": 34,
        "caption shorter than 5 characters": 1,
        "file smaller than 300 bytes": 1,
        "truncated image": 1,
        "near duplicate (at most 3 of 64 bits)": 2,
    }


def test_wrong_pairs_go_and_every_drop_is_counted(
    trained: Path, noisy: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    """Worst of right captions 0.83, best of wrong ones 0.18, on cards that the model never saw."""
    path, dropped = noisy
    manifest = filter_pairs(trained, source(path), RULES, tmp_path / "kept", "float32", console=QUIET)
    counts = manifest["counts"]
    assert counts["dropped"] == dropped
    assert counts["read"] == 112
    assert counts["kept"] == 112 - sum(dropped.values()) == sum(manifest["splits"].values())
    assert manifest["captions"] == {
        "read": 114,
        "too short": 2,
        "of small files": 1,
        "below the similarity": 35,
        "of near duplicates": 2,
        "kept": counts["kept"],
    }
    found = read_yaml(Together, tmp_path / "kept" / "source.yaml")
    numbers = Counts()
    back = {(picture.split, picture.content): picture.captions for picture in pictures(found, "stop", numbers)}
    assert len(back) == counts["kept"] == numbers.kept
    for picture in pictures(source(path), "skip", Counts()):
        captions = back.get((picture.split, picture.content))
        if captions is not None:
            number = int(Path(json.loads(path.read_text().splitlines()[int(picture.id[12:]) - 1])["path"]).stem)
            assert captions == (caption(number),)


@pytest.mark.parametrize("labels", [("red", None, "blue"), (("red", "square"), (), ("blue",))])
def test_shards_keep_the_classes(tmp_path: Path, labels: tuple[Label, ...]) -> None:
    shards = PairShards(tmp_path, 2**20)
    for number, label in enumerate(labels):
        shards.add(Picture(str(number), png(drawing(number)), "train", "cards", label, (caption(number),)), [1.0])
    shards.close()
    found = source_of(tmp_path, shards.shards, shards.several)
    assert [picture.label for picture in pictures(found, "stop", Counts())] == [*labels]


def test_what_was_stopped_scores_nothing_twice_and_ends_with_the_same_bytes(
    trained: Path, noisy: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    path, _ = noisy
    folder = tmp_path / "copy"
    shutil.copytree(path.parent, folder)
    rules = RULES.model_copy(update={"on_bad": "stop", "shard_bytes": 8192})
    (folder / "303.png").write_bytes(png(drawing(303)))
    hidden = (folder / "250.png").rename(folder / "hidden.png")
    made = (trained, source(folder / path.name), rules)
    with pytest.raises(DataError, match=r"row 51: .*250\.png"):
        filter_pairs(*made, tmp_path / "stopped", "float32", 16, QUIET)
    assert not (tmp_path / "stopped").exists()
    (scores,) = (tmp_path / "stopped.partial").glob("*.scores")
    os.truncate(scores, scores.stat().st_size - 5)  # as a kill leaves it
    hidden.rename(folder / "250.png")
    resumed = filter_pairs(*made, tmp_path / "stopped", "float32", 16, QUIET)
    direct = filter_pairs(*made, tmp_path / "direct", "float32", 16, QUIET)
    assert resumed["scored"]["before"] == 32  # of 48: the torn batch is scored again
    assert sum(resumed["scored"].values()) == direct["scored"]["now"]
    names = sorted(one.name for one in (tmp_path / "direct").glob("*.tar"))
    assert len(names) > 3
    assert names == sorted(one.name for one in (tmp_path / "stopped").glob("*.tar"))
    for name in names:
        assert (tmp_path / "direct" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    assert filter_pairs(*made, tmp_path / "direct", "float32", 16, QUIET) == direct  # found done
    with pytest.raises(DataError, match="made by another model, rules or input"):
        filter_pairs(trained, made[1], RULES, tmp_path / "direct", "float32", 16, QUIET)


def test_nothing_kept_and_other_models_are_refused(
    trained: Path, noisy: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    rules = RULES.model_copy(update={"similarity": 1.0})
    with pytest.raises(DataError, match=r"no picture is kept of 112 \(dropped: .* similarity below 1"):
        filter_pairs(trained, source(noisy[0]), rules, tmp_path / "none", "float32", console=QUIET)
    with pytest.raises(CheckpointError, match="no such folder"):
        filter_pairs(tmp_path / "nowhere", source(noisy[0]), RULES, tmp_path / "none", console=QUIET)
