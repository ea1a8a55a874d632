"""Streams: look-ahead, fading, interpolation in time, time by stage."""

from __future__ import annotations

import gc
import threading
import time
from collections import deque

import numpy as np
import pytest
from scipy.interpolate import CubicHermiteSpline

from moditalker.jobs.streams import Clock, Timeline, ahead, beside, fade


def test_beside_pairs_items_with_delayed_results():
    def doubled_late(items):
        waiting = deque()
        for item in items:
            waiting.append(item)
            if len(waiting) > 3:
                yield 2 * waiting.popleft()
        yield from (2 * item for item in waiting)

    assert list(beside(range(10), doubled_late)) == [(i, 2 * i) for i in range(10)]
    assert list(beside([], doubled_late)) == []


@pytest.mark.parametrize("length", [0, 1, 2, 5, 9, 20])
@pytest.mark.parametrize("frames", [1, 3])
def test_fade_falls_towards_unusable_frames(length, frames):
    usable = [i % 11 != 6 for i in range(length)]
    bad = [i for i, ok in enumerate(usable) if not ok]
    expected = [min([abs(i - j) / (frames + 1) for j in bad] + [1.0]) for i in range(length)]
    assert list(fade(iter(usable), frames)) == pytest.approx(expected)


def test_timeline_is_the_catmull_rom_spline_and_passes_through_samples():
    rng = np.random.default_rng(0)
    track = rng.normal(size=(30, 4, 3))
    blocks = [track[:7], track[7:8], track[8:8], track[8:]]
    slopes = np.concatenate(
        [[(track[1] - track[0]) / 2], (track[2:] - track[:-2]) / 2, [(track[-1] - track[-2]) / 2]]
    )
    spline = CubicHermiteSpline(np.arange(30), track, slopes)
    timeline = Timeline(blocks, rate=25.0)
    for t in np.arange(0, 29 / 25, 1001 / 60000):
        assert timeline.at(t) == pytest.approx(spline(t * 25), abs=1e-9)
    assert timeline.at(2.0) == pytest.approx(track[-1])  # beyond the end
    exact = Timeline(blocks, rate=25.0)
    assert all((exact.at(i / 25) == track[i]).all() for i in range(30))


def test_timeline_holds_a_few_samples_and_refuses_to_go_back():
    timeline = Timeline((np.zeros((10, 2)) for _ in range(1000)), rate=25.0)
    for i in range(5000):
        timeline.at(i / 25)
        assert len(timeline.held) < 20
    with pytest.raises(ValueError, match="does not reach back"):
        timeline.at(0.0)
    with pytest.raises(ValueError, match="does not reach back"):
        Timeline([], rate=25.0).at(0.0)


def test_ahead_makes_items_in_order_in_another_thread_and_is_never_far_ahead():
    made: list[int] = []
    threads = set()

    def items():
        for i in range(50):
            threads.add(threading.current_thread())
            made.append(i)
            yield i

    for i, item in enumerate(ahead(items(), 3)):
        assert item == i
        assert len(made) <= i + 6
    assert made == list(range(50))
    assert threading.current_thread() not in threads
    assert list(ahead([], 3)) == []
    assert list(ahead([None, ()], 3)) == [None, ()]


def test_ahead_passes_errors_on_and_stops_with_its_reader():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    before = threading.active_count()
    reader = ahead(endless(), 2)
    assert next(reader) == 1
    reader.close()
    assert closed.is_set()

    def broken():
        yield 1
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(ahead(ahead(broken(), 2), 2))
    assert threading.active_count() == before


def test_clock_counts_each_second_once():
    clock = Clock()

    def inner():
        for i in range(3):
            time.sleep(0.01)
            yield i

    def outer():
        for i in clock.each("inner", inner()):
            time.sleep(0.02)
            yield i

    begun = time.perf_counter()
    assert list(clock.each("outer", outer())) == [0, 1, 2]
    assert clock.seconds["inner"] == pytest.approx(0.03, abs=0.02)
    assert clock.seconds["outer"] == pytest.approx(0.06, abs=0.03)
    assert sum(clock.seconds.values()) <= time.perf_counter() - begun


def test_a_reader_may_be_forgotten_in_the_thread_that_makes_its_items():
    left, gone, forgotten = [], threading.Event(), threading.Event()

    def items():
        yield 1
        gone.wait()
        left.clear()  # the last reference: the reader is closed here
        forgotten.set()
        yield 2

    reader = ahead(items(), 1)
    assert next(reader) == 1
    left.append(reader)
    del reader
    gone.set()
    assert forgotten.wait(10)
    gc.collect()
