"""How well lips follow: numbers from tracks of lip opening (S,).

Frames where any of the tracks is not finite (no face was found) are left out. A track that does not move
follows nothing: its correlation is 0, not undefined.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Track = NDArray[np.float64]


def together(*tracks: ArrayLike) -> list[Track]:
    """The tracks as float64, without the frames where any of them is missing."""
    arrays = [np.asarray(track, dtype=np.float64) for track in tracks]
    if any(array.ndim != 1 or array.shape != arrays[0].shape for array in arrays):
        raise ValueError(f"tracks must be 1-D and of one length, not {[array.shape for array in arrays]}")
    usable = np.all(np.isfinite(arrays), axis=0)
    return [array[usable] for array in arrays]


def correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson correlation of two tracks (S,), in [-1, 1]; fewer than 3 frames: 0. Raises ValueError."""
    x, y = together(a, b)
    if len(x) < 3:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y / size) if size > 1e-12 else 0.0


def best_lag(generated: ArrayLike, reference: ArrayLike, most: int = 5) -> tuple[int, float]:
    """The shift within +-`most` frames at which the tracks correlate best, and that correlation.

    Positive: the generated lips come late by that many frames. The lag closest to 0 wins a tie. [ours: the
    cross-correlation's peak, each lag normalised over the frames that overlap] Raises ValueError.
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


def amplitude_ratio(generated: ArrayLike, reference: ArrayLike) -> float:
    """Range of motion (5th to 95th percentile) of one track over the other, >= 0. [ours]

    1: as large; nan where both are still, inf where only the reference is.
    """
    x, y = together(generated, reference)
    if not len(x):
        return float("nan")
    low, high = np.percentile([x, y], [5, 95], axis=1)
    moved, meant = high - low
    return float(moved / meant) if meant > 0 else float("inf" if moved > 0 else "nan")
