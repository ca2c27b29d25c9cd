"""The estimate of a source's length is near the truth, whichever form the text has."""

from __future__ import annotations

import gzip
import json
import random

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from corestone.data.document import Counts
from corestone.data.prepare.estimate import total_bytes
from corestone.data.sources import documents
from corestone.data.spec import Embedded, Files, Hub

DRAWN = random.Random(0)
WORDS = ["".join(DRAWN.choices("abcdefghijklmnopqrstuvwxyz", k=DRAWN.randint(1, 12))) for _ in range(3000)]
TEXTS = [" ".join(DRAWN.choices(WORDS, k=300)) for _ in range(4000)]


def write(path):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines))
    elif path.name.endswith(".zst"):
        path.write_bytes(zstandard.compress(lines))
    elif path.name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "n": list(range(len(TEXTS)))}), path)
    else:
        path.write_bytes(lines)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_files(tmp_path, name):
    write(tmp_path / name)
    truth = sum(len(text) for text in TEXTS)
    # Worst seen: 0.6 %, the braces and keys of JSON lines.
    assert total_bytes([Files(paths=(str(tmp_path / name),))]) == pytest.approx(truth, rel=0.02)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_damage_is_left_to_the_reader(tmp_path, name):
    write(tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:100])
    assert total_bytes([Files(paths=(str(tmp_path / name),))]) == 100


def test_embedded_text_is_about_as_long_as_its_card_says():
    source = Embedded(name="python-docs")
    truth = sum(len(document.text.encode()) for document in documents(source, "stop", Counts()))
    assert total_bytes([source]) == pytest.approx(truth, rel=0.25)  # it differs between Python versions


def test_a_hub_does_not_tell():
    assert total_bytes([Embedded(name="python-docs"), Hub(path="owner/name")]) is None
