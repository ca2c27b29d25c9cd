"""Own pictures in every form, on files made here: what is given, on which side, and what damage says."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from corestone.core.errors import DataError, SpecError
from corestone.core.spec import from_yaml, parse, to_yaml
from corestone.data.document import Counts, side
from corestone.data.images.files import braces
from corestone.data.images.picture import Picture, side_of_three
from corestone.data.images.sources import card, describe, images_fingerprint, pictures
from corestone.data.images.spec import (
    Cifar10,
    CocoCaptions,
    EmbeddedImages,
    Idx,
    ImageFolder,
    ImageSource,
    ImageTable,
    Stl10,
    Together,
    WebDataset,
)


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def read(source: ImageSource, counts: Counts | None = None) -> list[Picture]:
    return list(pictures(source, "skip", counts if counts is not None else Counts()))


def refusal(source: ImageSource) -> str:
    """What the policy `stop` says: one line."""
    with pytest.raises(DataError) as caught:
        list(pictures(source, "stop", Counts()))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def dropped(source: ImageSource) -> dict[str, int]:
    counts = Counts()
    found = read(source, counts)
    assert counts.read == len(found) + sum(counts.dropped.values())
    return dict(counts.dropped)


# -- sides --------------------------------------------------------------------------------------------------------


@given(st.text(), st.floats(0, 50), st.floats(0, 50))
def test_validation_of_three_sides_is_that_of_two(group: str, validation: float, test: float) -> None:
    found = side_of_three(group, validation, test)
    assert (found == "validation") == (side(group, validation) == "validation")
    assert (found == "train") == (side(group, validation + test) == "train")


def test_shares_beyond_a_hundred_are_refused() -> None:
    with pytest.raises(SpecError, match="more than 100 together"):
        parse(ImageFolder, {"path": "x", "validation_percent": 60, "test_percent": 50}, "here")


def test_records_survive_yaml() -> None:
    part = WebDataset(shards=("a/{000..127}.tar",), side="validation")
    source = Together(parts=(ImageFolder(path="x"), part, EmbeddedImages(name="emoji", split="artist")))
    assert from_yaml(Together, to_yaml(source), "here") == source


# -- folders ------------------------------------------------------------------------------------------------------


def test_folder_of_class_folders(tmp_path: Path) -> None:
    names = ["cat/1.png", "cat/deep/2.PNG", "dog/3.png", "4.png"]
    for seed, name in enumerate(names):
        write(tmp_path / name, png(seed))
    write(tmp_path / "cat" / "notes.txt", "no picture")
    write(tmp_path / "cat" / ".hidden.png", b"")
    found = read(ImageFolder(path=str(tmp_path)))
    assert {p.id: p.label for p in found} == {
        "cat/1.png": "cat",
        "cat/deep/2.PNG": "cat",
        "dog/3.png": "dog",
        "4.png": None,
    }
    assert all(p.split == side(p.id, 5) for p in found)
    assert all(p.content == png(names.index(p.id)) for p in found)
    assert dropped(ImageFolder(path=str(tmp_path))) == {"file type not read (.txt)": 1}
    list(pictures(ImageFolder(path=str(tmp_path)), "stop", Counts()))  # which is no reason to stop


def test_folders_named_like_sides_are_the_sides(tmp_path: Path) -> None:
    for place, name in enumerate(["train/cat/1.png", "val/cat/2.png", "test/dog/3.png"]):
        write(tmp_path / name, png(place))
    found = {p.id: (p.split, p.label) for p in read(ImageFolder(path=str(tmp_path)))}
    assert found == {
        "train/cat/1.png": ("train", "cat"),
        "val/cat/2.png": ("validation", "cat"),
        "test/dog/3.png": ("test", "dog"),
    }
    assert {p.split for p in read(ImageFolder(path=str(tmp_path), side="unlabelled"))} == {"unlabelled"}


def test_order_does_not_depend_on_the_disk(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/9.png", "b/1.png", "a/10.png"):
        write(tmp_path / name, png(len(name)))
    assert [p.id for p in read(ImageFolder(path=str(tmp_path)))] == ["a/10.png", "a/9.png", "b/1.png", "b/2.png"]


def test_a_missing_folder_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    assert "did you mean" in refusal(ImageFolder(path=str(tmp_path / "picture")))
    assert "no picture could be read (nothing found)" in refusal(ImageFolder(path=str(tmp_path / "pictures")))


# -- idx ----------------------------------------------------------------------------------------------------------


def idx(values: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, values.ndim]) + b"".join(struct.pack(">I", n) for n in values.shape)
    return head + values.astype(np.uint8).tobytes()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(7, 4, 5), (7, 4, 5, 3)])
def test_idx_pair(tmp_path: Path, packed: bool, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    labels = np.arange(7, dtype=np.uint8)
    end = ".gz" if packed else ""
    squeeze = gzip.compress if packed else bytes
    write(tmp_path / f"images{end}", squeeze(idx(values)))
    write(tmp_path / f"labels{end}", squeeze(idx(labels)))
    source = Idx(images=str(tmp_path / f"images{end}"), labels=str(tmp_path / f"labels{end}"), side="test")
    found = read(source)
    assert [p.label for p in found] == [str(n) for n in range(7)]
    assert all(np.array_equal(p.content, v.reshape(4, 5, -1)) for p, v in zip(found, values, strict=True))
    assert {p.split for p in found} == {"test"}
    assert found[3].id == f"images{end}:3"


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (idx(np.zeros((3, 2, 2)))[:-1], idx(np.zeros(3)), "27 bytes, its head says 28"),
        (idx(np.zeros((3, 2, 2))) + b"\0", idx(np.zeros(3)), "29 bytes, its head says 28"),
        (idx(np.zeros((3, 2, 2))), idx(np.zeros(2)), r"\(2,\) labels for the 3 pictures"),
        (idx(np.zeros((3, 2))), idx(np.zeros(3)), r"holds \(3, 2\), where pictures"),
        (b"hello", idx(np.zeros(3)), "not an idx file"),
        (b"", idx(np.zeros(3)), "begins with nothing"),
        (b"\0\0\x08\x03\0\0", idx(np.zeros(3)), "its head says"),
    ],
)
def test_damaged_idx(tmp_path: Path, images: bytes, labels: bytes, words: str) -> None:
    source = Idx(images=str(write(tmp_path / "i", images)), labels=str(write(tmp_path / "l", labels)))
    with pytest.raises(DataError, match=words):
        list(pictures(source, "stop", Counts()))


def test_damaged_gzip(tmp_path: Path) -> None:
    data = gzip.compress(idx(np.zeros((3, 2, 2))))
    assert "cannot be read" in refusal(Idx(images=str(write(tmp_path / "i.gz", data[:-5]))))


# -- CIFAR-10 and STL-10 ------------------------------------------------------------------------------------------


def cifar(folder: Path, name: str, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    pixels, labels = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, n)
    rows = [bytes([label]) + one.transpose(2, 0, 1).tobytes() for one, label in zip(pixels, labels, strict=True)]
    write(folder / name, b"".join(rows))
    return pixels, labels


def test_cifar10(tmp_path: Path) -> None:
    first, labels = cifar(tmp_path, "data_batch_1.bin", 1001, 1)  # more than are read at once
    test, _ = cifar(tmp_path, "test_batch.bin", 3, 2)
    found = read(Cifar10(path=str(tmp_path)))
    assert np.array_equal([p.content for p in found], np.concatenate([first, test]))
    assert [p.split for p in found[-3:]] == ["test"] * 3
    assert {p.split for p in found[:-3]} == {"train", "validation"}
    assert found[1000].id == "data_batch_1.bin:1000"
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert [p.label for p in found[:1001]] == [names[label] for label in labels]


def test_cifar10_in_its_pickled_form_is_refused_with_the_cure(tmp_path: Path) -> None:
    write(tmp_path / "data_batch_1", b"\x80\x04.")
    message = refusal(Cifar10(path=str(tmp_path)))
    assert "pickles" in message
    assert "fetch the binary version (cifar-10-binary.tar.gz)" in message


def test_damaged_cifar10(tmp_path: Path) -> None:
    cifar(tmp_path, "data_batch_1.bin", 3, 1)
    path = tmp_path / "data_batch_1.bin"
    good = path.read_bytes()
    path.write_bytes(good[:-10])
    assert dropped(Cifar10(path=str(tmp_path))) == {"truncated file": 1}
    assert "after picture 2: 3063 bytes left" in refusal(Cifar10(path=str(tmp_path)))
    path.write_bytes(bytes([10]) + good[1:])
    assert "picture 0: class 10 of 10" in refusal(Cifar10(path=str(tmp_path)))
    path.write_bytes(b"")
    assert "no picture in it" in refusal(Cifar10(path=str(tmp_path)))


def stl(folder: Path, part: str, n: int, seed: int) -> np.ndarray:
    """Columns first, as the set's description has it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 96, 96, 3), dtype=np.uint8)
    planes = [one[:, :, channel].flatten(order="F").tobytes() for one in pixels for channel in range(3)]
    write(folder / f"{part}_X.bin", b"".join(planes))
    return pixels


def test_stl10(tmp_path: Path) -> None:
    parts = {part: stl(tmp_path, part, 3, seed) for seed, part in enumerate(("train", "test", "unlabeled"))}
    write(tmp_path / "train_y.bin", bytes([1, 8, 10]))
    write(tmp_path / "test_y.bin", bytes([2, 2, 2]))
    found = read(Stl10(path=str(tmp_path), validation_percent=0))
    assert np.array_equal([p.content for p in found], np.concatenate(list(parts.values())))
    assert [p.label for p in found] == ["airplane", "monkey", "truck", "bird", "bird", "bird", None, None, None]
    assert [p.split for p in found] == ["train"] * 3 + ["test"] * 3 + ["unlabelled"] * 3
    write(tmp_path / "train_y.bin", bytes([1, 8]))
    assert "2 labels for 3 pictures" in refusal(Stl10(path=str(tmp_path)))
    write(tmp_path / "train_y.bin", bytes([0, 8, 1]))
    assert "class 0 of 1 to 10" in refusal(Stl10(path=str(tmp_path)))


def test_folders_without_the_sets(tmp_path: Path) -> None:
    assert "fetch the binary version" in refusal(Cifar10(path=str(tmp_path)))
    assert "none of train_X.bin" in refusal(Stl10(path=str(tmp_path)))
    assert "no such file or folder" in refusal(Stl10(path=str(tmp_path / "none")))


# -- tables -------------------------------------------------------------------------------------------------------

ROWS: list[dict[str, Any]] = [
    {"image": "p/0.png", "label": "cat", "caption": "a cat, asleep"},
    {"image": "p/1.png", "label": "dog", "caption": 'a "good" dog'},
    {"image": "p/2.png", "label": "cat", "caption": "zwei Katzen – müde"},
]


def table(folder: Path, form: str, rows: Sequence[dict[str, Any]] = ROWS) -> Path:
    for seed in range(3):
        write(folder / f"p/{seed}.png", png(seed))
    path = folder / f"table.{form}"
    if form == "jsonl":
        return write(path, "".join(json.dumps(row) + "\n" for row in rows))
    if form == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
        return path
    if form == "tsv":
        lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
        return write(path, "\n".join(lines) + "\n")
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def named(path: Path, **more: Any) -> ImageTable:
    return ImageTable(paths=(str(path),), label_key="label", caption_key="caption", **more)


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_table_of_paths(tmp_path: Path, form: str) -> None:
    found = read(named(table(tmp_path, form)))
    assert [p.content for p in found] == [png(seed) for seed in range(3)]
    assert [p.label for p in found] == ["cat", "dog", "cat"]
    assert [p.captions for p in found] == [(row["caption"],) for row in ROWS]
    assert [p.id for p in found] == [f"table.{form}:{n}" for n in (1, 2, 3)]
    assert [p.split for p in found] == [side(row["image"], 5) for row in ROWS]


def test_paths_relative_to_a_root_and_rows_of_a_group(tmp_path: Path) -> None:
    rows = [{**row, "film": "one"} for row in ROWS]
    path = table(tmp_path / "elsewhere", "csv", rows)
    moved = path.rename(tmp_path / "table.csv")
    found = read(named(moved, root=str(tmp_path / "elsewhere"), group_key="film", validation_percent=50))
    assert len(found) == 3
    assert {p.split for p in found} == {side("one", 50)}


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_of_bytes(tmp_path: Path, nested: bool) -> None:
    values = [{"bytes": png(n), "path": f"{n}.png"} if nested else png(n) for n in range(3)]
    path = table(tmp_path, "parquet", [{"image": value, "label": n} for n, value in enumerate(values)])
    found = read(ImageTable(paths=(str(path),), label_key="label"))
    assert [p.content for p in found] == [png(n) for n in range(3)]
    assert [p.label for p in found] == ["0", "1", "2"]


def test_captions_and_base64_without_a_line_of_names(tmp_path: Path) -> None:
    lines = [f"caption {n}\t{base64.b64encode(png(n)).decode()}\n" for n in range(3)]
    path = write(tmp_path / "pairs.tsv", "".join(lines))
    source = ImageTable(paths=(str(path),), columns=("caption", "image"), encoding="base64", caption_key="caption")
    found = read(source)
    assert [p.content for p in found] == [png(n) for n in range(3)]
    assert [p.captions for p in found] == [(f"caption {n}",) for n in range(3)]
    write(path, lines[0] + "caption\t!!!\n")
    assert dropped(source) == {"invalid base64": 1}


def test_a_long_field_is_read_whole(tmp_path: Path) -> None:
    big = base64.b64encode(bytes(300_000)).decode()  # beyond the csv module's usual 128 KiB
    path = write(tmp_path / "t.csv", f"image\n{big}\n")
    assert len(read(ImageTable(paths=(str(path),), encoding="base64"))[0].content) == 300_000


def test_rows_of_one_picture_are_joined(tmp_path: Path) -> None:
    rows = [ROWS[0], {**ROWS[0], "caption": "again"}, ROWS[1], {**ROWS[1], "label": "wolf"}]
    found = read(named(table(tmp_path, "jsonl", rows)))
    assert [(p.label, p.captions) for p in found] == [
        ("cat", ("a cat, asleep", "again")),
        ("dog", ('a "good" dog',)),
        ("wolf", ('a "good" dog',)),
    ]
    lists = [{**row, "caption": [row["caption"], "more"]} for row in ROWS]
    assert read(named(table(tmp_path, "jsonl", lists)))[0].captions == ("a cat, asleep", "more")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": "p/9.png"}, "missing picture"),
        ({"image": ""}, "no picture"),
        ({"image": "a\0b"}, "no picture"),
        ({"image": 3}, "no picture"),
        ({"label": None}, "no class"),
        ({"label": [1]}, "no class"),
        ({"caption": " "}, "no caption"),
        ({"caption": ["a", 3]}, "no caption"),
    ],
)
def test_bad_rows_are_counted_and_named(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    source = named(table(tmp_path, "jsonl", [ROWS[0], {**ROWS[1], **change}, ROWS[2]]))
    assert dropped(source) == {reason: 1}
    assert "table.jsonl, row 2" in refusal(source)


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_a_misspelt_column_names_the_nearest(tmp_path: Path, form: str) -> None:
    source = ImageTable(paths=(str(table(tmp_path, form)),), label_key="labels")
    assert "unknown column 'labels': did you mean 'label'?" in refusal(source)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("t.csv", b"", "no row in it"),
        ("t.csv", b"image\n", "no row in it"),
        ("t.csv", b"image,label\na.png\n", "1 fields where 2 belong (image, label)"),
        ("t.csv", b'image\n"a', "not readable as UTF-8 text in fields"),
        ("t.csv", b"image\n\xff\n", "not readable as UTF-8"),
        ("t.jsonl", b"{\n", "row 1: not valid JSON"),
        ("t.jsonl", b"[1]\n", "a JSON object belongs here"),
        ("t.jsonl", b"", "no row in it"),
        ("t.parquet", b"PAR1", "Parquet data is damaged"),
        ("t.parquet", b"", "Parquet data is damaged"),
        ("t.xml", b"", "not a table that is read"),
    ],
)
def test_damaged_tables(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    assert words in refusal(ImageTable(paths=(str(write(tmp_path / name, data)),)))


def test_a_cut_parquet_file(tmp_path: Path) -> None:
    path = table(tmp_path, "parquet")
    path.write_bytes(path.read_bytes()[:-20])
    assert "Parquet data is damaged" in refusal(named(path))


def test_tables_by_pattern(tmp_path: Path) -> None:
    table(tmp_path, "csv")
    table(tmp_path, "jsonl")
    found = read(ImageTable(paths=(str(tmp_path / "table.*"),)))
    assert [p.id for p in found] == [f"table.{form}:{n}" for form in ("csv", "jsonl") for n in (1, 2, 3)]
    assert "no file matches" in refusal(ImageTable(paths=(str(tmp_path / "*.csvs"),)))


# -- COCO captions ------------------------------------------------------------------------------------------------


def coco(folder: Path, **changes: Any) -> CocoCaptions:
    for seed in range(2):
        write(folder / f"pictures/{seed}.png", png(seed))
    tree = {
        "images": [{"id": 10 + seed, "file_name": f"{seed}.png"} for seed in range(2)],
        "annotations": [
            {"id": 1, "image_id": 11, "caption": "second "},
            {"id": 2, "image_id": 10, "caption": "first"},
            {"id": 3, "image_id": 10, "caption": "first again"},
        ],
    }
    path = write(folder / "captions.json", json.dumps({**tree, **changes}))
    return CocoCaptions(annotations=str(path), images=str(folder / "pictures"))


def test_coco_captions(tmp_path: Path) -> None:
    found = read(coco(tmp_path))
    assert [(p.id, p.captions) for p in found] == [("0.png", ("first", "first again")), ("1.png", ("second",))]
    assert [p.content for p in found] == [png(0), png(1)]


def test_coco_with_gaps(tmp_path: Path) -> None:
    images = [{"id": 10, "file_name": "0.png"}, {"id": 7, "file_name": "1.png"}, {"id": 11}]
    images.append({"id": 11, "file_name": "9.png"})
    source = coco(tmp_path, images=images)
    assert dropped(source) == {"no caption": 1, "no file name": 1, "missing picture": 1}
    assert "image 2: has no file_name" in refusal(source)
    assert "annotation 0 has no image_id or no caption" in refusal(coco(tmp_path, annotations=[{"bbox": []}]))
    assert "has no lists 'images'" in refusal(coco(tmp_path, images=None))
    write(tmp_path / "captions.json", "{")
    assert "not readable as JSON" in refusal(CocoCaptions(annotations=str(tmp_path / "captions.json"), images="x"))


# -- webdataset ---------------------------------------------------------------------------------------------------


def shard(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_webdataset_shards(tmp_path: Path) -> None:
    for number in (0, 1):
        files = {f"d/{n}.png": png(n) for n in (0, 1)}
        files = {
            "d/0.cls": b"3",
            "d/0.png": png(0),
            "d/0.txt": b" a cat \n",
            "d/1.json": b'{"caption": "x", "label": 5}',
        }
        files["d/1.png"] = png(1)
        shard(tmp_path / f"s-{number:03d}.tar", files)
    found = read(WebDataset(shards=(str(tmp_path / "s-{000..001}.tar"),)))
    assert [p.id for p in found] == [f"s-{n:03d}.tar:d/{m}" for n in (0, 1) for m in (0, 1)]
    assert [(p.label, p.captions) for p in found[:2]] == [("3", ("a cat",)), ("5", ("x",))]
    assert [p.content for p in found] == [png(0), png(1)] * 2


def test_bad_samples_and_shards(tmp_path: Path) -> None:
    files = {"0.txt": b"no picture", "1.png": png(1), "1.jpg": png(1), "2.png": png(2), "2.json": b"{", "3.png": png(3)}
    files |= {"4.png": png(4), "4.txt": b"\xff"}
    path = shard(tmp_path / "s.tar", files)
    counts = Counts()
    source = WebDataset(shards=(str(path), str(tmp_path / "none.tar")))
    assert [p.id for p in read(source, counts)] == ["s.tar:3"]
    assert counts.dropped == {"not one picture": 2, "unreadable text beside the picture": 2, "missing shard": 1}


def test_a_cut_shard_gives_what_stands_before_the_cut(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", {f"{n}.png": png(n) for n in range(4)})
    whole = path.read_bytes()
    for length in (1100, 2048, 2049, 3072):
        path.write_bytes(whole[:length])
        counts = Counts()
        found = read(WebDataset(shards=(str(path),)), counts)
        assert counts.dropped == {"corrupt tar": 1}, length
        assert len(found) == length // 1024  # a member is a head and one block of data
        assert f"{path}: cut short" in refusal(WebDataset(shards=(str(path),)))


def test_brace_patterns() -> None:
    assert braces("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert braces("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    assert braces("{8..11}") == ["8", "9", "10", "11"]
    assert braces("plain.tar") == ["plain.tar"]
    for wrong in ("a{0..3", "a}b", "{{0..1}}"):
        with pytest.raises(DataError, match="do not close"):
            braces(wrong)
    with pytest.raises(DataError, match=r"runs backwards; write \{1\.\.3\}"):
        braces("{3..1}")


# -- all together -------------------------------------------------------------------------------------------------


def test_parts_keep_their_sides(tmp_path: Path) -> None:
    for seed, part in enumerate(("a", "b")):
        write(tmp_path / part / "cat" / "1.png", png(seed))
    source = Together(
        parts=(ImageFolder(path=str(tmp_path / "a"), side="train"), ImageFolder(path=str(tmp_path / "b"), side="test"))
    )
    assert [(p.split, p.content) for p in read(source)] == [("train", png(0)), ("test", png(1))]
    assert describe(source) == f"{tmp_path / 'a'} + {tmp_path / 'b'}"


def test_cards_say_what_is_known(tmp_path: Path) -> None:
    own = ImageFolder(path=str(tmp_path), side="train")
    cards = card(Together(parts=(EmbeddedImages(name="emoji", split="artist"), EmbeddedImages(name="mnist5k"), own)))
    assert [one["split"] for one in cards] == [
        "Noto trains, Twemoji validates",
        "by picture, 10 % validation, 10 % test",
        "all train",
    ]
    assert [one["licence"] == "not stated" for one in cards] == [False, False, True]
    assert all(one["not_controlled"] for one in cards)


def test_fingerprints_follow_the_content(tmp_path: Path) -> None:
    write(tmp_path / "f" / "cat" / "1.png", png(0))
    paths = [table(tmp_path, "csv"), write(tmp_path / "s.tar", b"x")]
    sources: list[ImageSource] = [
        ImageFolder(path=str(tmp_path / "f")),
        named(paths[0]),
        WebDataset(shards=(str(paths[1]),)),
        coco(tmp_path / "coco"),
        Idx(images=str(paths[1])),
        EmbeddedImages(name="mnist5k"),
        EmbeddedImages(name="emoji", split="artist"),
        EmbeddedImages(name="emoji", split="concept"),
    ]
    sources.append(Together(parts=(sources[0], sources[1])))
    before = [images_fingerprint(source) for source in sources]
    assert len(set(before)) == len(sources)
    assert before == [images_fingerprint(source) for source in sources]
    write(tmp_path / "f" / "cat" / "2.png", png(1))
    for path in (*paths, tmp_path / "coco" / "captions.json"):
        path.write_bytes(path.read_bytes() + b"\n")
    after = [images_fingerprint(source) for source in sources]
    assert [a != b for a, b in zip(before, after, strict=True)] == [True] * 5 + [False] * 3 + [True]
    assert images_fingerprint(ImageFolder(path=str(tmp_path / "f"), validation_percent=6)) != after[0]
