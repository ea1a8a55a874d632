"""Tools for streams. None holds more than a few items, however long the stream is."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from queue import Full, Queue
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from moditalker.jobs.machine import adopt_threads

A = TypeVar("A")
B = TypeVar("B")


def beside(items: Iterable[A], function: Callable[[Iterator[A]], Iterable[B]]) -> Iterator[tuple[A, B]]:
    """Pairs of each item and its result, for a function from stream to stream that may look ahead.

    `function` gives one result an item, in order; items wait here for as long as it looks ahead.
    """
    waiting: deque[A] = deque()

    def passing() -> Iterator[A]:
        for item in items:
            waiting.append(item)
            yield item

    for result in function(passing()):
        yield waiting.popleft(), result


def fade(usable: Iterable[bool], frames: int) -> Iterator[float]:
    """0 for unusable frames, rising to 1 within `frames` of them; the stream's ends are no reason to fade.

    Looks `frames` ahead.
    """
    window = deque([True] * (2 * frames + 1), maxlen=2 * frames + 1)
    for taken, ok in enumerate(chain(usable, repeat(True, frames))):
        window.append(ok)
        if taken >= frames:
            distances = [abs(i - frames) for i, fine in enumerate(window) if not fine]
            yield min(distances, default=frames + 1) / (frames + 1)


class Timeline:
    """Evenly spaced arrays that arrive in blocks, read at rising times (Catmull-Rom between samples)."""

    def __init__(self, blocks: Iterable[NDArray[np.float32]], rate: float) -> None:
        self.blocks, self.rate = iter(blocks), rate
        self.held: deque[NDArray[np.float32]] = deque()
        self.first = 0  # index of held[0]

    def at(self, seconds: float) -> NDArray[np.float32]:
        """The track at a time; before the start its first, after the end its last sample.

        Raises:
            ValueError: an empty track, or a time before one that was asked for earlier by more than a
                sample.
        """
        place = max(0.0, seconds * self.rate)
        index = int(place + 1e-6)
        weight = max(0.0, place - index)
        # Between samples two more are needed; on a sample nothing is waited for.
        while self.first + len(self.held) <= index + (2 if weight > 1e-6 else 0):
            block = next(self.blocks, None)
            if block is None:
                break
            self.held.extend(block)
        while self.first < index - 1 and len(self.held) > 3:
            self.held.popleft()
            self.first += 1
        if not self.held or index < self.first:
            raise ValueError(f"the track does not reach back to {seconds:.3f} s")
        p0, p1, p2, p3 = (
            self.held[min(max(index + k - self.first, 0), len(self.held) - 1)] for k in (-1, 0, 1, 2)
        )
        if weight <= 1e-6:
            return p1
        slope = (p2 - p0) + weight * (2 * p0 - 5 * p1 + 4 * p2 - p3 + weight * (3 * (p1 - p2) + p3 - p0))
        return (p1 + 0.5 * weight * slope).astype(p1.dtype)


def ahead(items: Iterable[A], count: int) -> Iterator[A]:
    """`items`, made in another thread that is at most `count` of them ahead.

    Its errors are raised here. If the reader stops early, the thread stops too.
    """
    made: Queue[tuple[A] | BaseException | None] = Queue(count)
    stopped = threading.Event()

    def give(item: tuple[A] | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(Full):
                return made.put(item, timeout=0.1)

    def work() -> None:
        adopt_threads()
        source = iter(items)
        try:
            for item in source:
                give((item,))
                if stopped.is_set():
                    break
            give(None)
        except BaseException as error:
            give(error)
        finally:
            if isinstance(source, Generator):
                source.close()  # in this thread: files that it opened are closed where they were read

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        stopped.set()
        if thread is not threading.current_thread():  # which may be the one that collects a forgotten reader
            thread.join()


class Clock:
    """Seconds by stage. Of nested stages the innermost counts. Each thread counts its own time.

    seconds: of wall time; cpu: of processor time.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self._thread = _Thread()

    def _count(self) -> None:
        now, cpu, own = time.perf_counter(), time.thread_time(), self._thread
        if own.stages:
            self.seconds[own.stages[-1]] += now - own.mark
            self.cpu[own.stages[-1]] += cpu - own.cpu_mark
        own.mark, own.cpu_mark = now, cpu

    def forget(self, keep: Container[str] = ()) -> None:
        """Set all stages to zero, except some."""
        for times in (self.seconds, self.cpu):
            for stage in [name for name in times if name not in keep]:
                del times[stage]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what runs inside for `name`."""
        self._count()
        self._thread.stages.append(name)
        try:
            yield
        finally:
            self._count()
            self._thread.stages.pop()

    def each(self, name: str, items: Iterable[A]) -> Iterator[A]:
        """`items`; the time to make them counts for `name`."""
        source = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item


class _Thread(threading.local):
    """A thread's open stages, and since when the innermost counts."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.mark, self.cpu_mark = time.perf_counter(), time.thread_time()
