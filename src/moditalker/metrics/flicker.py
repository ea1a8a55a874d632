"""Measures how much a video quivers in time."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from moditalker.metrics.region import box, region


def flicker(frames: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Mean |f[t-1] - 2 f[t] + f[t+1]| over the mask, grey levels in [0, 510]; 0 for steady change. [ours]

    frames (S, H, W, 3), S >= 3. Quivering counts in full, steady motion little. It depends on the clip, so
    read it as a ratio to the source's in the same mask. Empty mask: nan. Raises ValueError for other shapes.
    """
    x = np.asarray(frames)
    if x.ndim != 4 or len(x) < 3:
        raise ValueError(f"flicker needs at least 3 frames (S, H, W, 3), not {x.shape}")
    inside = region(mask, x.shape[:-1])
    total, count = 0.0, 0
    for t in range(1, len(x) - 1):
        here = inside[t - 1] & inside[t] & inside[t + 1]
        if not here.any():
            continue
        part = box(here, 0)
        here = here[part]
        before, now, after = (x[i][part][here].astype(np.float64) for i in (t - 1, t, t + 1))
        total += float(np.abs(before - 2 * now + after).sum())
        count += 3 * int(here.sum())
    return total / count if count else float("nan")
