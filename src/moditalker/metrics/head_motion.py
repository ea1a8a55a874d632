"""Measures how far the head's rotation is from a reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def rotation_error(rotations: ArrayLike, reference: ArrayLike) -> float:
    """Mean angle between the head's rotations (S, 3, 3) in two videos, degrees in [0, 180]; 0: they agree.

    The geodesic distance on SO(3), frame by frame [Huynh 2009, metric Phi6]. Frames without a face are nan
    and left out; none left: nan. Raises ValueError for shapes that do not fit.
    """
    a, b = np.asarray(rotations, np.float64), np.asarray(reference, np.float64)
    if a.shape != b.shape or a.shape[1:] != (3, 3):
        raise ValueError(f"rotations must be two arrays (S, 3, 3), not {a.shape} and {b.shape}")
    usable = np.isfinite(a).all((1, 2)) & np.isfinite(b).all((1, 2))
    # The chord |A - B| = 2 sqrt 2 sin(angle / 2) stays exact for small angles; the arc cosine of the trace
    # does not.
    chord = np.linalg.norm((a - b)[usable], axis=(1, 2))
    angles = np.degrees(2 * np.arcsin(np.clip(chord / np.sqrt(8), 0, 1)))
    return float(angles.mean()) if len(angles) else float("nan")
