"""What a process that trains on behalf of another one owes it. Loads no torch."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
from pathlib import Path


def end_with_parent() -> None:
    """Save and stop when the process that started this one was killed: nobody else would stop this run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def hold(descriptor: int, lock: Path) -> None:
    """Wait until no other process trains under this lock, such as one whose starter was killed a moment ago."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{lock.parent}: waiting for another process that trains here", flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
