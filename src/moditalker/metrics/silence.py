"""How still a mouth is while nothing is said."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from moditalker.metrics.lips import together


def stillness(opening: ArrayLike, speaking: ArrayLike) -> float:
    """How far a mouth strays in silence, over its range in speech; >= 0, 0: quite still. [ours]

    opening: lip opening of the silent frames, of which the whole range counts; speaking: lip opening in
    speech, of which the 5th to 95th percentile does. Either without a face, or a mouth that never moves:
    nan.
    """
    silent, spoken = together(opening)[0], together(speaking)[0]
    if not len(silent) or not len(spoken):
        return float("nan")
    low, high = np.percentile(spoken, [5, 95])
    return float(np.ptp(silent) / (high - low)) if high > low else float("nan")
