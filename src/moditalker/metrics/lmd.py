"""Landmark distance, LMD [Chen, Li, Maddox, Duan, Xu 2018, "Lip Movements Generation at a Glance"]."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def landmark_distance(generated: ArrayLike, reference: ArrayLike) -> float:
    """Mean distance of corresponding points (S, N, 2 or 3), in their unit; >= 0, less is closer.

    For the LMD of papers, use pixels at their frame size. To ignore size, divide by the eye distance. To
    ignore position, subtract each frame's mean. Points that are nan are left out; none left: nan. Raises
    ValueError if the shapes do not fit.
    """
    a, b = np.asarray(generated, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(
            f"landmarks must be two arrays (S, N, 2 or 3) of one shape, not {a.shape} and {b.shape}"
        )
    distance = np.linalg.norm(a - b, axis=-1)
    return float(np.nanmean(distance)) if np.isfinite(distance).any() else float("nan")
