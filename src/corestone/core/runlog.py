"""The run log: what happened in a run, one JSON object per line of `metrics.jsonl`, mirrored to trackers.

Every event has "event" (train, evaluate, sample, checkpoint, anomaly or end), "step", "time" (unix seconds) and what
was seen so far ("tokens" or "pictures"); further keys by kind. A number that is not finite is written as the text
`nan`, `inf` or `-inf`, because JSON has no such numbers and a log that only Python can read is half a log; `number`
reads them back.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from corestone.core.errors import CheckpointError

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

    def log(self, event: str, *, step: int, **fields: Any) -> None:
        """Write one event.

        Args:
            event: train, evaluate, sample, checkpoint, anomaly or end.
            step: optimiser steps done.
            fields: JSON values; numbers may be nan or infinite. Among them is what was seen so far, under the name of
                the run's unit (`tokens`, `pictures`).

        Raises:
            CheckpointError: the disk is full or the file cannot be written; the log then still ends in a whole line.
        """
        row = {"event": event, "step": step, "time": round(time.time(), 3), **spelled(fields)}
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


def spelled(value: Any) -> Any:
    """A JSON tree with its numbers that are not finite as texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # nan, inf or -inf
    if isinstance(value, Mapping):
        return {str(key): spelled(item) for key, item in value.items()}
    return [spelled(item) for item in value] if isinstance(value, (list, tuple)) else value


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    cure = "free the disk, then start the run again" if full else "check the folder and its permissions"
    return CheckpointError(f"{path}: cannot be written ({error.strerror}); {cure}")
