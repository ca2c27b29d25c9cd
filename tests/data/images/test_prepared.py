"""A prepared set: every picture once, the same bytes each time, complete or invisible, and damage that is found."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import multiprocessing
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from corestone.core.errors import DataError
from corestone.data.images import prepared
from corestone.data.images.prepared import in_order, open_pictures, prepare_images
from corestone.data.images.spec import EmbeddedImages, Idx, ImageFolder, ImageTable, PrepareImages, Together

CLASSES = ("ant", "bee", "cat")


def encoded(seed: int, form: str = "PNG", size: tuple[int, int] = (6, 8)) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def own_folder(root: Path, n: int = 40) -> ImageFolder:
    """Pictures of several sizes and two formats in three classes."""
    for seed in range(n):
        form = "JPEG" if seed % 3 == 1 else "PNG"
        path = root / CLASSES[seed % 3] / f"{seed:03d}.{form.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(seed, form, (5 + seed % 4, 9)))
    return ImageFolder(path=str(root), validation_percent=30)


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def manifest_of(folder: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return tree


def test_every_encoded_picture_comes_back(tmp_path: Path) -> None:
    source = own_folder(tmp_path / "own")
    folder = prepare_images(source, tmp_path / "cache", PrepareImages(shard_bytes=2000))
    seen = {}
    for split in ("train", "validation"):
        pictures = open_pictures(folder, split, verify=True)
        assert pictures.shape is None
        assert pictures.array is None
        assert pictures.channels == 3
        for i in range(len(pictures)):
            path = tmp_path / "own" / pictures.id(i)
            seen[pictures.id(i)] = split
            assert pictures.encoded(i) == path.read_bytes()
            assert np.array_equal(pictures.pixels(i), np.asarray(Image.open(path)))
            assert pictures.classes[pictures.labels[i]] == path.parent.name
            assert pictures.captions(i) == ()
            assert pictures.metadata(i)["source"] == str(path)
    assert len(seen) == 40
    assert set(seen.values()) == {"train", "validation"}
    assert len(list(folder.glob("train-*.tar"))) > 1
    counts = manifest_of(folder)["counts"]
    assert (counts["read"], counts["kept"], counts["dropped"]) == (40, 40, {})


def test_shards_are_tar_files_for_everybody(tmp_path: Path) -> None:
    folder = prepare_images(own_folder(tmp_path / "own"), tmp_path / "cache", PrepareImages(shard_bytes=2000))
    pictures = open_pictures(folder, "train")
    found = []
    for path in sorted(folder.glob("train-*.tar")):
        assert path.stat().st_size == 10240  # tar's own filling
        with tarfile.open(path) as tar:
            for member in tar:
                stream = tar.extractfile(member)
                assert stream is not None
                found.append((member.name, stream.read()))
    endings = [os.path.splitext(pictures.id(i))[1].replace("jpeg", "jpg") for i in range(len(pictures))]
    assert found == [(f"{i:09d}{end}", pictures.encoded(i)) for i, end in enumerate(endings)]


def test_pixels_come_back_and_belong_to_the_caller(tmp_path: Path) -> None:
    folder = prepare_images(EmbeddedImages(name="mnist5k"), tmp_path)
    pictures = open_pictures(folder, "test")
    assert pictures.array is not None
    assert pictures.array.shape == (518, 28, 28, 1)
    assert not pictures.array.flags.writeable
    one = pictures.pixels(7)
    assert np.array_equal(one, pictures.array[7])
    one[:] = 0
    assert pictures.array[7].any()
    assert np.array_equal(np.load(io.BytesIO(pictures.encoded(7))), pictures.array[7])
    assert (folder / "test.bin").stat().st_size == 518 * 28 * 28
    for wrong in (-1, 518):
        with pytest.raises(IndexError, match="of 518"):
            pictures.pixels(wrong)
        with pytest.raises(IndexError, match="of 518"):
            pictures.id(wrong)


def test_captions_come_back(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(encoded(0))
    rows = [{"image": "0.png", "text": ["eins – ü", "two\nlines"]}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = ImageTable(paths=(str(tmp_path / "t.jsonl"),), caption_key="text", side="train")
    folder = prepare_images(source, tmp_path / "cache")
    pictures = open_pictures(folder, "train")
    assert pictures.captions(0) == ("eins – ü", "two\nlines")
    assert pictures.labels.tolist() == [-1]
    assert pictures.classes == ()
    facts = manifest_of(folder)["splits"]["train"]
    assert (facts["pictures"], facts["labelled"], facts["captions"]) == (1, 0, 2)


def test_equal_input_gives_equal_bytes_and_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = own_folder(tmp_path / "own")
    one, other = (prepare_images(source, tmp_path / name, threads=n) for name, n in (("a", 1), ("b", 7)))
    assert files_of(one) == files_of(other)
    assert one.name == other.name == open_pictures(one, "train").fingerprint
    monkeypatch.setattr(prepared, "_fill", None)  # nothing is made again
    assert prepare_images(source, tmp_path / "a") == one
    assert sorted(os.listdir(one.parent)) == [one.name]


def test_another_content_or_option_is_another_set(tmp_path: Path) -> None:
    source = own_folder(tmp_path / "own")
    made = {prepare_images(source, tmp_path / "c"), prepare_images(source, tmp_path / "c", PrepareImages(channels=1))}
    made.add(prepare_images(source.model_copy(update={"validation_percent": 20.0}), tmp_path / "c"))
    (tmp_path / "own" / "ant" / "new.png").write_bytes(encoded(99))
    made.add(prepare_images(source, tmp_path / "c"))
    assert len(made) == 4


def test_grey_where_grey_is_asked_for(tmp_path: Path) -> None:
    folder = prepare_images(own_folder(tmp_path / "own"), tmp_path / "cache", PrepareImages(channels=1))
    pictures = open_pictures(folder, "train")
    assert pictures.channels == 1
    assert {pictures.pixels(i).shape[2] for i in range(len(pictures))} == {1}


# -- what is dropped ----------------------------------------------------------------------------------------------


def spoilt(root: Path) -> ImageFolder:
    source = own_folder(root, 30)
    for name, data in {
        "empty.png": b"",
        "text.jpg": b"not a picture",
        "cut.png": encoded(50, size=(40, 40))[:-2000],
        "again.png": encoded(0, size=(5, 9)),
    }.items():
        (root / "ant" / name).write_bytes(data)
    (root / "bee" / "other.png").write_bytes(encoded(3, size=(8, 9)))
    (root / "bee" / "notes.txt").write_text("no picture")
    return source


def test_everything_is_kept_or_counted(tmp_path: Path) -> None:
    folder = prepare_images(spoilt(tmp_path / "own"), tmp_path / "cache", PrepareImages(on_bad="skip"))
    counts = manifest_of(folder)["counts"]
    assert counts["dropped"] == {
        "empty file": 1,
        "file type not read (.txt)": 1,
        "not an image of a known kind": 1,
        "repeated picture": 1,
        "repeated picture of another class": 1,
        "truncated image": 1,
    }
    assert (counts["read"], counts["kept"]) == (36, 30)
    assert "empty.png" in counts["examples"]["empty file"][0]
    kept = sum(len(open_pictures(folder, split)) for split in manifest_of(folder)["splits"])
    assert kept == 30


def test_a_picture_on_two_sides_is_counted_as_that(tmp_path: Path) -> None:
    one, other = (own_folder(tmp_path / name, 3).model_copy(update={"side": name}) for name in ("train", "test"))
    folder = prepare_images(Together(parts=(one, other)), tmp_path / "cache")
    assert manifest_of(folder)["counts"]["dropped"] == {"repeated picture on another side": 3}
    assert list(manifest_of(folder)["splits"]) == ["train"]


def test_repeats_stay_where_they_are_wanted(tmp_path: Path) -> None:
    options = PrepareImages(on_bad="skip", deduplicate=False)
    assert manifest_of(prepare_images(spoilt(tmp_path / "own"), tmp_path / "cache", options))["counts"]["kept"] == 32


def test_stop_names_the_picture_and_leaves_nothing(tmp_path: Path) -> None:
    source = spoilt(tmp_path / "own")
    with pytest.raises(DataError, match=r"ant/cut\.png.*: truncated image; mend or remove it \(or set on_bad: skip"):
        prepare_images(source, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache" / "pictures").iterdir() if not path.name.endswith(".partial")]


@pytest.mark.parametrize("threads", [1, 5])
def test_the_first_of_two_problems_is_told_whatever_the_threads(tmp_path: Path, threads: int) -> None:
    (tmp_path / "0.png").write_bytes(encoded(0)[:-30])
    (tmp_path / "t.csv").write_text("image\n0.png\nmissing.png\n")
    with pytest.raises(DataError, match=r"t\.csv:1: truncated image"):
        prepare_images(ImageTable(paths=(str(tmp_path / "t.csv"),)), tmp_path / "cache", threads=threads)


def test_changes_by_decoding_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "own" / "a" / "0.png"
    path.parent.mkdir(parents=True)
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(path)
    folder = prepare_images(ImageFolder(path=str(tmp_path / "own"), side="train"), tmp_path / "cache")
    assert manifest_of(folder)["counts"]["changed"] == {"transparency over white": 1}


def test_a_bomb_is_counted(tmp_path: Path) -> None:
    source = own_folder(tmp_path / "own", 6)
    (tmp_path / "own" / "ant" / "big.png").write_bytes(encoded(9, size=(100, 100)))
    folder = prepare_images(source, tmp_path / "cache", PrepareImages(on_bad="skip", max_pixels=9999))
    assert manifest_of(folder)["counts"]["dropped"] == {"too many pixels": 1}


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "own" / "a").mkdir(parents=True)
    (tmp_path / "own" / "a" / "1.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"no picture is left of 1 read \(dropped: 1 not an image"):
        prepare_images(ImageFolder(path=str(tmp_path / "own")), tmp_path / "cache", PrepareImages(on_bad="skip"))


def test_pixels_and_files_do_not_mix(tmp_path: Path) -> None:
    source = own_folder(tmp_path / "own", 6)
    values = np.zeros((2, 4, 5), dtype=np.uint8)
    (tmp_path / "i").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 5]) + values.tobytes())
    arrays = Idx(images=str(tmp_path / "i"))
    with pytest.raises(DataError, match=r"000\.png.*: an encoded picture, and .*i:0: pixels of shape \(4, 5, 1\)"):
        prepare_images(Together(parts=(arrays, source)), tmp_path / "cache")


def test_classes_are_in_the_order_of_their_names() -> None:
    assert in_order({"b": 0, "a": 1}) == ["a", "b"]
    assert in_order({"10": 0, "9": 1, "0": 2}) == ["0", "9", "10"]
    assert in_order({"10": 0, "9": 1, "x": 2}) == ["10", "9", "x"]


# -- damage and interruption --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A set of files and one of pixels; tests mend what they damage."""
    root = tmp_path_factory.mktemp("made")
    encoded_set = prepare_images(own_folder(root / "own"), root / "cache")
    return encoded_set, prepare_images(EmbeddedImages(name="digits"), root / "cache")


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_to_any_file_is_found(made: tuple[Path, Path], which: int, damage: str) -> None:
    folder = made[which]
    names = [path.name for path in sorted(folder.iterdir()) if path.name.startswith("train")]
    assert len(names) == (4, 3)[which]
    for name in names:
        path = folder / name
        good = path.read_bytes()
        flipped = bytearray(good)
        flipped[len(good) // 2] ^= 1
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(bytes(flipped) if damage == "flip" else good[:-1])
        words = {"flip": "its content changed", "cut": "its manifest says", "gone": "missing"}[damage]
        with pytest.raises(DataError, match=f"{name}: .*{words}.*; delete the folder"):
            open_pictures(folder, "train", verify=True)
        path.write_bytes(good)
    open_pictures(folder, "train", verify=True)


def test_a_picture_damaged_later_is_named(tmp_path: Path) -> None:
    folder = prepare_images(own_folder(tmp_path / "own"), tmp_path / "cache")
    (path,) = folder.glob("train-*.tar")
    data = bytearray(path.read_bytes())
    data[512:600] = bytes(88)
    path.write_bytes(data)
    pictures = open_pictures(folder, "train")
    with pytest.raises(DataError, match=rf"picture '{pictures.id(0)}' was readable when prepared"):
        pictures.pixels(0)
    pictures.pixels(1)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 1, "content": "pictures"}', '{"version": 99}'])
def test_damaged_manifests(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="prepare the pictures again"):
        open_pictures(tmp_path, "train")


def test_folders_and_sides_that_are_not_there(made: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prepared pictures"):
        open_pictures(tmp_path, "train")
    with pytest.raises(DataError, match="unknown split 'valid': did you mean 'validation'"):
        open_pictures(made[0], "valid")


def test_a_folder_in_the_way_is_not_taken_for_a_set(tmp_path: Path) -> None:
    source = own_folder(tmp_path / "own")
    folder = prepare_images(source, tmp_path / "cache")
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="no prepared pictures"):
        prepare_images(source, tmp_path / "cache")


def _prepare_and_die(source: ImageFolder, cache: Path) -> None:
    def die(*_: Any) -> None:
        os._exit(9)

    prepared.write_durably = die  # type: ignore[assignment]
    prepare_images(source, cache)


def test_a_killed_run_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    source = own_folder(tmp_path / "own")
    process = multiprocessing.get_context("fork").Process(target=_prepare_and_die, args=(source, tmp_path / "a"))
    process.start()
    process.join()
    assert process.exitcode == 9
    (left,) = [path.name for path in (tmp_path / "a" / "pictures").iterdir() if path.is_dir()]
    assert left.endswith(".partial")
    assert files_of(prepare_images(source, tmp_path / "a")) == files_of(prepare_images(source, tmp_path / "b"))
    assert [path.suffix for path in (tmp_path / "a" / "pictures").iterdir()] == [""]


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = own_folder(tmp_path / "own")
    monkeypatch.setattr(prepared.SideWriter, "add", full)
    with pytest.raises(DataError, match=r"the disk is full \(No space left on device\)"):
        prepare_images(source, tmp_path / "cache")
    monkeypatch.undo()
    assert len(open_pictures(prepare_images(source, tmp_path / "cache"), "train")) > 20


def _prepare(source: ImageFolder, cache: Path) -> None:
    prepare_images(source, cache)


def test_several_processes_make_it_once(tmp_path: Path) -> None:
    source = own_folder(tmp_path / "own")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_prepare, args=(source, tmp_path / "cache")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    (name,) = os.listdir(tmp_path / "cache" / "pictures")
    open_pictures(tmp_path / "cache" / "pictures" / name, "train", verify=True)
