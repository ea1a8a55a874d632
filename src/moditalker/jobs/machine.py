"""The machine that we run on: devices, threads, memory. Cheap to import: torch is loaded when it is needed.

How many threads there are, for every command, worker, service and training:

- Threads that wait sleep, and NumPy has one thread, as its matrices are small (`calm`).
- A worker process has its share of the processors, and no more than OMP_NUM_THREADS (`calm`).
- Stages that run beside each other have half of torch's threads each (`half_the_threads`).
- What runs once for each of many videos or batches has one thread (`one_thread`).
- A training step and a metric have all of torch's.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from moditalker.errors import UserError
from moditalker.jobs.heaps import share_heaps

_LOCK = threading.Lock()
_BEFORE: list[int] = []  # torch's threads before, once for each block of `half_the_threads` that is open


class _Own(threading.local):
    """Open blocks of a thread: torch has a setting for each thread, and new threads take the last one."""

    open = 0


_OWN = _Own()


def calm(share: int | None = None) -> None:
    """Set the threads of this process and of those that it starts, before torch and NumPy are loaded.

    OpenMP's and OpenBLAS's threads wait in busy loops unless they are told otherwise: on shared processors
    these took half of the time.

    Args:
        share: the most threads that this process may have; OMP_NUM_THREADS may say fewer.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if share is None:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        return
    given = os.environ.get("OMP_NUM_THREADS", "")
    most = min(share, int(given)) if given.isdigit() and int(given) > 0 else share
    os.environ |= {"OMP_NUM_THREADS": str(most), "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": str(most)}


def one_thread() -> None:
    """Let torch use one thread here, and in threads that begin later."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def half_the_threads() -> Iterator[None]:
    """Torch with half of its threads: stages run in parallel, and their operations are small.

    On a busy machine this also saves a small operation from waiting for a processor that is not free:
    finding the anchor took 53 s with two threads beside another program on two cores, and 0.9 s with
    one.
    """
    import torch

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
    import torch

    torch.get_num_threads()


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_device(device: str) -> None:
    """Raise UserError if a device ("cpu", "cuda", "cuda:1", "mps") is not available."""
    import torch

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
