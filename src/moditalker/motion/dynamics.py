"""Filters motion over time, and keeps the lips from crossing each other [ours]."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, repeat

import numpy as np
from numpy.typing import NDArray

from moditalker.geometry.points import INNER_LOWER, INNER_UPPER

Array = NDArray[np.float32]


def filtered(motion: Iterable[Array], weights: Array) -> Iterator[Array]:
    """Filter by a weighted sum of neighbours in time; the first and the last frame repeat at the ends.

    Args:
        motion: blocks (n, 68, 3).
        weights: (2 reach + 1,), for the frames around each.
    Yields:
        (1, 68, 3) float32, ``reach`` frames later.
    """
    reach = len(weights) // 2
    frames = chain.from_iterable(motion)
    first = next(frames, None)
    if first is None:
        return
    last = first
    window = [first] * len(weights)
    for taken, frame in enumerate(chain([first], frames, repeat(None, reach))):
        last = last if frame is None else frame
        window = [*window[1:], last]
        if taken >= reach:
            yield np.tensordot(weights, np.stack(window), axes=1).astype(np.float32)[None]


def gaussian(sigma: float, reach: int) -> Array:
    """Weights (2 reach + 1,) for `filtered`, which add up to 1; sigma: frames."""
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    result: Array = (kernel / kernel.sum()).astype(np.float32)
    return result


def uncrossed(landmarks: Array) -> Array:
    """Let inner lips that would cross meet in the middle. landmarks: (n, 68, 3)."""
    met = landmarks.copy()
    crossing = np.minimum(met[:, INNER_UPPER, 1] - met[:, INNER_LOWER, 1], 0) / 2
    met[:, INNER_UPPER, 1] -= crossing
    met[:, INNER_LOWER, 1] += crossing
    result: Array = met
    return result
