"""How the C library hands large buffers out."""

from __future__ import annotations

import ctypes
import sys

# mallopt's parameters in glibc's malloc.h. 32 MiB is the largest threshold that it takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
FROM_THE_SYSTEM_BYTES = 32 * 2**20
KEPT_FREE_BYTES = 256 * 2**20


def keep_large_buffers() -> bool:
    """Let the process keep what it has freed, so that the buffers of one request serve the next; whether it can.

    Otherwise glibc asks the system for every buffer of more than 128 KiB anew, which gives it page by page, and zeroed:
    that takes longer than the protocol does.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all(
        mallopt(parameter, size) == 1
        for parameter, size in ((_MMAP_THRESHOLD, FROM_THE_SYSTEM_BYTES), (_TRIM_THRESHOLD, KEPT_FREE_BYTES))
    )
