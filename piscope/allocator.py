"""Keep freed memory instead of giving it back to the kernel between two arrays.

An analysis makes and drops arrays of tens of megabytes; glibc maps and unmaps each of
them, and every page is faulted in anew (a third of an analysis of ten million events).
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ("keep_freed_memory",)

# /usr/include/malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_NEVER_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Ask glibc to reuse what is freed; elsewhere, do nothing.

    Source: mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return
    mallopt(_M_MMAP_THRESHOLD, _NEVER_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _NEVER_BYTES)
    # what one thread frees the others reuse
    mallopt(_M_ARENA_MAX, 1)
