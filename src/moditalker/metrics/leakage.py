"""Whether the mouth of the face clip shows through in a video that another clip's sound drives."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from moditalker.metrics.lips import LEAST, correlation, together


def partial_correlation(a: ArrayLike, b: ArrayLike, given: ArrayLike) -> float:
    """Correlation of what is left of `a` and `b` once `given` has explained what it can (linear regression).

    In [-1, 1]; 0: nothing; nan: too few frames. Leakage: a = lip opening of the output driven by other audio,
    b = the face clip's own, given = the audio clip's own. What remains came from the face clip's mouth. Plain
    correlation of a and b is no test: two unrelated sentences of one corpus correlate too, by their rhythm.
    Raises ValueError.
    """
    x, y, z = together(a, b, given)
    if len(x) <= LEAST:  # one more than usual, since a line is taken out first
        return float("nan")
    basis = np.stack([np.ones_like(z), z], axis=1)
    residuals = []
    for track in (x, y):
        residual = track - basis @ np.linalg.lstsq(basis, track, rcond=None)[0]
        # what is rounding error compared with the track is nothing, not something to correlate
        residuals.append(
            residual if residual.std() > 1e-9 * max(track.std(), 1e-9) else np.zeros_like(residual)
        )
    return correlation(*residuals)
