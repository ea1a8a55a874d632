"""Finds the part of a picture inside an outline of landmarks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Box = tuple[slice, slice]


def outlined(outline: ArrayLike, size: tuple[int, int], scale: float = 1.0) -> tuple[Box, NDArray[np.bool_]]:
    """Return the box (rows, columns) of an outline in a picture of `size` (H, W), and its pixels inside.

    outline: (N, 2) pixels x, y, in order; scale: enlarges it about its mean point. A pixel is inside if its
    centre is, by the even-odd rule. If the outline is not finite or outside the picture, the box is empty.
    """
    points = np.asarray(outline, np.float64)
    if not np.isfinite(points).all():
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), bool)
    middle = points.mean(0)
    points = middle + scale * (points - middle)
    limits = np.array([size[1], size[0]])
    low = np.clip(np.floor(points.min(0)).astype(int), 0, limits)
    high = np.clip(np.ceil(points.max(0)).astype(int) + 1, low, limits)
    x, y = np.arange(low[0], high[0]), np.arange(low[1], high[1])[:, None]
    inside = np.zeros((len(y), len(x)), bool)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if ay != by:
            crosses = (ay > y) != (by > y)
            inside ^= crosses & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    return (slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))), inside
