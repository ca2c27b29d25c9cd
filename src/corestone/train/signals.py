"""SIGINT and SIGTERM as a flag that the loop reads between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopFlag:
    """`signum` is None until a signal arrives. A second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def raise_flag(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Catch the two signals while the block runs; only a main thread can, elsewhere the flag stays down."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {signum: signal.signal(signum, flag.raise_flag) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
