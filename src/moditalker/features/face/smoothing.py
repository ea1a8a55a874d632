"""Removes short gaps and jitter from a followed face. Both steps look a fixed number of frames ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, repeat

import numpy as np
from numpy.typing import NDArray

from moditalker.features.face.found import Face
from moditalker.geometry.points import MESH_TO_68, MOUTH

Array = NDArray[np.float32]
Image = NDArray[np.uint8]  # (H, W, 3) RGB

GAP_SECONDS = 0.2  # shorter losses are interpolated
SMOOTHING_SECONDS = 0.08  # half window of the smoothing, which is its look-ahead
JITTER = 0.008  # smaller movements (over the face's extent) are smoothed, larger ones pass
JITTER_LIPS = 0.003  # less: what the lips do is the signal


def fill_gaps(track: Iterable[Face | None], limit: int) -> Iterator[Face | None]:
    """Interpolate over at most ``limit`` missing faces in a row within a shot; looks ``limit`` ahead."""
    before: Face | None = None
    missing = 0
    for face in track:
        if face is None:
            missing += 1
            if before is None or missing > limit:
                yield from repeat(None, missing)
                before, missing = None, 0
            continue
        for i in range(1, missing + 1):
            if before is None or face.cut:
                yield None
            else:
                part = np.float32(i / (missing + 1))
                yield Face((1 - part) * before.points + part * face.points, 0.0)
        yield face
        before, missing = face, 0
    yield from repeat(None, missing)


def smooth(track: Iterable[Face | None], radius: int) -> Iterator[Face | None]:
    """Remove each point's jitter but not its motion; looks ``radius`` frames back and ahead.

    A Gaussian over time whose weights also fall with the distance from where the point is now (a bilateral
    filter): nothing lags, and a point that moves by more than jitter keeps its path.
    """
    window: deque[Face | None] = deque(repeat(None, radius), maxlen=2 * radius + 1)
    for face in chain(track, repeat(None, radius)):
        window.append(face)
        if len(window) == 2 * radius + 1:
            yield _smoothed(list(window), radius)


_JITTER = np.full(478, JITTER, np.float32)
_JITTER[MESH_TO_68[MOUTH]] = JITTER_LIPS


def _smoothed(window: list[Face | None], middle: int) -> Face | None:
    face, reach = window[middle], 0
    while (
        face is not None and reach < middle
    ):  # equally far both ways within the shot: a one-sided mean would lag
        first, inner, last = window[middle - reach - 1], window[middle - reach], window[middle + reach + 1]
        if first is None or last is None or last.cut or (inner is not None and inner.cut):
            break
        reach += 1
    if face is None or reach == 0:
        return face
    near = [other for other in window[middle - reach : middle + reach + 1] if other is not None]
    offsets = np.stack([other.points - face.points for other in near])  # (2 reach + 1, 478, 3)
    times = np.arange(-reach, reach + 1, dtype=np.float32)[:, None] / (middle / 2)
    distances = np.linalg.norm(offsets[..., :2], axis=-1) / (_JITTER * face.size)
    weights = np.exp(-(times**2 + distances**2) / 2)[..., None]
    return replace(face, points=face.points + (weights * offsets).sum(0) / weights.sum(0))
