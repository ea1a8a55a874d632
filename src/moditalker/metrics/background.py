"""Measures how far a video changed what it was not asked to change."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from moditalker.metrics.region import pairs


def background_difference(frames: ArrayLike, source: ArrayLike, mask: ArrayLike) -> float:
    """Mean absolute difference over pixels whose mask is at most 0.02, in [0, 255]; 0: identical. [ours]

    The mask is the generated region's, float in [0, 1] with its soft border. Everything masked: nan. Raises
    ValueError if the shapes do not fit.
    """
    total, count = 0.0, 0
    for x, y, outside in pairs(frames, source, np.asarray(mask) <= 0.02):
        total += float((np.abs(x - y).sum(-1) * outside).sum())
        count += 3 * int(outside.sum())
    return total / count if count else float("nan")
