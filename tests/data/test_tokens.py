"""A token set gives back the stream that was written, whatever its shards, and refuses damaged files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corestone.core.errors import DataError
from corestone.data.prepare.pipeline import prepare
from corestone.data.spec import Bytes, Files, Prepare
from corestone.data.tokenizer import build_tokenizer
from corestone.data.tokens import open_token_set

SHARD = 1024


@pytest.fixture(scope="module")
def texts():
    words = np.random.default_rng(3).integers(0, 900, size=2500)
    cuts = sorted(np.random.default_rng(4).integers(0, 2500, size=60).tolist())
    return [f"text {n}: " + " ".join(map(str, part)) for n, part in enumerate(np.split(words, cuts))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, texts):
    root = tmp_path_factory.mktemp("tokens")
    path = root / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = Files(paths=(str(path),), validation_percent=20)
    prepare(source, build_tokenizer(Bytes(), ()), Prepare(shard_tokens=SHARD), root / "set")
    return root / "set"


@pytest.fixture
def damaged(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def whole_stream(folder, split):
    """The stream by numpy alone, as any other program would read it."""
    return np.concatenate([np.memmap(path, "<u2", "r") for path in sorted(folder.glob(f"{split}-*.bin"))])


@pytest.mark.parametrize("split", ["train", "validation"])
def test_stream_is_separators_and_texts_in_order(folder, texts, split):
    token_set = open_token_set(folder, split, verify=True)
    stream = whole_stream(folder, split)
    assert len(token_set.shards) > 1
    assert all(len(shard) == SHARD for shard in token_set.shards[:-1])
    assert len(stream) == token_set.n_tokens
    assert np.array_equal(np.flatnonzero(stream == 256), token_set.starts)
    assert len(token_set.starts) == token_set.n_documents + 1
    assert token_set.starts[-1] == token_set.n_tokens - 1
    for n in range(token_set.n_documents):
        begin, end = token_set.starts[n : n + 2]
        text = bytes(stream[begin + 1 : end].tolist()).decode()
        line = int(token_set.document_id(n).rsplit(":", 1)[1])
        assert text == texts[line - 1]
        assert token_set.document_bytes[n] == len(text.encode())


def test_both_splits_together_hold_each_text_once(folder, texts):
    sets = [open_token_set(folder, split) for split in ("train", "validation")]
    lines = [int(s.document_id(n).rsplit(":", 1)[1]) for s in sets for n in range(s.n_documents)]
    assert sorted(lines) == list(range(1, len(texts) + 1))


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_slice_is_that_of_the_whole_stream(folder, data):
    token_set = open_token_set(folder, "train")
    start = data.draw(st.integers(0, token_set.n_tokens))
    stop = data.draw(st.integers(start, token_set.n_tokens))
    part = token_set.slice(start, stop)
    assert part.dtype == np.int64
    assert np.array_equal(part, whole_stream(folder, "train")[start:stop])


def test_outside_the_stream(folder):
    token_set = open_token_set(folder, "train")
    for start, stop in ((-1, 3), (5, 4), (0, token_set.n_tokens + 1)):
        with pytest.raises(IndexError, match="outside a stream"):
            token_set.slice(start, stop)
    for n in (-1, token_set.n_documents):
        with pytest.raises(IndexError):
            token_set.document_id(n)


@pytest.mark.parametrize("name", ["train-00000.bin", "train-00002.bin", "train.documents.npy", "train.metadata.jsonl"])
def test_one_changed_bit_is_found_when_verified(damaged, name):
    path = damaged / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"{name}: its content changed \(sha256 expected \w+, found \w+\); delete"):
        open_token_set(damaged, "train", verify=True)
    open_token_set(damaged, "validation", verify=True)


@pytest.mark.parametrize("name", ["train-00001.bin", "train.documents.npy", "train.metadata.jsonl"])
def test_a_cut_or_missing_file_is_always_found(damaged, name):
    path = damaged / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{name}: has [\d,]+ bytes, its manifest says [\d,]+; delete the folder"):
        open_token_set(damaged, "train")
    path.unlink()
    with pytest.raises(DataError, match=f"{name}: missing; delete the folder"):
        open_token_set(damaged, "train")


def test_manifests_that_cannot_be_used(damaged, tmp_path):
    with pytest.raises(DataError, match="no prepared set"):
        open_token_set(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match="unknown split 'trian': did you mean 'train'"):
        open_token_set(damaged, "trian")
    path = damaged / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"version": 99}))
    with pytest.raises(DataError, match="version 99, this Corestone reads version 1"):
        open_token_set(damaged, "train")
    path.write_text(path.read_text()[:100])
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read"):
        open_token_set(damaged, "train")
