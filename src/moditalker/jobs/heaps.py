"""Where the C library keeps memory. Costs nothing to import, so that it is told before threads begin."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_ARENA_MAX = -8  # of glibc's malloc.h


def share_heaps() -> None:
    """Let threads share two heaps, where the C library is glibc.

    It gives each thread a heap of its own, and keeps what frames left in them: 0.2 GB at 1920x1080.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 2)
