"""Measures how still a mouth is while nothing is said."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from moditalker.metrics.lips import together


def stillness(opening: ArrayLike, speaking: ArrayLike) -> float:
    """Range of a mouth in silence, over its range in speech; >= 0, 0: quite still. [ours]

    opening: lip opening of the silent frames, whose whole range counts; speaking: lip opening in speech,
    whose 5th to 95th percentile counts. nan if either shows no face, or the mouth never moves.
    """
    silent, spoken = together(opening)[0], together(speaking)[0]
    if not len(silent) or not len(spoken):
        return float("nan")
    low, high = np.percentile(spoken, [5, 95])
    return float(np.ptp(silent) / (high - low)) if high > low else float("nan")
