"""The machine that we run on: devices, threads, memory."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from moditalker.errors import UserError
from moditalker.jobs.heaps import share_heaps

_LOCK = threading.Lock()
_BEFORE: list[int] = []  # torch's threads before, once for each block of `half_the_threads` that is open


class _Own(threading.local):
    """Open blocks of a thread: torch has a setting for each thread, and new threads take the last one."""

    open = 0


_OWN = _Own()


@contextmanager
def half_the_threads() -> Iterator[None]:
    """Torch with half of its threads: stages run in parallel, and their operations are small.

    On a busy machine this also saves a small operation from waiting for a processor that is not free:
    finding the anchor took 53 s with two threads beside another program on two cores, and 0.9 s with
    one.
    """
    share_heaps()
    with _LOCK:
        _BEFORE.append(_BEFORE[0] if _BEFORE else torch.get_num_threads())
        torch.set_num_threads(max(1, _BEFORE[0] // 2))
        _OWN.open += 1
    try:
        yield
    finally:
        with _LOCK:
            threads = _BEFORE.pop()
            _OWN.open -= 1
            if not _BEFORE or _OWN.open <= 0:
                torch.set_num_threads(threads)


def adopt_threads() -> None:
    """Let a new thread use as many OpenMP threads as torch is set to.

    Until a thread asks torch for their number, its OpenMP regions take all processors: two stages then have
    twice as many threads as there are processors, which wait for each other in busy loops.
    """
    torch.get_num_threads()


def check_device(device: str) -> None:
    """Raise UserError if a device ("cpu", "cuda", "cuda:1", "mps") is not available."""
    kind = device.partition(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, False):
        usable = ", ".join(name for name, ok in there.items() if ok)
        raise UserError(f"device {device!r} is not available here; there is {usable}")


def peak_rss() -> int | None:
    """Peak memory of this process, bytes; None if the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
