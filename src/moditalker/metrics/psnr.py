"""Peak signal-to-noise ratio."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from moditalker.metrics.region import pairs


def psnr(a: ArrayLike, b: ArrayLike, mask: ArrayLike | None = None) -> float:
    """10 log10(255^2 / mean squared error over the mask), dB in (0, inf]; more is closer.

    The error is averaged over all pixels and channels of all frames before the logarithm. Equal pictures:
    inf, empty mask: nan. Raises ValueError if the shapes do not fit.
    """
    error, count = 0.0, 0
    for x, y, inside in pairs(a, b, mask):
        difference = x - y if mask is None else x[inside] - y[inside]  # picking pixels takes time
        error += float((difference * difference).sum())
        count += difference.size
    if not count:
        return float("nan")
    return float(10 * np.log10(255**2 * count / error)) if error > 0 else float("inf")
