"""Own data: which files are read, as what, on which side, and when a fingerprint changes."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from corestone.core.errors import DataError, SpecError
from corestone.data.document import side
from corestone.data.sources import Counts, Document, card, documents, parse_source, source_fingerprint
from corestone.data.spec import Embedded, Files, Hub

TEXTS = ["first", "zweite \U0001f600 Zeile", "line\nbreak\r\nand \u2028 separators", " spaces kept \t"]


def read(*paths: str | Path, key: str = "text", counts: Counts | None = None) -> list[Document]:
    source = Files(paths=tuple(map(str, paths)), text_key=key)
    return list(documents(source, "stop", counts if counts is not None else Counts()))


def texts(found: Iterable[Document]) -> list[str]:
    return [document.text for document in found]


def json_lines(values: list[str], key: str = "text") -> bytes:
    return b"".join(json.dumps({"n": n, key: value}).encode() + b"\n" for n, value in enumerate(values))


def write(path: Path, values: list[str], key: str = "text") -> Path:
    """Write texts in the form that the file's name says."""
    if path.name.endswith(".parquet"):
        table = pyarrow.table({"n": list(range(len(values))), key: values})
        pyarrow.parquet.write_table(table, path, row_group_size=2)
    elif path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(json_lines(values, key)))
    elif path.name.endswith(".zst"):
        path.write_bytes(zstandard.compress(json_lines(values, key)))
    else:
        path.write_bytes(json_lines(values, key))
    return path


FORMS = ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "A.JSONL.GZ"]


@pytest.mark.parametrize("name", FORMS[:4])
def test_every_form_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, TEXTS, key="body")
    counts = Counts()
    found = read(path, key="body", counts=counts)
    assert texts(found) == TEXTS
    assert [document.id for document in found] == [f"{name}:{n}" for n in (1, 2, 3, 4)]
    assert {document.source for document in found} == {str(path)}
    assert (counts.read, counts.kept, sum(counts.dropped.values())) == (4, 4, 0)


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=8))
def test_any_text_survives_every_form(tmp_path_factory: pytest.TempPathFactory, values: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    for name in FORMS[:4]:
        assert texts(read(write(folder / name, values))) == values


@settings(max_examples=30, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.encode().strip()))
def test_a_plain_file_is_one_document_unchanged(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("plain") / "a.txt"
    path.write_bytes(text.encode())
    assert texts(read(path)) == [text.removeprefix("\ufeff")]


def test_many_frames_and_members_are_one_stream(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json_lines(["one"])) + gzip.compress(json_lines(["two"])))
    (tmp_path / "b.jsonl.zst").write_bytes(
        zstandard.compress(json_lines(["3"])) + zstandard.compress(json_lines(["4"]))
    )
    assert texts(read(tmp_path)) == ["one", "two", "3", "4"]


def test_blank_lines_and_marks_are_no_documents(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\n  \n{"text": "b"}')
    (tmp_path / "b.md").write_bytes(b"\xef\xbb\xbf# Title\r\n")
    found = read(tmp_path)
    assert [(document.id, document.text) for document in found] == [
        ("a.jsonl:1", "a"),
        ("a.jsonl:4", "b"),
        ("b.md", "# Title\r\n"),
    ]


# -- which files --------------------------------------------------------------------------------------------------


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"text of {name}")
    return root


def test_folder_is_read_by_name_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    tree(tmp_path, "b/z.txt", "b/a.md", "a.txt", "c.txt", "picture.png", "README", ".git/config", ".hidden.txt")
    counts = Counts()
    found = read(tmp_path, counts=counts)
    assert [document.id for document in found] == ["a.txt", "c.txt", "b/a.md", "b/z.txt"]
    assert counts.dropped == {
        "file type not read (.png)": 1,
        "file type not read (no ending)": 1,
        "hidden file or folder": 2,
    }
    assert (counts.read, counts.kept) == (8, 4)
    assert str(tmp_path / "picture.png") in counts.examples["file type not read (.png)"][0]


def test_globs_are_relative_to_their_fixed_part(tmp_path: Path) -> None:
    tree(tmp_path, "x/1.txt", "x/y/2.txt", "x/y/3.md", "4.txt")
    assert [document.id for document in read(tmp_path / "**" / "*.txt")] == ["4.txt", "x/1.txt", "x/y/2.txt"]
    assert [document.id for document in read(tmp_path / "x" / "*")] == ["1.txt", "y/2.txt", "y/3.md"]
    assert [document.id for document in read(tmp_path / "**")] == ["4.txt", "x/1.txt", "x/y/2.txt", "x/y/3.md"]


def test_a_name_with_brackets_is_a_name_first(tmp_path: Path) -> None:
    tree(tmp_path, "notes [1].txt", "n.txt")
    assert [document.id for document in read(tmp_path / "notes [1].txt")] == ["notes [1].txt"]


def test_a_file_given_twice_is_read_once_and_counted(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt", "b.txt")
    counts = Counts()
    assert len(read(tmp_path, tmp_path / "a.txt", tmp_path / "*.txt", counts=counts)) == 2
    assert counts.dropped == {"same file given twice": 3}


def test_same_names_in_two_folders_keep_ids_apart(tmp_path: Path) -> None:
    tree(tmp_path, "one/a.txt", "two/a.txt")
    assert [document.id for document in read(tmp_path / "one", tmp_path / "two")] == [
        "a.txt",
        str(tmp_path / "two/a.txt"),
    ]


def test_links_to_folders_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    tree(tmp_path, "data/a.txt", "other/b.txt")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    assert [document.id for document in read(tmp_path / "data")] == ["a.txt", "linked/b.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such file names")
def test_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))).write_text("text")
    (found,) = read(tmp_path)
    assert found.id == "caf\\xe9.txt"
    assert found.source.encode().endswith(b"caf\\xe9.txt")


def test_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tree(tmp_path, "a.txt")))
    assert texts(read("~/a.txt")) == ["text of a.txt"]
    assert parse_source("~/a.txt") == Files(paths=("~/a.txt",))


# -- split --------------------------------------------------------------------------------------------------------


@given(group=st.text(), percent=st.integers(1, 99))
def test_side_is_the_plain_rule(group: str, percent: int) -> None:
    digest = hashlib.sha256(group.encode("utf-8", "surrogateescape")).hexdigest()
    assert side(group, percent) == ("validation" if int(digest, 16) % 100 < percent else "train")


@pytest.mark.parametrize("percent", [0.05, 2.5, 5.0, 50.0, 99.9])
def test_side_keeps_to_the_percentage(percent: float) -> None:
    n = 20_000
    share = sum(side(f"group {i}", percent) == "validation" for i in range(n)) / n
    # Four standard deviations of a binomial; measured worst case 1.12.
    assert abs(share - percent / 100) < 4 * (percent / 100 * (1 - percent / 100) / n) ** 0.5


def test_split_belongs_to_the_document_not_to_its_company(tmp_path: Path) -> None:
    names = [f"{i}.txt" for i in range(60)]
    tree(tmp_path / "all", *names)
    tree(tmp_path / "some", *names[::7])
    everything = {document.id: document.split for document in read(tmp_path / "all")}
    some = {document.id: document.split for document in read(tmp_path / "some")}
    assert some.items() <= everything.items()
    assert set(everything.values()) == {"train", "validation"}
    assert everything == {name: side(name, 5.0) for name in names}


# -- fingerprint --------------------------------------------------------------------------------------------------


def test_fingerprint_changes_with_the_content_and_with_nothing_else(tmp_path: Path) -> None:
    tree(tmp_path, "d/a.txt", "d/b.txt")
    source = Files(paths=(str(tmp_path / "d"),))
    seen = [source_fingerprint(source)]
    assert source_fingerprint(source) == seen[0]
    os.rename(tmp_path / "d", tmp_path / "moved")
    assert source_fingerprint(Files(paths=(str(tmp_path / "moved"),))) == seen[0]
    os.rename(tmp_path / "moved", tmp_path / "d")
    path = tmp_path / "d" / "a.txt"
    before = path.stat()
    changes = [
        lambda: path.write_text("TEXT of d/a.txt"),  # the same size
        lambda: path.write_text("text of d/a.txt and more"),
        lambda: os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9)),
        lambda: tree(tmp_path, "d/c.txt"),
        lambda: os.rename(tmp_path / "d/c.txt", tmp_path / "d/e.txt"),
        lambda: (tmp_path / "d/e.txt").write_text(""),
        lambda: (tmp_path / "d/b.txt").unlink(),
    ]
    for change in changes:
        change()
        seen.append(source_fingerprint(source))
    seen.append(source_fingerprint(source.model_copy(update={"text_key": "body"})))
    seen.append(source_fingerprint(source.model_copy(update={"validation_percent": 7.0})))
    assert len(set(seen)) == len(seen)


def test_fingerprint_sees_a_changed_head_at_the_same_size_and_time(tmp_path: Path) -> None:
    path = tree(tmp_path, "a.txt") / "a.txt"
    source, before = Files(paths=(str(path),)), path.stat()
    first = source_fingerprint(source)
    path.write_text("TEXT of a.txt")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert source_fingerprint(source) != first


# -- command line -------------------------------------------------------------------------------------------------


def test_parse_source_tells_names_paths_and_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree(tmp_path, "texts/a.txt", "shakespeare/b.txt"))
    assert parse_source("shakespeare") == Embedded(name="shakespeare")
    assert parse_source("./shakespeare") == Files(paths=("./shakespeare",))
    assert parse_source("texts") == Files(paths=("texts",))
    assert parse_source("texts/*.txt") == Files(paths=("texts/*.txt",))
    assert parse_source("texts/*.txt?text_key=a b") == Files(paths=("texts/*.txt",), text_key="a b")
    assert parse_source("-") == Files(paths=("-",))
    assert parse_source("-?text_key=body") == Files(paths=("-",), text_key="body")
    assert parse_source("hf://owner/name") == Hub(path="owner/name")
    full = parse_source("hf://owner/name?config=en&split=test&text_key=body&validation_percent=1")
    assert full == Hub(path="owner/name", config="en", split="test", text_key="body", validation_percent=1)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("shakespear", DataError, "did you mean 'shakespeare'"),
        ("texts/b.txt", DataError, "did you mean texts/a.txt"),
        ("text/a.txt", DataError, "did you mean texts?"),
        ("a.txt", DataError, "a.txt: no such file or folder"),
        ("texts/b.txt?text_key=body", DataError, "did you mean texts/a.txt"),
        ("hf://", DataError, "written hf://owner/name"),
        ("hf://owner/name?confg=en", SpecError, "did you mean 'config'"),
        ("x" * 5000, DataError, "no file or folder has this name"),
    ],
)
def test_parse_source_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, error: type[Exception], said: str
) -> None:
    monkeypatch.chdir(tree(tmp_path, "texts/a.txt"))
    with pytest.raises(error) as caught:
        parse_source(text)
    assert said in str(caught.value)


def test_card_of_own_files_says_its_split(tmp_path: Path) -> None:
    facts = card(Files(paths=(str(tmp_path),), validation_percent=2.5))
    assert "2.5 % validation" in facts["split"]
    json.dumps(facts)


# -- standard input -----------------------------------------------------------------------------------------------

STDIN = """
import json, os
from corestone.data.sources import Counts, documents, parse_source, source_fingerprint
from corestone.data.files import standard_input
source = parse_source("-")
first = source_fingerprint(source)
found = [[d.id, d.text] for d in documents(source, "stop", Counts())]
again = [[d.id, d.text] for d in documents(source, "stop", Counts())]
assert first == source_fingerprint(source) and found == again
print(json.dumps([first, found, str(standard_input().path)]))
"""


def pipe(content: bytes) -> tuple[str, list[list[str]]]:
    done = subprocess.run([sys.executable, "-c", STDIN], input=content, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    first, found, path = json.loads(done.stdout)
    assert not Path(path).exists(), "the temporary file must go"
    return first, found


def test_standard_input_is_sniffed_and_can_be_read_twice() -> None:
    name = "stdin-" + hashlib.sha256(b"plain\ntext").hexdigest()[:16]
    first, found = pipe(b"plain\ntext")
    assert found == [[name, "plain\ntext"]]
    assert pipe(b"plain\ntext")[0] == first
    other, found = pipe(b'  {"text": "a"}\n{"text": "b"}\n')
    assert [text for _, text in found] == ["a", "b"]
    assert other != first


# -- Hugging Face -------------------------------------------------------------------------------------------------


def test_hub_without_the_extra_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # what Python itself does for a module that is not there
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    source = parse_source("hf://owner/name")
    for act in (lambda: list(documents(source, "stop", Counts())), lambda: source_fingerprint(source)):
        with pytest.raises(DataError, match=r"pip install 'corestone\[hf\]'"):
            act()


@pytest.mark.parity
def test_hub_reads_a_real_data_set_through_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write(tmp_path / "train.jsonl", TEXTS, key="body")
    source = parse_source(f"hf://{tmp_path}?text_key=body")
    found = list(documents(source, "stop", Counts()))
    assert texts(found) == TEXTS
    assert [document.id for document in found] == [f"train:{n}" for n in (1, 2, 3, 4)]
    first = source_fingerprint(source)
    write(tmp_path / "train.jsonl", TEXTS[:2], key="body")
    assert source_fingerprint(source) != first
    with pytest.raises(DataError, match="did you mean 'body'"):
        list(documents(parse_source(f"hf://{tmp_path}?text_key=bodi"), "stop", Counts()))
    with pytest.raises(DataError, match="check its name and the network"):
        list(documents(parse_source(f"hf://{tmp_path}/none"), "stop", Counts()))
