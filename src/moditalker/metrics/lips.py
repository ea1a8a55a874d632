"""Measures how well one track of lip opening (S,) follows another.

Frames are left out if any of the tracks is not finite there (no face was found). A track that does not move
has correlation 0. With fewer than LEAST frames it is nan.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Track = NDArray[np.float64]

LEAST = 3  # frames that a correlation needs: two always lie on a line


def together(*tracks: ArrayLike) -> list[Track]:
    """Return the tracks as float64, without the frames in which any of them is missing."""
    arrays = [np.asarray(track, dtype=np.float64) for track in tracks]
    if any(array.ndim != 1 or array.shape != arrays[0].shape for array in arrays):
        raise ValueError(f"tracks must be 1-D and of one length, not {[array.shape for array in arrays]}")
    usable = np.all(np.isfinite(arrays), axis=0)
    return [array[usable] for array in arrays]


def correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson correlation of two tracks (S,), in [-1, 1]; nan for too few frames. Raises ValueError."""
    x, y = together(a, b)
    if len(x) < LEAST:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y / size) if size > 1e-12 else 0.0


def best_lag(generated: ArrayLike, reference: ArrayLike, most: int = 5) -> tuple[float, float]:
    """Find the shift within +-`most` frames at which the tracks correlate best, and that correlation.

    Positive: the generated lips come late by that many frames. The lag closest to 0 wins a tie. [ours: the
    cross-correlation's peak, each lag normalised over the frames that overlap] Both are nan if no lag has
    enough frames. Raises ValueError if the tracks differ in length.
    """
    a, b = np.asarray(generated, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"tracks must be of one length, not {a.shape} and {b.shape}")
    most = min(most, max(len(a) - LEAST, 0))
    scores = {
        lag: correlation(a[max(lag, 0) : len(a) + min(lag, 0)], b[max(-lag, 0) : len(b) - max(lag, 0)])
        for lag in sorted(range(-most, most + 1), key=abs)
    }
    known = [lag for lag, score in scores.items() if not np.isnan(score)]
    if not known:
        return float("nan"), float("nan")
    lag = max(known, key=lambda key: scores[key])  # max keeps the first of equals
    return lag, scores[lag]


def amplitude_ratio(generated: ArrayLike, reference: ArrayLike) -> float:
    """Range of motion (5th to 95th percentile) of one track over the other, >= 0. [ours]

    1: as large; nan if both are still, inf if only the reference is.
    """
    x, y = together(generated, reference)
    if not len(x):
        return float("nan")
    low, high = np.percentile([x, y], [5, 95], axis=1)
    moved, meant = high - low
    return float(moved / meant) if meant > 0 else float("inf" if moved > 0 else "nan")
