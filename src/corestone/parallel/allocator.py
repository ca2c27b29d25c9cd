"""glibc's allocator, for training: keep freed memory mapped, and let freed neighbours become one block again.

glibc gives large blocks back to the kernel, and touching them anew is slow. And it keeps small freed blocks apart for
quick reuse. An aligned block, such as every tensor's, is cut out of a larger one, and its clippings are small: while
they are kept apart or in use, the block cannot become as large as it was, the next tensor of the same size does not
fit, and memory grows by holes (measured in docs/LOG.md).
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping, Sequence

# Names and numbers from glibc's malloc.h.
_M_MXFAST, _M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = 1, -1, -2, -3, -4
_LARGEST, _NEVER = 2**31 - 1, -1

TUNABLES = "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"
"""Read by glibc when a process begins: the thread cache cannot be switched off later, and fast bins are best off before
the first block (docs/LOG.md)."""


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed, without fast bins. Returns False where it is another allocator.

    Call it once, before large tensors are made.
    """
    if not _glibc_allocates(os.environ):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    keep = {_M_MMAP_THRESHOLD: _LARGEST, _M_TRIM_THRESHOLD: _NEVER, _M_TOP_PAD: 64 << 20, _M_MMAP_MAX: 0}
    accepted = [mallopt(key, value) for key, value in {**keep, _M_MXFAST: 0}.items()]
    return all(accepted)


def restart_without_thread_cache(arguments: Sequence[str]) -> None:
    """Begin this process anew (exec: same id, same files) with TUNABLES in its environment, where that is of use.

    Returns where it is not: another allocator, or GLIBC_TUNABLES is set, by the user, whose choice it stays, or by the
    restart itself. Children inherit it. Call it before anything is opened or started.

    Args:
        arguments: of the command. A process that was started by another command (a program that calls Corestone)
            stays what it is.
    """
    command = sys.orig_argv
    own = len(command) > len(arguments) > 0 and command[-len(arguments) :] == list(arguments)
    if not own or "GLIBC_TUNABLES" in os.environ or not _glibc_allocates(os.environ):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command, {**os.environ, "GLIBC_TUNABLES": TUNABLES})


def _glibc_allocates(environment: Mapping[str, str]) -> bool:
    preloaded = environment.get("LD_PRELOAD", "")
    return sys.platform.startswith("linux") and not any(
        name in preloaded for name in ("tcmalloc", "jemalloc", "mimalloc")
    )
