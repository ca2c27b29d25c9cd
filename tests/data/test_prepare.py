"""Preparation counts what it drops, gives the same bytes however it is run, and refuses clearly."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
import threading
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from corestone.core.errors import DataError
from corestone.data import fast_encode
from corestone.data.document import Counts
from corestone.data.prepare import batches, fill, writer
from corestone.data.prepare.filters import kept_documents
from corestone.data.prepare.pipeline import prepare, prepare_data, prepare_source
from corestone.data.sources import documents
from corestone.data.spec import BytePair, Bytes, Component, Data, Embedded, Files, Prepare, TokenizerFile
from corestone.data.tokenizer import build_tokenizer
from corestone.data.tokens import open_token_set

PYTHON_DOCS = Embedded(name="python-docs")
SMALL = Prepare(shard_tokens=200_000)


class Recorder:
    """A progress object that keeps what it was told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.notes: list[str] = []
        self.done = 0

    def start(self, what: str, total_bytes: int | None) -> None:
        self.stages.append((what, total_bytes))
        self.done = 0

    def advance(self, n_bytes: int) -> None:
        self.done += n_bytes

    def note(self, message: str) -> None:
        self.notes.append(message)


def write_lines(path: Path, texts: list[str]) -> Files:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return Files(paths=(str(path),), validation_percent=30)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def docs():
    """The interpreter's own docstrings: real text, nothing to fetch."""
    return list(documents(PYTHON_DOCS, "stop", Counts()))


@pytest.fixture(scope="module")
def source(docs, tmp_path_factory):
    return write_lines(tmp_path_factory.mktemp("docs") / "docs.jsonl", [document.text for document in docs[:4000]])


@pytest.fixture(scope="module")
def tokenizer(docs):
    return build_tokenizer(BytePair(vocab_size=1000), [document.text for document in docs[:1500]])


@pytest.fixture(scope="module")
def reference(source, tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "set"
    prepare(source, tokenizer, SMALL, out)
    return out


def test_every_document_is_kept_once_or_counted(reference, source, tokenizer):
    manifest = json.loads((reference / "manifest.json").read_text())
    counts = manifest["counts"]
    kept = {}
    seen = set()
    for document in documents(source, "stop", Counts()):
        words = " ".join(document.text.split())
        if words and words not in seen:
            seen.add(words)
            kept[document.id] = document
    assert counts["read"] == counts["kept"] + sum(counts["dropped"].values()) == 4000
    assert counts["kept"] == len(kept) < 4000
    found = {}
    for split in ("train", "validation"):
        token_set = open_token_set(reference, split, verify=True)
        facts = manifest["splits"][split]
        for n in range(token_set.n_documents):
            begin, end = token_set.starts[n : n + 2]
            name = token_set.document_id(n)
            assert kept[name].split == split
            found[name] = tokenizer.decode(token_set.slice(begin + 1, end).tolist())
        assert facts["bytes"] == token_set.document_bytes.sum()
        assert facts["bytes_per_token"] == round(facts["bytes"] / (facts["tokens"] - facts["documents"] - 1), 4)
    assert found == {name: document.text for name, document in kept.items()}


def test_ids_are_those_of_the_tokenizers_library(reference, tokenizer):
    assert json.loads((reference / "manifest.json").read_text())["encoder"] == "tiktoken"
    token_set = open_token_set(reference, "train")
    for n in range(0, token_set.n_documents, 7):
        begin, end = token_set.starts[n : n + 2]
        ids = token_set.slice(begin + 1, end).tolist()
        assert ids == tokenizer.encode(tokenizer.decode(ids))


@pytest.mark.parametrize("workers", [0, 2])
def test_neither_workers_nor_batches_change_a_byte(reference, source, tokenizer, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(batches, "BATCH_BYTES", 30_000)
    prepare(source, tokenizer, SMALL, tmp_path / "set", workers)
    assert contents(tmp_path / "set") == contents(reference)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]  # no lock, no unfinished folder


def test_a_finished_set_is_found_not_made_again(reference, source, tokenizer):
    before = (reference / "train-00000.bin").stat().st_mtime_ns
    progress = Recorder()
    manifest = prepare(source, tokenizer, SMALL, reference, progress=progress)
    assert manifest == json.loads((reference / "manifest.json").read_text())
    assert progress.stages == []
    assert (reference / "train-00000.bin").stat().st_mtime_ns == before


def test_reasons_are_counted_with_examples(tmp_path):
    texts = [f"document number {n}" for n in range(40)]
    source = write_lines(tmp_path / "t.jsonl", [*texts, "tiny", " \n ", "document  number\n3", texts[5], texts[6]])
    manifest = prepare(source, build_tokenizer(Bytes(), ()), Prepare(min_characters=5), tmp_path / "set")
    assert manifest["counts"]["dropped"] == {"duplicate": 3, "too short": 2}
    assert manifest["counts"]["read"] == 45
    assert "41" in manifest["counts"]["examples"]["too short"][0]
    repeated = prepare(source, build_tokenizer(Bytes(), ()), Prepare(deduplicate=False), tmp_path / "all")
    assert repeated["counts"]["dropped"] == {"too short": 1}  # white space alone is no document
    assert repeated["encoder"] == "bytes"


def test_a_fast_encoding_that_differs_is_given_up_and_said(source, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(fast_encode, "GPT2_PATTERN", r"\s+|\S+")  # the fault: words with their punctuation
    wrong = build_tokenizer(TokenizerFile(path=str(_saved(tokenizer, tmp_path))), ())
    assert wrong.difference(["one, two"]) is not None
    progress = Recorder()
    manifest = prepare(source, wrong, SMALL, tmp_path / "set", progress=progress)
    assert manifest["encoder"] == "tokenizers"
    assert "tiktoken gave other ids than tokenizers (token" in manifest["encoder_reason"]
    assert "starting again" in progress.notes[0]
    token_set = open_token_set(tmp_path / "set", "train", verify=True)
    for n in range(0, token_set.n_documents, 11):
        begin, end = token_set.starts[n : n + 2]
        ids = token_set.slice(begin + 1, end).tolist()
        assert ids == tokenizer.encode(tokenizer.decode(ids))


def _saved(tokenizer, folder: Path) -> Path:
    tokenizer.save(folder / "tokenizer")
    return folder / "tokenizer" / "tokenizer.json"


def test_32_bit_ids_where_16_do_not_hold_them(source, tokenizer, tmp_path):
    tree = json.loads(_saved(tokenizer, tmp_path).read_text())
    tree["model"]["vocab"] |= {f"unused{n}": n for n in range(1000, 70_000)}
    path = tmp_path / "large.json"
    path.write_text(json.dumps(tree))
    manifest = prepare(source, build_tokenizer(TokenizerFile(path=str(path)), ()), SMALL, tmp_path / "set")
    assert manifest["dtype"] == "uint32"
    token_set = open_token_set(tmp_path / "set", "train")
    assert token_set.shards[0].dtype == np.uint32
    begin, end = token_set.starts[:2]
    assert tokenizer.decode(token_set.slice(begin + 1, end).tolist())


# -- progress and cache -------------------------------------------------------------------------------------------


def test_prepare_data_trains_once_and_tells_its_progress(source, tmp_path):
    spec = Data(components=(Component(source=source),), tokenizer=BytePair(vocab_size=500), context_length=64)
    progress = Recorder()
    tokenizer, folders = prepare_data(spec, tmp_path, progress=progress)
    assert [what for what, _ in progress.stages] == ["training the tokenizer", f"preparing {source.paths[0]}"]
    assert all(total == Path(source.paths[0]).stat().st_size for _, total in progress.stages)
    manifest = json.loads((folders[0] / "manifest.json").read_text())
    assert progress.done == sum(side["bytes"] for side in manifest["splits"].values())
    again = Recorder()
    same, same_folders = prepare_data(spec, tmp_path, progress=again)
    assert (same.manifest, same_folders, again.stages) == (tokenizer.manifest, folders, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prepared", "tokenizers"]


def test_the_tokenizer_never_sees_the_validation_side(tmp_path):
    """Held-out documents hold words that no training document has; none of their tokens may appear."""
    source = write_lines(tmp_path / "t.jsonl", [f"common words {n} " * 5 for n in range(60)])
    held_out = {d.id for d in documents(source, "stop", Counts()) if d.split == "validation"}
    assert held_out
    lines = [
        ("zyzzyva quoxxing " if f"t.jsonl:{n + 1}" in held_out else "common words ") * 20 + str(n) for n in range(60)
    ]
    source = write_lines(tmp_path / "t.jsonl", lines)
    assert {d.id for d in documents(source, "stop", Counts()) if d.split == "validation"} == held_out
    spec = Data(components=(Component(source=source),), tokenizer=BytePair(vocab_size=400), context_length=64)
    tokenizer, _ = prepare_data(spec, tmp_path / "cache")
    vocabulary = json.loads(tokenizer.files()["tokenizer.json"])["model"]["vocab"]
    assert any("common" in token for token in vocabulary)
    assert not any("zz" in token or "xx" in token for token in vocabulary)


def test_other_content_options_or_tokenizer_are_other_sets(source, tokenizer, tmp_path):
    folder = prepare_source(source, tokenizer, SMALL, tmp_path)
    others = {
        prepare_source(source, tokenizer, Prepare(shard_tokens=300_000), tmp_path),
        prepare_source(source, build_tokenizer(Bytes(), ()), SMALL, tmp_path),
        prepare_source(source.model_copy(update={"validation_percent": 31.0}), tokenizer, SMALL, tmp_path),
    }
    assert len(others | {folder}) == 4
    assert prepare_source(source, tokenizer, SMALL, tmp_path) == folder


def test_a_second_process_waits_for_the_first(source, tokenizer, tmp_path, reference):
    out = tmp_path / "set"
    with (tmp_path / "set.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        progress = Recorder()
        thread = threading.Thread(target=prepare, args=(source, tokenizer, SMALL, out, 0, progress))
        thread.start()
        thread.join(timeout=1)
        assert thread.is_alive()
        assert not out.exists()
    thread.join(timeout=120)
    assert "another process is preparing it" in progress.notes[0]
    assert contents(out) == contents(reference)


# -- refusals -----------------------------------------------------------------------------------------------------


def test_nothing_left_names_the_reasons(tmp_path):
    source = write_lines(tmp_path / "t.jsonl", ["a", "b", " "])
    with pytest.raises(DataError, match=r"no document is left of 3 read \(dropped: 3 too short\)"):
        prepare(source, build_tokenizer(Bytes(), ()), Prepare(min_characters=4), tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]


def test_an_empty_side_is_named(tmp_path):
    source = write_lines(tmp_path / "t.jsonl", ["one", "two"]).model_copy(update={"validation_percent": 100})
    prepare(source, build_tokenizer(Bytes(), ()), Prepare(), tmp_path / "set")
    assert open_token_set(tmp_path / "set", "validation").n_documents == 2
    with pytest.raises(DataError, match=r"no document on the train side of 2; give more documents"):
        open_token_set(tmp_path / "set", "train")


def test_the_end_of_a_lone_document_is_held_out(tmp_path):
    lines = [f"line {number} of the only text\n" for number in range(200)]
    (tmp_path / "input.txt").write_text("".join(lines))
    source = Files(paths=(str(tmp_path / "input.txt"),), validation_percent=10)
    found = {document.split: document.text for document in kept_documents(source, Prepare(), Counts())}
    assert found["train"] + found["validation"] == "".join(lines)
    assert found["train"].endswith("\n")
    assert len(found["validation"]) / len("".join(lines)) == pytest.approx(0.1, abs=0.01)


def test_folders_in_the_way(reference, source, tokenizer, tmp_path):
    with pytest.raises(DataError, match="holds a set of another source, tokenizer or options"):
        prepare(source, build_tokenizer(Bytes(), ()), SMALL, reference)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(DataError, match="neither empty nor a prepared set"):
        prepare(source, tokenizer, SMALL, tmp_path / "mine")
    (tmp_path / "mine").rename(tmp_path / "set.partial")
    with pytest.raises(DataError, match="stands where the unfinished set would go"):
        prepare(source, tokenizer, SMALL, tmp_path / "set")
    assert (tmp_path / "set.partial" / "letter.txt").read_text() == "keep me"
    (tmp_path / "empty").mkdir()
    prepare(source, tokenizer, SMALL, tmp_path / "empty")
    assert contents(tmp_path / "empty") == contents(reference)


# -- a full disk, damage, another's leavings ----------------------------------------------------------------------


def test_a_full_disk_is_noticed_before_the_write(source, tokenizer, tmp_path, monkeypatch, reference):
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as fault:
        fault.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1_000_000))
        with pytest.raises(DataError, match=r"the disk is full \(1 MB free, \d+ MB needed next\); make room and run"):
            prepare(source, tokenizer, SMALL, tmp_path / "set")
    prepare(source, tokenizer, SMALL, tmp_path / "set")
    assert contents(tmp_path / "set") == contents(reference)


@pytest.mark.parametrize("call", [0, 7, 40])
def test_a_disk_that_fills_up_costs_nothing_but_time(source, tokenizer, tmp_path, monkeypatch, reference, call):
    monkeypatch.setattr(batches, "BATCH_BYTES", 20_000)
    monkeypatch.setattr(fill, "COMMIT_SECONDS", 0.0)
    append, calls = writer.SplitWriter._append, iter(range(10_000))

    def fails_once(self, stream):
        if next(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, stream)

    monkeypatch.setattr(writer.SplitWriter, "_append", fails_once)
    with pytest.raises(DataError, match=r"the disk is full \(No space left on device\)"):
        prepare(source, tokenizer, SMALL, tmp_path / "set")
    progress = Recorder()
    prepare(source, tokenizer, SMALL, tmp_path / "set", progress=progress)
    assert contents(tmp_path / "set") == contents(reference)
    assert bool(progress.notes) == (call > 1)  # "going on after document ..."


@pytest.fixture
def unfinished(source, tokenizer, tmp_path, monkeypatch):
    """A folder whose run stopped halfway."""
    monkeypatch.setattr(batches, "BATCH_BYTES", 20_000)
    monkeypatch.setattr(fill, "COMMIT_SECONDS", 0.0)
    with monkeypatch.context() as fault:
        calls = iter(range(10_000))

        def stop(folder, needed):
            if next(calls) == 12:
                raise KeyboardInterrupt

        fault.setattr(fill, "check_space", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, tokenizer, SMALL, tmp_path / "set")
    assert (tmp_path / "set.partial" / "journal.json").is_file()
    return tmp_path


def test_another_order_starts_again_and_says_so(unfinished, source, tokenizer, reference):
    progress = Recorder()
    other = build_tokenizer(Bytes(), ())
    prepare(source, other, SMALL, unfinished / "set", progress=progress)
    assert "left by another source, tokenizer or options; starting again" in progress.notes[0]
    assert open_token_set(unfinished / "set", "train", verify=True).tokenizer == other.manifest


@pytest.mark.parametrize("name", ["train-00000.bin", "train.documents.part", "validation.metadata.jsonl"])
def test_a_file_shorter_than_the_journal_starts_again(unfinished, source, tokenizer, reference, name):
    path = unfinished / "set.partial" / name
    path.write_bytes(path.read_bytes()[:100])
    progress = Recorder()
    prepare(source, tokenizer, SMALL, unfinished / "set", progress=progress)
    assert f"{name} is shorter than the journal says; starting again" in progress.notes[-1]
    assert contents(unfinished / "set") == contents(reference)


def test_what_a_kill_left_behind_the_journal_is_cut_off(unfinished, source, tokenizer, reference):
    partial = unfinished / "set.partial"
    for name in ("train-00000.bin", "train.documents.part", "train.metadata.jsonl", "validation-00000.bin"):
        with (partial / name).open("ab") as stream:
            stream.write(b"half a write")
    (partial / "train-00007.bin").write_bytes(b"a later shard")
    prepare(source, tokenizer, SMALL, unfinished / "set")
    assert contents(unfinished / "set") == contents(reference)
