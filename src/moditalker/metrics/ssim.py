"""Structural similarity, SSIM."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from moditalker.metrics.region import Array, pairs

SIGMA, RADIUS = 1.5, 5  # pixels: the Gaussian window of 11x11
STRIP = 64  # pixels that are blurred at once


def ssim(a: ArrayLike, b: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Mean over the mask and the channels of the structural similarity, in [-1, 1]; 1: equal.

    Gaussian window of 11x11, sigma 1.5, K1 = 0.01, K2 = 0.03, population covariances [Wang, Bovik, Sheikh,
    Simoncelli 2004]. Empty mask: nan. Raises ValueError if the shapes do not fit.
    """
    total, count = 0.0, 0
    for x, y, inside in pairs(a, b, mask, RADIUS):  # beyond the window's reach nothing counts
        total += float(_scores(x, y)[inside].sum())
        count += 3 * int(inside.sum())
    return total / count if count else float("nan")


def _scores(x: Array, y: Array) -> Array:
    """The similarity at each pixel and channel of (H, W, 3)."""
    a, b = x.transpose(2, 0, 1), y.transpose(2, 0, 1)
    mean_a, mean_b, square_a, square_b, product = map(_blurred, (a, b, a * a, b * b, a * b))
    var_a, var_b, covariance = square_a - mean_a**2, square_b - mean_b**2, product - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    scores: Array = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )
    result: Array = scores.transpose(1, 2, 0)
    return result


def _blurred(planes: Array) -> Array:
    """Blur (C, H, W) by the Gaussian window, strip by strip: farther away the matrix is zero."""
    for axis in (1, 2):
        moved = np.moveaxis(planes, axis, 1)
        length = moved.shape[1]
        window, parts = _window(length), []
        for start in range(0, length, STRIP):
            near = slice(max(start - RADIUS, 0), start + STRIP + RADIUS)
            parts.append(window[start : start + STRIP, near] @ moved[:, near])
        planes = np.moveaxis(np.concatenate(parts, axis=1), 1, axis)
    return planes


@lru_cache(maxsize=64)
def _window(length: int) -> Array:
    """The Gaussian window along one axis as a matrix (length, length), edges mirrored."""
    taps = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / SIGMA) ** 2)
    mirrored = np.pad(np.arange(length), RADIUS, mode="symmetric")
    matrix = np.zeros((length, length))
    for offset, tap in enumerate(taps / taps.sum()):
        np.add.at(matrix, (np.arange(length), mirrored[offset : offset + length]), tap)
    return matrix
