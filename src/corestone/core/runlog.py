"""The run log: what happened in a run, one JSON object per line of `metrics.jsonl`, mirrored to trackers.

Every event has "event" (train, evaluate, sample, checkpoint, anomaly or end), "step", "tokens" and "time" (unix
seconds); further keys by kind. A number that is not finite is written as the text `nan`, `inf` or `-inf`, because
JSON has no such numbers and a log that only Python can read is half a log; `number` reads them back.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from corestone.core.errors import CheckpointError, CorestoneError, unknown

FILE = "metrics.jsonl"
Event = Mapping[str, Any]


class Tracker(Protocol):
    """A second place where a run's numbers go."""

    def write(self, event: Event) -> None:
        """Take one event as it stands in the log, or `resume`, which is in no log: what comes after `step` is void."""
        ...

    def close(self) -> None:
        """Send what is still held back and end."""
        ...


@dataclass(frozen=True)
class Events:
    """What a log holds.

    Attributes:
        rows: the events, in the order they were written.
        unreadable: numbers (from 1) of lines that are no event, such as a last line cut short by a kill.
    """

    rows: tuple[Event, ...] = ()
    unreadable: tuple[int, ...] = ()

    def of(self, kind: str) -> list[Event]:
        """The events of one kind."""
        return [row for row in self.rows if row["event"] == kind]


def number(event: Event, key: str) -> float | None:
    """A numeric field of an event: None where it is absent or no number, nan or inf where that was measured."""
    value = event.get(key)
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def read_events(run: Path) -> Events:
    """Read a run's log. A torn or damaged line is counted, never fatal; no file gives no events.

    Raises CheckpointError where the file is there but cannot be read.
    """
    path = run / FILE
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return Events()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    parsed = [(place, _parse(line)) for place, line in enumerate(lines, start=1) if line.strip()]
    return Events(
        rows=tuple(event for _, event in parsed if event is not None),
        unreadable=tuple(place for place, event in parsed if event is None),
    )


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:  # cut short, or not UTF-8
        return None
    whole = isinstance(event, dict) and isinstance(event.get("event"), str) and isinstance(event.get("step"), int)
    return event if whole else None


class RunLog:
    """Appends events to `metrics.jsonl`, a whole line or nothing, and passes them to the trackers.

    Each line is handed to the operating system in one write before `log` returns, so a killed process loses nothing
    that was logged.
    """

    def __init__(self, run: Path, trackers: Sequence[Tracker] = ()) -> None:
        """Open the log of a run folder, which is made where it is missing.

        Raises CheckpointError where the folder or file cannot be written.
        """
        self.path = run / FILE
        self._trackers = tuple(trackers)
        try:
            run.mkdir(parents=True, exist_ok=True)
            self._file = _open(self.path)
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def log(self, event: str, *, step: int, tokens: int, **fields: Any) -> None:
        """Write one event.

        Args:
            event: train, evaluate, sample, checkpoint, anomaly or end.
            step: optimiser steps done.
            tokens: training tokens seen.
            fields: JSON values; numbers may be nan or infinite.

        Raises:
            CheckpointError: the disk is full or the file cannot be written; the log then still ends in a whole line.
        """
        row = {"event": event, "step": step, "tokens": tokens, "time": round(time.time(), 3), **_finite(fields)}
        line = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")
        try:
            _append(self._file, line)
        except OSError as error:
            raise _unwritable(self.path, error) from None
        for tracker in self._trackers:
            tracker.write(row)

    def truncate(self, step: int) -> int:
        """Drop the events after `step` and unreadable lines, before a resumed run writes them anew.

        The file is replaced in one move, so a kill at any moment leaves the old log or the new one. Returns the number
        of lines dropped.
        """
        events = read_events(self.path.parent)
        keep = [row for row in events.rows if row["step"] <= step]
        dropped = len(events.rows) - len(keep) + len(events.unreadable)
        if dropped:
            try:
                os.close(self._file)
                _replace(self.path, keep)
                self._file = _open(self.path)
            except OSError as error:
                raise _unwritable(self.path, error) from None
        for tracker in self._trackers:
            tracker.write({"event": "resume", "step": step, "time": round(time.time(), 3)})
        return dropped

    def close(self) -> None:
        """Close the file and the trackers. Closing twice is harmless."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            for tracker in self._trackers:
                tracker.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path) -> int:
    """Open for appending. A torn last line is ended first, so that the next event gets a line of its own."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    size = os.fstat(file).st_size
    if size:
        os.lseek(file, size - 1, os.SEEK_SET)
        if os.read(file, 1) != b"\n":
            _append(file, b"\n")
    return file


def _append(file: int, line: bytes) -> None:
    """Write a whole line; where the disk fills up halfway, take the half line back."""
    before = os.fstat(file).st_size
    rest = line
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError:
        os.ftruncate(file, before)
        raise


def _replace(path: Path, rows: Iterable[Event]) -> None:
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # nan, inf or -inf
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    cure = "free the disk, then start the run again" if full else "check the folder and its permissions"
    return CheckpointError(f"{path}: cannot be written ({error.strerror}); {cure}")


def build_trackers(kinds: Sequence[str], run: Path, name: str, settings: Mapping[str, Any]) -> list[Tracker]:
    """TensorBoard files under RUN/tensorboard, and the further trackers asked for.

    Args:
        kinds: out of `mlflow` and `wandb`.
        run: the run folder. It keeps the remote runs' ids, so that a resumed run goes on in the same ones.
        name: of the run at the trackers.
        settings: the recipe as a plain tree, kept beside the numbers.

    Raises:
        CorestoneError: unknown name, or the extra that brings the library is not installed.
    """
    makers: dict[str, Callable[[Path, str, Mapping[str, Any]], Tracker]] = {"mlflow": MLflow, "wandb": WandB}
    for kind in kinds:
        if kind not in makers:
            raise CorestoneError(unknown("tracker", kind, makers))
    return [TensorBoard(run), *(makers[kind](run, name, settings) for kind in kinds)]


def scalars(event: Event) -> dict[str, float]:
    """The finite numbers of an event as `event/key`, nested ones (metrics) included; what trackers plot."""
    found: dict[str, float] = {}
    nested = event.get("metrics")
    for source in (event, nested if isinstance(nested, Mapping) else {}):
        for key in source:
            value = number(source, key)
            if value is not None and math.isfinite(value) and key not in ("step", "time"):
                found[f"{event['event']}/{key}"] = value
    return found


def _samples(event: Event) -> str:
    return "\n\n".join(f"**{item.get('prompt', '')}**{item.get('text', '')}" for item in event.get("samples", ()))


class TensorBoard:
    """Event files under RUN/tensorboard."""

    def __init__(self, run: Path) -> None:
        # Imported here because tensorboardX imports torch, which reading a log has no use for.
        from tensorboardX import SummaryWriter

        self._folder = run / "tensorboard"
        self._open = SummaryWriter
        self._writer: Any = None
        self._hide_from: int | None = None

    def write(self, event: Event) -> None:
        """Add the event's numbers, and its samples as text."""
        if event["event"] == "resume":
            # The format has its own way to take steps back: a session start that hides what older files say after it.
            self._hide_from = event["step"] + 1 if self._folder.is_dir() else None
            return
        if self._writer is None:
            self._writer = self._open(str(self._folder), purge_step=self._hide_from)
        for name, value in scalars(event).items():
            self._writer.add_scalar(name, value, event["step"], walltime=event["time"])
        if event["event"] == "sample":
            self._writer.add_text("sample", _samples(event), event["step"], walltime=event["time"])
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()


class MLflow:
    """A run of mlflow; server and experiment come from mlflow's own environment variables."""

    def __init__(self, run: Path, name: str, settings: Mapping[str, Any]) -> None:
        try:
            import mlflow
        except ImportError:
            raise CorestoneError("tracker 'mlflow' needs a library: pip install 'corestone[mlflow]'") from None
        self._mlflow = mlflow
        known = _remote_id(run, "mlflow")
        active = mlflow.start_run(run_id=known, run_name=None if known else name)
        if known is None:
            mlflow.log_dict(dict(settings), "recipe.json")
            _remember(run, "mlflow", active.info.run_id)

    def write(self, event: Event) -> None:
        """Log the event's numbers."""
        self._mlflow.log_metrics(scalars(event), step=event["step"])

    def close(self) -> None:
        """End the remote run."""
        self._mlflow.end_run()


class WandB:
    """A run of Weights & Biases; project and key come from its own environment variables."""

    def __init__(self, run: Path, name: str, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise CorestoneError("tracker 'wandb' needs a library: pip install 'corestone[wandb]'") from None
        known = _remote_id(run, "wandb") or uuid.uuid4().hex[:8]
        self._run = wandb.init(id=known, resume="allow", name=name, dir=str(run), config=dict(settings))
        _remember(run, "wandb", known)
        # Steps go by a metric of our own: wandb's counter refuses to go back to a checkpoint.
        self._run.define_metric("*", step_metric="step")

    def write(self, event: Event) -> None:
        """Log the event's numbers, with the step as a number among them."""
        self._run.log({**scalars(event), "step": event["step"]})

    def close(self) -> None:
        """End the remote run."""
        self._run.finish()


def _remote_id(run: Path, kind: str) -> str | None:
    note = run / f"{kind}-run.txt"
    return note.read_text(encoding="utf-8").strip() or None if note.is_file() else None


def _remember(run: Path, kind: str, remote: str) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / f"{kind}-run.txt").write_text(remote + "\n", encoding="utf-8")
