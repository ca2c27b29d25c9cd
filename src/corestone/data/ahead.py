"""Batches of consecutive steps, made ahead of the trainer by one thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

B = TypeVar("B")


class Ahead(Generic[B]):
    """A daemon thread that makes the batches of consecutive steps into a bounded queue."""

    def __init__(self, make: Callable[[int], B], first: int, depth: int) -> None:
        self.next_step = first
        self._make = make
        self._ready: queue.Queue[B | BaseException] = queue.Queue(maxsize=depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(first,), name="corestone-loader", daemon=True)
        self._thread.start()

    def take(self) -> B:
        """The batch of `next_step`; an exception of the thread is raised here instead."""
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        self.next_step += 1
        return item

    def stop(self) -> None:
        """End the thread. What it made and nobody took is dropped."""
        self._stopped.set()
        while True:  # room in the queue wakes a thread that waits to put
            try:
                self._ready.get_nowait()
            except queue.Empty:
                break
        self._thread.join()

    def _work(self, step: int) -> None:
        while not self._stopped.is_set():
            try:
                item: B | BaseException = self._make(step)
            except BaseException as error:
                item = error
            self._ready.put(item)
            if isinstance(item, BaseException):
                return
            step += 1


class Prefetched(Generic[B]):
    """`make(step)` for any step; while steps follow one another, `depth` of them are made ahead (0: none)."""

    def __init__(self, make: Callable[[int], B], depth: int) -> None:
        self._make, self._depth = make, depth
        self._ahead: Ahead[B] | None = None

    def batch(self, step: int) -> B:
        """The batch of a step. After an error the next call begins anew."""
        if self._depth == 0:
            return self._make(step)
        if self._ahead is None or self._ahead.next_step != step:
            self.close()
            self._ahead = Ahead(self._make, step, self._depth)
        try:
            return self._ahead.take()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the thread; `batch` may start another."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None
