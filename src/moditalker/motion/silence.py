"""Where nobody speaks the mouth is shut and still (contract 4), whatever else is heard.

AToM learns this from recordings without speech, but speech features alone do not always tell music or a beep
from a voice. A voice activity detector does, and here it decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from moditalker.landmarks import shut_mouth
from moditalker.motion.voice_activity import voice_activity

Array = NDArray[np.float32]

SURE, LIKELY = 0.5, 0.15  # probability that a stretch of speech reaches, and that each frame of it has
NEAR = 8  # frames within which a likely frame has a sure one
ONSET, OFFSET, RAMP = 5, 5, 4  # frames left to AToM before and after speech; and in which the mouth gives way
REACH = max(ONSET, OFFSET) + RAMP  # frames to each side that are asked for speech


def _windows(items: Iterable[float], reach: int) -> Iterator[list[float]]:
    """For each item those up to ``reach`` before and after it, NaN beyond the ends."""
    window: deque[float] = deque([np.nan] * (2 * reach + 1), maxlen=2 * reach + 1)
    for taken, item in enumerate(chain(items, [np.nan] * reach)):
        window.append(item)
        if taken >= reach:
            yield list(window)


def silence(chunks: Iterable[Array]) -> Iterator[float]:
    """How much each frame of 25 Hz belongs to a stretch without speech, 0 to 1.

    It looks `NEAR` + `REACH` frames ahead. chunks: waveform at 16 kHz in [-1, 1].
    """
    spoken = (
        float(around[NEAR] >= LIKELY and np.nanmax(around) >= SURE)
        for around in _windows(voice_activity(chunks), NEAR)
    )
    for window in _windows(spoken, REACH):
        speech = [i - REACH for i, value in enumerate(window) if value == 1]
        ahead = min((i for i in speech if i >= 0), default=REACH + 1)
        behind = min((-i for i in speech if i <= 0), default=REACH + 1)
        free = min((ahead - ONSET) / RAMP, (behind - OFFSET) / RAMP)
        yield min(max(free, 0.0), 1.0)


def hush(motion: Iterable[Array], chunks: Iterable[Array], l_id: Array) -> Iterator[Array]:
    """Motion (n, 68, 3) at 25 Hz, with the mouth of ``l_id`` (68, 3) shut and still where nobody speaks."""
    rest, weights = shut_mouth(l_id), silence(chunks)
    for block in motion:
        weight = np.array([next(weights, 1.0) for _ in block], np.float32)[:, None, None]
        weight = weight * weight * (3 - 2 * weight)  # smooth at both ends
        yield (block + weight * (rest - block)).astype(np.float32)
