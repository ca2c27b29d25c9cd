"""Keep freed memory mapped: glibc gives large blocks back to the kernel, and touching them anew is slow."""

from __future__ import annotations

import ctypes
import os
import sys

# Names and numbers from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_LARGEST, _NEVER = 2**31 - 1, -1


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed. Returns False where the allocator is another one.

    Measured in docs/LOG.md; call it once, before large tensors are made.
    """
    if not sys.platform.startswith("linux") or "tcmalloc" in os.environ.get("LD_PRELOAD", ""):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = {_M_MMAP_THRESHOLD: _LARGEST, _M_TRIM_THRESHOLD: _NEVER, _M_TOP_PAD: 64 << 20, _M_MMAP_MAX: 0}
    accepted = [mallopt(key, value) for key, value in settings.items()]
    return all(accepted)
