"""Measures slow change over a clip, which an eye misses from frame to frame and sees after a minute."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def drift_per_minute(track: ArrayLike, fps: float) -> float:
    """Size of the least-squares slope of a track (S,) or (S, D), in its unit per minute; 0 or more. [ours]

    Frames with a value that is not finite are left out; fewer than 3 usable frames: nan. Raises ValueError
    for another shape or a frame rate that is not positive.
    """
    x = np.asarray(track, dtype=np.float64)
    if x.ndim not in (1, 2) or not fps > 0:
        raise ValueError(f"drift needs a track (S,) or (S, D) and fps > 0, not {x.shape} and {fps}")
    x = x.reshape(len(x), -1)
    usable = np.isfinite(x).all(1)
    if usable.sum() < 3:
        return float("nan")
    minutes = np.flatnonzero(usable) / (60 * fps)
    minutes = minutes - minutes.mean()
    return float(np.linalg.norm(minutes @ x[usable] / (minutes @ minutes)))
