"""Measures how far the face clip's mouth shows through in a video that another clip's sound drives."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from moditalker.metrics.lips import LEAST, correlation, together


def partial_correlation(a: ArrayLike, b: ArrayLike, given: ArrayLike) -> float:
    """Partial correlation: a linear regression on `given` is subtracted from `a` and `b`, then they are
    correlated.

    In [-1, 1]; 0: no leakage; nan: too few frames. Leakage: a = lip opening of the output, b = the face
    clip's, given = the audio clip's. What remains came from the face clip's mouth. Plain correlation of a and
    b is not a test, because unrelated sentences of one corpus share a rhythm and correlate too.
    Raises ValueError if the tracks are not 1-D and of one length.
    """
    x, y, z = together(a, b, given)
    if len(x) <= LEAST:  # one frame more than `correlation` needs, because the regression uses one up
        return float("nan")
    basis = np.stack([np.ones_like(z), z], axis=1)
    residuals = []
    for track in (x, y):
        residual = track - basis @ np.linalg.lstsq(basis, track, rcond=None)[0]
        # A residual this small is rounding error, so it is set to zero.
        residuals.append(
            residual if residual.std() > 1e-9 * max(track.std(), 1e-9) else np.zeros_like(residual)
        )
    return correlation(*residuals)
