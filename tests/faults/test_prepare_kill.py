"""Preparation killed at random moments, again and again, ends with the bytes of an uninterrupted run."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from corestone.data.document import Counts
from corestone.data.prepare.pipeline import prepare
from corestone.data.sources import documents
from corestone.data.spec import BytePair, Embedded, Files, Prepare
from corestone.data.tokenizer import build_tokenizer

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from corestone.data.prepare import batches, fill
from corestone.data.prepare.pipeline import prepare
from corestone.data.spec import Files, Prepare
from corestone.data.tokenizer import load_tokenizer
if __name__ == "__main__":
    batches.BATCH_BYTES, fill.COMMIT_SECONDS = 5_000, 0.0  # many moments to be killed at
    root, workers = Path(sys.argv[2]), int(sys.argv[3])
    source = Files(paths=(str(root / "docs.jsonl"),), validation_percent=30)
    print("ready", flush=True)
    prepare(source, load_tokenizer(root / "tokenizer"), Prepare(shard_tokens=20_000), root / "set", workers)
"""


@pytest.fixture(scope="module")
def texts():
    return [document.text for document in documents(Embedded(name="python-docs"), "stop", Counts())][:2500]


@pytest.mark.parametrize(("workers", "seed"), [(0, 1), (0, 2), (1, 3)])
def test_killed_and_run_again_until_done(tmp_path, texts, workers, seed):
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenizer = build_tokenizer(BytePair(vocab_size=600), texts[:500])
    tokenizer.save(tmp_path / "tokenizer")
    source = Files(paths=(str(path),), validation_percent=30)
    prepare(source, tokenizer, Prepare(shard_tokens=20_000), tmp_path / "uninterrupted")
    (tmp_path / "run.py").write_text(SCRIPT)
    random_source, kills, committed = random.Random(seed), 0, []
    for attempt in range(12):
        latest = 0.06 if attempt < 4 else 1.0 + workers  # the first ones surely before the end
        if run_and_kill(tmp_path, workers, random_source.uniform(0.005, latest)):
            break
        kills += 1
        committed.append(documents_committed(tmp_path))
    else:
        assert run_and_kill(tmp_path, workers, None)
    assert kills >= 2
    assert committed == sorted(committed)  # no kill loses what was committed
    expected = {file.name: file.read_bytes() for file in (tmp_path / "uninterrupted").iterdir()}
    assert {file.name: file.read_bytes() for file in (tmp_path / "set").iterdir()} == expected
    assert not (tmp_path / "set.partial").exists()


def run_and_kill(root: Path, workers: int, seconds: float | None) -> bool:
    """Run the script, SIGKILL it so long after its work began; True where it had finished by itself."""
    package = Path(__file__).parents[2] / "src"
    command = [sys.executable, str(root / "run.py"), str(package), str(root), str(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return False
        if process.returncode:
            raise AssertionError(process.stderr.read().decode())
    return True


def documents_committed(root: Path) -> float:
    """How many documents are safe: what the journal says, all once the manifest is written, none before the journal."""
    if (root / "set").exists() or (root / "set.partial" / "manifest.json").is_file():
        return math.inf
    journal = root / "set.partial" / "journal.json"
    return int(json.loads(journal.read_text())["documents"]) if journal.is_file() else 0
