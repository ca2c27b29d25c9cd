"""Damaged and wrong input: one clear line under `stop`, a counted skip under `skip`, and the rest still flows."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from corestone.core.errors import DataError
from corestone.data import files
from corestone.data.sources import Counts, documents
from corestone.data.spec import Files


def source_of(*paths: Path) -> Files:
    return Files(paths=tuple(map(str, paths)))


def refused(*paths: Path) -> str:
    """The message under `stop`: one line."""
    with pytest.raises(DataError) as caught:
        list(documents(source_of(*paths), "stop", Counts()))
    message = str(caught.value)
    assert "\n" not in message
    return message


def skipped(*paths: Path) -> tuple[list[str], Counts]:
    """What still flows under `skip`, and the counts."""
    counts = Counts()
    found = [document.text for document in documents(source_of(*paths), "skip", counts)]
    assert counts.kept == len(found)
    assert counts.read == len(found) + sum(counts.dropped.values())
    assert set(counts.examples) == set(counts.dropped)
    return found, counts


def good(folder: Path) -> Path:
    path = folder / "zz-good.txt"
    path.write_text("good")
    return path


def lines(n: int, seed: int = 0) -> bytes:
    draw = random.Random(seed)
    return b"".join(json.dumps({"text": f"{i} {draw.random()}"}).encode() + b"\n" for i in range(n))


# -- a whole file -------------------------------------------------------------------------------------------------

WHOLE = [
    ("a.txt", b"", "empty file", "{path}: the file is empty"),
    ("a.txt", b" \n\t\n", "empty file", "{path}: the file is empty"),
    ("a.txt", b"ab\xffcd", "invalid UTF-8", "{path}: byte 2 (0xff) is not valid UTF-8"),
    ("a.txt", b"\xef\xbb\xbfab\xffcd", "invalid UTF-8", "{path}: byte 5 (0xff) is not valid UTF-8"),
    ("a.md", b"caf\xc3", "invalid UTF-8", "{path}: byte 3 (0xc3) is not valid UTF-8 (unexpected end of data)"),
    ("a.txt", "text".encode("utf-16"), "invalid UTF-8", "it looks like UTF-16: convert it"),
    ("a.jsonl", b"", "empty file", "{path}: no JSON line in it"),
    ("a.jsonl", b"\n \n", "empty file", "{path}: no JSON line in it"),
    ("a.jsonl.gz", gzip.compress(b""), "empty file", "{path}: no JSON line in it"),
    ("a.jsonl.gz", b"", "empty file", "{path}: no JSON line in it"),
    ("a.jsonl.gz", b'{"text": "not compressed"}\n', "corrupt gzip", "{path}: the gzip data is damaged or cut short"),
    ("a.jsonl.zst", zstandard.compress(b""), "empty file", "{path}: no JSON line in it"),
    ("a.jsonl.zst", b"", "empty file", "{path}: no JSON line in it"),
    ("a.jsonl.zst", b'{"text": "not compressed"}\n', "corrupt zstd", "{path}: the zstd data is damaged or cut short"),
    ("a.parquet", b"", "empty file", "{path}: the file is empty"),
    ("a.parquet", b"PAR1 and then nothing", "corrupt parquet", "{path}: the Parquet data is damaged"),
    ("a.parquet", b"a text" * 100, "corrupt parquet", "{path}: the Parquet data is damaged"),
]


@pytest.mark.parametrize(("name", "content", "reason", "said"), WHOLE)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, reason: str, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert said.format(path=path) in refused(path, good(tmp_path))
    found, counts = skipped(path, good(tmp_path))
    assert found == ["good"]
    assert counts.dropped == {reason: 1}
    assert said.format(path=path) in counts.examples[reason][0]


def test_missing_path_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    path = good(tmp_path / "corpus")
    wrong = tmp_path / "corpus" / "zz-god.txt"
    assert refused(wrong) == f"{wrong}: no such file or folder; did you mean {path}?"
    assert f"did you mean {tmp_path / 'corpus'}?" in refused(tmp_path / "korpus" / "deep" / "zz-good.txt")
    assert skipped(wrong, path)[1].dropped == {"missing file": 1}
    assert "no file matches this pattern" in refused(tmp_path / "*.parquet")


def test_empty_folder_and_a_folder_of_other_things(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty") == f"{tmp_path / 'empty'}: the folder holds no files"
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"x")
    assert "no document could be read (1 x file type not read (.png))" in refused(tmp_path / "pictures")
    message = refused(tmp_path / "pictures" / "a.png")
    assert "files of this type (.png) are not read; known: .txt .md .tokens .raw .jsonl .jsonl.gz .json.gz " in message


def test_nothing_at_all_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"")
    with pytest.raises(DataError, match=r"no document could be read \(1 x empty file\)"):
        list(documents(source_of(tmp_path), "skip", Counts()))


def test_broken_link_pipe_and_folder_with_the_name_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "nowhere.txt")
    os.mkfifo(tmp_path / "b.txt")
    (tmp_path / "c.txt").mkdir()
    good(tmp_path / "c.txt")
    found, counts = skipped(tmp_path)
    assert found == ["good"]
    assert counts.dropped == {"cannot be read": 1, "not a regular file": 1}
    assert "a.txt: cannot be read (No such file or directory)" in refused(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may read everything")
def test_file_without_permission(tmp_path: Path) -> None:
    path = good(tmp_path)
    path.chmod(0)
    assert "cannot be read (Permission denied)" in refused(path)


def test_text_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_TEXT_BYTES", 1 << 20)
    (tmp_path / "a.txt").write_bytes(b"x" * (1 << 20))
    (tmp_path / "b.txt").write_bytes(b"x" * ((1 << 20) + 1))
    assert f"{tmp_path / 'b.txt'}: longer than 1 MiB as one document; cut it into several files" in refused(tmp_path)
    assert [len(text) for text in skipped(tmp_path)[0]] == [1 << 20]


# -- one line among others ----------------------------------------------------------------------------------------

LINE = [
    (b'{"text": "a"', "invalid JSON", "line 2, column 13: not valid JSON"),
    (b"plain words", "invalid JSON", "line 2, column 1: not valid JSON"),
    (b'{"text": "\xff"}', "invalid UTF-8", "line 2: byte 10 (0xff) is not valid UTF-8"),
    (b'["text"]', "not a JSON object", "line 2: a JSON list, where an object with key 'text' belongs"),
    (b'"text"', "not a JSON object", "line 2: a JSON string, where an object"),
    (b"null", "not a JSON object", "line 2: a JSON null, where an object"),
    (
        b'{"id": 1, "txt": "a"}',
        "no text key",
        "line 2: no key 'text': did you mean 'txt'? it has: id, txt; write 'PATH?text_key=txt', or where a recipe "
        "names it data.components.0.source.text_key=txt",
    ),
    (b"{}", "no text key", "line 2: no key 'text': it has: none; write 'PATH?text_key=NAME'"),
    (b'{"text": 3}', "text is not a string", "line 2: 'text' is a number, where a string was expected"),
    (b'{"text": null}', "text is not a string", "line 2: 'text' is a null, where a string was expected"),
    (b'{"text": {"a": 1}}', "text is not a string", "line 2: 'text' is a object, where a string was expected"),
    (
        b'{"text": "ab\\ud83d"}',
        "invalid Unicode",
        "line 2: character 2 of 'text' is half of a surrogate pair (\\ud83d)",
    ),
    (b"[" * 200_000, "invalid JSON", "line 2: JSON that cannot be read"),
    (b'{"n": ' + b"9" * 5000 + b"}", "invalid JSON", "line 2: JSON that cannot be read"),
]


@pytest.mark.parametrize(("line", "reason", "said"), LINE, ids=[str(n) for n in range(len(LINE))])
@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_a_bad_line_among_good_ones(tmp_path: Path, line: bytes, reason: str, said: str, form: str) -> None:
    content = b'{"text": "first"}\n' + line + b'\n{"text": "last"}\n'
    pack = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": zstandard.compress}[form]
    path = tmp_path / f"a.{form}"
    path.write_bytes(pack(content))
    message = refused(path)
    assert message.startswith(f"{path}, {said}")
    found, counts = skipped(path)
    assert found == ["first", "last"]
    assert counts.dropped == {reason: 1}
    assert counts.examples[reason] == [message]


def test_many_bad_lines_keep_a_few_examples(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + b"bad\n" * 50)
    _, counts = skipped(path)
    assert counts.dropped == {"invalid JSON": 50}
    assert len(counts.examples["invalid JSON"]) == 3


def test_a_line_beyond_the_limit_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 1 << 20)
    monkeypatch.setattr(files, "MAX_TEXT_BYTES", 1 << 20)
    for excess in (1, 100, 1 << 20, 3 << 20):
        long = b'{"text": "' + b"x" * ((1 << 20) + excess - 13) + b'"}\n'
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(gzip.compress(b'{"text": "first"}\n' + long + b'{"text": "last"}\n' + long.rstrip()))
        assert len(long) == (1 << 20) + excess
        found, counts = skipped(path)
        assert found == ["first", "last"] if excess > 1 else ["first", "last", "x" * ((1 << 20) - 12)]
        assert counts.dropped == {"longer than 1 MiB": 2 if excess > 1 else 1}
        assert refused(path).startswith(f"{path}, line 2: longer than 1 MiB")


BOMB = """
import resource, sys
from corestone.data.sources import Counts, documents
from corestone.data.spec import Files
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
counts = Counts()
print([d.text for d in documents(Files(paths=(sys.argv[1],)), "skip", counts)], dict(counts.dropped))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
@pytest.mark.parametrize("form", ["gz", "zst"])
def test_a_decompression_bomb_stays_within_bounds(tmp_path: Path, form: str) -> None:
    """1 GiB in one line out of about a megabyte (gzip) or some tens of kilobytes (zstd)."""
    path = tmp_path / f"a.jsonl.{form}"
    raw = path.open("wb")
    pack = {
        "gz": lambda: gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1),
        "zst": lambda: zstandard.open(raw, "wb"),
    }
    with raw, pack[form]() as stream:
        stream.write(b'{"text": "first"}\n{"text": "')
        for _ in range(1024):
            stream.write(b"x" * (1 << 20))
        stream.write(b'"}\n{"text": "last"}\n')
    done = subprocess.run([sys.executable, "-c", BOMB, str(path)], capture_output=True, text=True, check=True)
    first, grown = done.stdout.splitlines()
    assert first == "['first', 'last'] {'longer than 64 MiB': 1}"
    assert int(grown) < 320  # MiB


# -- compressed files, damaged anywhere ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed() -> dict[str, bytes]:
    content = lines(3000)
    zstd = zstandard.ZstdCompressor(write_checksum=True).compress(content)
    buffer = io.BytesIO()
    texts = [json.loads(line)["text"] for line in content.splitlines()]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), buffer, row_group_size=500, write_page_checksum=True)
    return {"gzip": gzip.compress(content), "zstd": zstd, "parquet": buffer.getvalue()}


NAMES = {"gzip": "a.jsonl.gz", "zstd": "a.jsonl.zst", "parquet": "a.parquet"}


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_cut_short_keeps_what_came_before(tmp_path: Path, packed: dict[str, bytes], form: str) -> None:
    path = tmp_path / NAMES[form]
    truth = [json.loads(line)["text"] for line in lines(3000).splitlines()]
    data = packed[form] + packed[form]  # two frames, so that something stands before the cut in every form
    path.write_bytes(data[: len(packed[form]) + len(packed[form]) // 2])
    found, counts = skipped(path, good(tmp_path))
    assert found[-1] == "good"
    assert found[:-1] == (truth + truth)[: len(found) - 1]
    # Less than one read of 8 KiB is lost with the break; measured worst case 33 lines of about 30 bytes (zstd).
    assert len(found) > 3000 - 8192 // 25
    assert counts.dropped == {f"corrupt {form}": 1}
    assert f"{path}, after line {len(found) - 1}: the {form} data is damaged or cut short" in refused(path)


@pytest.mark.parametrize("form", ["gzip", "zstd", "parquet"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_cut_at_any_byte_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, packed: dict[str, bytes], form: str, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, len(packed[form]) - 1))
    folder = tmp_path_factory.mktemp("cut")
    path = folder / NAMES[form]
    path.write_bytes(packed[form][:size])
    assert str(path) in refused(path)
    found, counts = skipped(path, good(folder))
    assert found[-1] == "good"
    assert counts.dropped == {f"corrupt {form}": 1}


@pytest.mark.parametrize("form", ["gzip", "zstd", "parquet"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_noticed_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, packed: dict[str, bytes], form: str, data: st.DataObject
) -> None:
    """Each form carries checksums of its content: a changed byte raises a clear error or leaves every text intact."""
    place = data.draw(st.integers(0, len(packed[form]) - 1))
    content = bytearray(packed[form])
    content[place] ^= data.draw(st.integers(1, 255))
    folder = tmp_path_factory.mktemp("flip")
    path = folder / NAMES[form]
    path.write_bytes(content)
    truth = [json.loads(line)["text"] for line in lines(3000).splitlines()]
    try:
        found = [document.text for document in documents(source_of(path), "stop", Counts())]
    except DataError as error:
        refusal = str(error)
    else:
        assert found == truth
        return
    assert "\n" not in refusal
    assert str(path) in refusal
    assert skipped(path, good(folder))[0][-1] == "good"


# -- Parquet ------------------------------------------------------------------------------------------------------


def parquet(path: Path, **columns: pyarrow.Array) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


def test_parquet_without_the_column(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", txt=pyarrow.array(["a"]), n=pyarrow.array([1]))
    assert refused(path) == (
        f"{path}: no column 'text': did you mean 'txt'? it has: txt, n; write 'PATH?text_key=txt', or where a recipe "
        "names it data.components.0.source.text_key=txt"
    )
    assert skipped(path, good(tmp_path))[1].dropped == {"no text key": 1}


def test_parquet_without_rows(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", text=pyarrow.array([], pyarrow.string()))
    assert "no row in it" in refused(path)


def test_parquet_footer_damage_hides_no_rows(tmp_path: Path) -> None:
    """The footer has no checksum, and pyarrow alone reads some damaged ones as fewer rows without a word."""
    truth = [f"text {n}" for n in range(8)]
    path = parquet(tmp_path / "a.parquet", text=pyarrow.array(truth))
    good_bytes = path.read_bytes()
    footer = int.from_bytes(good_bytes[-8:-4], "little")
    refusals = 0
    for place in range(len(good_bytes) - 8 - footer, len(good_bytes)):
        path.write_bytes(good_bytes[:place] + bytes([good_bytes[place] ^ 1]) + good_bytes[place + 1 :])
        try:
            assert [document.text for document in documents(source_of(path), "stop", Counts())] == truth
        except DataError:
            refusals += 1
    assert refusals > footer // 10


def test_parquet_rows_that_are_no_text(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", text=pyarrow.array(["a", None, "c", None, "e"]))
    assert refused(path) == f"{path}, row 2: 'text' is a null, where a string was expected"
    found, counts = skipped(path)
    assert found == ["a", "c", "e"]
    assert counts.dropped == {"text is not a string": 2}
    numbers = parquet(tmp_path / "b.parquet", text=pyarrow.array([1, 2]))
    assert "row 1: 'text' is a number" in refused(numbers)


def test_parquet_string_that_is_not_utf8(tmp_path: Path) -> None:
    offsets, data = pyarrow.array([0, 1, 3], pyarrow.int32()).buffers()[1], pyarrow.py_buffer(b"a\xff\xfe")
    path = parquet(tmp_path / "a.parquet", text=pyarrow.StringArray.from_buffers(2, offsets, data))
    assert refused(path).startswith(f"{path}, row 2: byte 0 (0xff) is not valid UTF-8")
    assert skipped(path)[0] == ["a"]


@pytest.mark.parametrize("kind", [pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())])
def test_parquet_other_string_types_are_read(tmp_path: Path, kind: pyarrow.DataType) -> None:
    path = parquet(tmp_path / "a.parquet", text=pyarrow.array(["a", "b", "a"]).cast(kind))
    assert skipped(path)[0] == ["a", "b", "a"]


# -- standard input -----------------------------------------------------------------------------------------------

READ = """
from corestone.core.errors import DataError
from corestone.data.sources import Counts, documents, parse_source
try:
    list(documents(parse_source("-"), "stop", Counts()))
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"ab\xff", "byte 2 (0xff) is not valid UTF-8"),
        (b'{"txt": "a"}', "did you mean 'txt'"),
    ],
)
def test_bad_standard_input(content: bytes, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", READ], input=content, capture_output=True, check=True)
    (message,) = done.stdout.decode().splitlines()
    assert message.startswith("standard input")
    assert said in message
