"""Settings of the C library's memory. Cheap to import, as they have to be made before threads begin."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache

_ARENA_MAX = -8  # of glibc's malloc.h


@cache
def share_heaps() -> None:
    """Let threads share two heaps, if the C library is glibc.

    Else each thread has its own heap, which keeps the memory of freed frames: 0.2 GB at 1920x1080.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 2)
