"""The run log survives kills, full disks and torn lines, and gives back what was written."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestone.core.environment import environment
from corestone.core.errors import CheckpointError, CorestoneError
from corestone.core.runlog import RunLog, number, read_events
from corestone.train.trackers import build_trackers, scalars


def _fill(run: Path, steps: int) -> None:
    with RunLog(run) as log:
        for step in range(1, steps + 1):
            log.log("train", step=step, tokens=step * 100, loss=10 / step, learning_rate=1e-3)
            if step % 5 == 0:
                log.log("sample", step=step, tokens=step * 100, samples=[{"prompt": "a", "text": "ü\n<b>"}])


def test_events_come_back_as_written(tmp_path: Path) -> None:
    before = time.time()
    _fill(tmp_path, 10)
    events = read_events(tmp_path)
    assert [row["step"] for row in events.of("train")] == list(range(1, 11))
    assert events.of("sample")[0]["samples"] == [{"prompt": "a", "text": "ü\n<b>"}]
    assert all(row["tokens"] == row["step"] * 100 and row["time"] >= before - 1 for row in events.rows)
    assert events.unreadable == ()
    # one object per line, whatever is in the texts
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").count("\n") == len(events.rows) == 12


def test_every_line_is_json_for_any_reader_also_with_nan(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.log("anomaly", step=1, tokens=2, loss=math.nan, norms=[math.inf, 1.0], text="half a pair \ud800")

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    row = json.loads((tmp_path / "metrics.jsonl").read_text(encoding="utf-8"), parse_constant=refuse)
    assert math.isnan(number(row, "loss") or 0.0)
    assert row["norms"] == ["inf", 1.0]
    assert number(row, "text") is None
    assert number(row, "absent") is None
    assert number({"flag": True}, "flag") is None


def test_a_line_is_in_the_file_before_log_returns(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.log("train", step=1, tokens=1, loss=1.0)
    assert len(read_events(tmp_path).rows) == 1  # neither flushed nor closed by hand
    log.close()
    log.close()


@pytest.mark.parametrize("cut", [1, 2, 10, 40])
def test_a_torn_last_line_is_counted_and_the_next_event_is_whole(tmp_path: Path, cut: int) -> None:
    _fill(tmp_path, 4)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[: -1 - cut])
    events = read_events(tmp_path)
    assert [row["step"] for row in events.rows] == [1, 2, 3]
    assert events.unreadable == (4,)
    with RunLog(tmp_path) as log:
        log.log("train", step=4, tokens=400, loss=2.5)
    events = read_events(tmp_path)
    assert [row["step"] for row in events.rows] == [1, 2, 3, 4]
    assert events.unreadable == (4,)


def test_a_cut_at_any_byte_loses_only_the_cut_line(tmp_path: Path) -> None:
    _fill(tmp_path, 5)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        complete = whole[:size].count(b"\n")
        # a line that lacks only its line end is complete
        rows = len(read_events(tmp_path).rows)
        assert rows == complete + (whole[size : size + 1] == b"\n")


@given(steps=st.integers(0, 12), keep=st.integers(0, 14), torn=st.booleans())
def test_truncate_then_write_again_equals_an_uninterrupted_log(
    tmp_path_factory: pytest.TempPathFactory, steps: int, keep: int, torn: bool
) -> None:
    run = tmp_path_factory.mktemp("run")
    _fill(run, steps)
    if torn:
        with (run / "metrics.jsonl").open("ab") as file:
            file.write(b'{"event": "train", "st')
    with RunLog(run) as log:
        expected = sum(row["step"] > keep for row in read_events(run).rows) + torn
        assert log.truncate(keep) == expected
        for step in range(min(steps, keep) + 1, 13):
            log.log("train", step=step, tokens=step * 100)
    events = read_events(run)
    assert [row["step"] for row in events.of("train")] == list(range(1, 13))
    assert events.unreadable == ()
    assert sorted(path.name for path in run.iterdir()) == ["metrics.jsonl"]


def test_a_killed_writer_leaves_whole_lines(tmp_path: Path) -> None:
    code = (
        "import sys, itertools; from pathlib import Path; from corestone.core.runlog import RunLog\n"
        "log = RunLog(Path(sys.argv[1]))\n"
        "for step in itertools.count(1):\n"
        "    log.log('train', step=step, tokens=step, text='x' * 5000)\n"
        "    if step == 1: print('going', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    events = read_events(tmp_path)
    assert [row["step"] for row in events.rows] == list(range(1, len(events.rows) + 1))
    assert len(events.rows) >= 1
    assert len(events.unreadable) <= 1


def test_a_full_disk_is_one_clear_line_and_leaves_no_half_line(tmp_path: Path) -> None:
    """A file-size limit stands in for the full disk: the kernel writes what fits and refuses the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with RunLog(tmp_path) as log:
            log.log("train", step=1, tokens=1)
            size = (tmp_path / "metrics.jsonl").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30, hard))
            with pytest.raises(CheckpointError, match=r"metrics\.jsonl: cannot be written .*free the disk"):
                log.log("train", step=2, tokens=2)
            assert (tmp_path / "metrics.jsonl").stat().st_size == size
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            log.log("train", step=2, tokens=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert [row["step"] for row in read_events(tmp_path).rows] == [1, 2]


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        RunLog(tmp_path / "file" / "run")


def test_no_log_is_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path).rows == ()


def test_scalars_take_numbers_and_metrics_only() -> None:
    event = {
        "event": "evaluate",
        "step": 3,
        "time": 1.0,
        "tokens": 5,
        "loss": "nan",
        "note": "x",
        "metrics": {"bits_per_byte": 2.0},
    }
    assert scalars(event) == {"evaluate/tokens": 5.0, "evaluate/bits_per_byte": 2.0}


def test_tensorboard_files_hold_the_numbers_and_hide_what_a_resume_takes_back(tmp_path: Path) -> None:
    def run(first: int, last: int) -> None:
        with RunLog(tmp_path, build_trackers([], tmp_path, "name", {})) as log:
            log.truncate(first - 1)
            for step in range(first, last + 1):
                log.log("train", step=step, tokens=step * 10, loss=float(step))
            log.log("sample", step=last, tokens=last * 10, samples=[{"prompt": "p", "text": "t"}])

    run(1, 4)
    time.sleep(1.1)  # event files are named by the second
    run(3, 5)
    seen, restarts = _tensorboard(tmp_path / "tensorboard")
    assert seen == [1.0, 2.0, 3.0, 4.0, 3.0, 4.0, 5.0]
    assert restarts == [3]


def _tensorboard(folder: Path) -> tuple[list[float], list[int]]:
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    losses, restarts = [], []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        place = 0
        while place < len(data):  # length (8 bytes), checksum (4), message, checksum (4)
            length = int.from_bytes(data[place : place + 8], "little")
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += 16 + length
            losses += [value.simple_value for value in event.summary.value if value.tag == "train/loss"]
            if event.session_log.status == SessionLog.START:
                restarts.append(event.step)
    return losses, restarts


def test_an_unknown_tracker_names_the_nearest() -> None:
    with pytest.raises(CorestoneError, match="did you mean 'mlflow'"):
        build_trackers(["mlfow"], Path(), "name", {})


@pytest.mark.parametrize("kind", ["mlflow", "wandb"])
def test_a_tracker_whose_library_is_missing_names_the_extra(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, kind, None)  # importing it fails now, installed or not
    with pytest.raises(CorestoneError, match=rf"pip install 'corestone\[{kind}\]'"):
        build_trackers([kind], tmp_path, "name", {})


def test_mlflow_gets_the_numbers_and_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'store'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for first in (1, 3):
        with RunLog(tmp_path, build_trackers(["mlflow"], tmp_path, "name", {"seed": 1})) as log:
            log.truncate(first - 1)
            for step in range(first, first + 3):
                log.log("train", step=step, tokens=step, loss=float(step))
    remote = (tmp_path / "mlflow-run.txt").read_text().strip()
    points = mlflow.MlflowClient().get_metric_history(remote, "train/loss")
    assert sorted(point.step for point in points) == [1, 2, 3, 3, 4, 5]


def test_wandb_takes_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with RunLog(tmp_path, build_trackers(["wandb"], tmp_path, "name", {"seed": 1})) as log:
        log.truncate(0)
        log.log("train", step=1, tokens=1, loss=1.0)
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def _git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


def test_the_environment_tells_machine_versions_and_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/some/where/corestone", "pretrain", "two words"])
    assert environment()["git"] is None
    _git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "code.py").write_text("1\n")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "first")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    clean = environment()
    assert clean["git"]["branch"] == "main"
    assert len(clean["git"]["commit"]) == 40
    assert clean["git"]["modified"] is False
    assert clean["command"] == "corestone pretrain 'two words'"
    assert clean["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert clean["machine"]["memory_bytes"] > 2**28
    assert clean["packages"]["numpy"]
    (tmp_path / "code.py").write_text("2\n")
    assert environment()["git"]["modified"] is True
    assert json.loads(json.dumps(clean)) == clean


def test_the_environment_imports_no_torch() -> None:
    code = "import sys; from corestone.core.environment import environment as e; g = e()['machine']['gpu']; "
    code += "assert 'torch' not in sys.modules; assert g is None"
    subprocess.run([sys.executable, "-c", code], check=True)
