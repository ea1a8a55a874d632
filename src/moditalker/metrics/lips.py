"""How well lips follow: numbers from tracks of lip opening (S,) and of landmarks (S, N, 2 or 3).

Frames where any of the tracks is not finite (no face was found) are left out. A track that does not move
follows nothing: its correlation is 0, not undefined.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Track = NDArray[np.float64]


def _together(*tracks: ArrayLike) -> list[Track]:
    """The tracks as float64, without the frames where any of them is missing."""
    arrays = [np.asarray(track, dtype=np.float64) for track in tracks]
    if any(array.ndim != 1 or array.shape != arrays[0].shape for array in arrays):
        raise ValueError(f"tracks must be 1-D and of one length, not {[array.shape for array in arrays]}")
    usable = np.all(np.isfinite(arrays), axis=0)
    return [array[usable] for array in arrays]


def correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson correlation of two tracks (S,), in [-1, 1]."""
    x, y = _together(a, b)
    if len(x) < 3:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y / size) if size > 1e-12 else 0.0


def best_lag(generated: ArrayLike, reference: ArrayLike, most: int = 5) -> tuple[int, float]:
    """The shift within +-`most` frames at which the tracks correlate best, and that correlation.

    Positive: the generated lips come late by that many frames. The lag closest to 0 wins a tie.
    """
    a, b = np.asarray(generated, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"tracks must be of one length, not {a.shape} and {b.shape}")
    most = min(most, max(len(a) - 3, 0))
    scores = {
        lag: correlation(a[max(lag, 0) : len(a) + min(lag, 0)], b[max(-lag, 0) : len(b) - max(lag, 0)])
        for lag in sorted(range(-most, most + 1), key=abs)
    }
    lag = max(scores, key=lambda key: scores[key])  # max keeps the first of equals
    return lag, scores[lag]


def partial_correlation(a: ArrayLike, b: ArrayLike, given: ArrayLike) -> float:
    """Correlation of what is left of `a` and `b` once `given` has explained what it can (linear regression).

    Leakage: a = output driven by other audio, b = the face clip's own opening, given = the audio clip's
    opening. What remains came from the face clip's mouth.
    """
    x, y, z = _together(a, b, given)
    if len(x) < 4:
        return 0.0
    basis = np.stack([np.ones_like(z), z], axis=1)
    residuals = []
    for track in (x, y):
        residual = track - basis @ np.linalg.lstsq(basis, track, rcond=None)[0]
        # what is rounding error compared with the track is nothing, not something to correlate
        residuals.append(
            residual if residual.std() > 1e-9 * max(track.std(), 1e-9) else np.zeros_like(residual)
        )
    return correlation(*residuals)


def amplitude_ratio(generated: ArrayLike, reference: ArrayLike) -> float:
    """Range of motion (5th to 95th percentile) of one track over the other; inf or nan where it is still."""
    x, y = _together(generated, reference)
    if not len(x):
        return float("nan")
    low, high = np.percentile([x, y], [5, 95], axis=1)
    moved, meant = high - low
    return float(moved / meant) if meant > 0 else float("inf" if moved > 0 else "nan")


def stillness(opening: ArrayLike, speaking: ArrayLike) -> float:
    """How far a mouth strays in silence: range of `opening` over the 5th-95th percentile of `speaking`."""
    silent, spoken = _together(opening)[0], _together(speaking)[0]
    if not len(silent) or not len(spoken):
        return float("nan")
    low, high = np.percentile(spoken, [5, 95])
    return float(np.ptp(silent) / (high - low)) if high > low else float("nan")


def landmark_distance(generated: ArrayLike, reference: ArrayLike) -> float:
    """Mean distance of corresponding points (S, N, 2 or 3), in their unit (the LMD of the paper's tables).

    Give mouth points only, with each frame's mean taken away first if position should not count.
    """
    a, b = np.asarray(generated, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(
            f"landmarks must be two arrays (S, N, 2 or 3) of one shape, not {a.shape} and {b.shape}"
        )
    distance = np.linalg.norm(a - b, axis=-1)
    return float(np.nanmean(distance)) if np.isfinite(distance).any() else float("nan")
