"""Where nothing is said the mouth is shut and still (contract 4): a rule after AToM, since features do not
tell.

Whisper's features are normalised by the loudest moment, so faint noise alone looks like speech at full
level. The waveform knows: a frame is silent where it is very quiet beside the loudest so far, or quiet and no
louder than its surroundings' floor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from moditalker.landmarks import shut_mouth

Array = NDArray[np.float32]

FRAME = 640  # samples of 16 kHz in a frame of 25 Hz
NOTHING = 0.002  # root mean square that no speech has, in a recording that is not faint itself
SHARE = 0.04  # of the loudest so far, that no speech has in any recording
NOISE = 0.0002  # root mean square that holds nothing to be heard, in 16 bits
FAINT = 0.02  # above it, a frame is never silent
CONTRAST = 2.0  # speech is louder than the floor around it by this factor
AROUND = 19  # frames on each side that the floor is taken from
ONSET, OFFSET, RAMP = 5, 3, 4  # frames left to AToM before and after speech; and in which the mouth gives way


def levels(chunks: Iterable[Array]) -> Iterator[float]:
    """Root mean square of each frame of a waveform in chunks (16 kHz, [-1, 1])."""
    held = np.zeros(0, np.float32)
    for chunk in chunks:
        held = np.concatenate([held, chunk])
        whole = len(held) // FRAME * FRAME
        for frame in held[:whole].reshape(-1, FRAME):
            yield float(np.sqrt(np.mean(frame**2)))
        held = held[whole:]
    if len(held):
        yield float(np.sqrt(np.mean(held**2)))


def _windows(items: Iterable[float], reach: int) -> Iterator[list[float]]:
    """For each item those up to ``reach`` before and after it, NaN beyond the ends."""
    window: deque[float] = deque([np.nan] * (2 * reach + 1), maxlen=2 * reach + 1)
    for taken, item in enumerate(chain(items, [np.nan] * reach)):
        window.append(item)
        if taken >= reach:
            yield list(window)


def silence(chunks: Iterable[Array]) -> Iterator[float]:
    """How much each frame of 25 Hz belongs to a silence, 0 to 1; looks about 1.2 s ahead.

    chunks: waveform at 16 kHz in [-1, 1].
    """

    def silent() -> Iterator[float]:
        loudest = 0.0
        for window in _windows(levels(chunks), AROUND):
            level, floor = window[AROUND], float(np.nanquantile(window, 0.1))
            loudest = max(loudest, float(np.nanmax(window)))
            nothing = min(NOTHING, max(NOISE, SHARE * loudest))
            yield float(level < nothing or (level < FAINT and level < CONTRAST * floor))

    reach = max(ONSET, OFFSET) + RAMP
    for window in _windows(silent(), reach):
        speech = [i - reach for i, value in enumerate(window) if value == 0]
        ahead = min((i for i in speech if i >= 0), default=reach + 1)
        behind = min((-i for i in speech if i <= 0), default=reach + 1)
        free = min((ahead - ONSET) / RAMP, (behind - OFFSET) / RAMP)
        yield min(max(free, 0.0), 1.0)


def hush(motion: Iterable[Array], chunks: Iterable[Array], l_id: Array) -> Iterator[Array]:
    """Motion (n, 68, 3) at 25 Hz, with the mouth of ``l_id`` (68, 3) shut and still where the sound is
    silent.
    """
    rest, weights = shut_mouth(l_id), silence(chunks)
    for block in motion:
        weight = np.array([next(weights, 1.0) for _ in block], np.float32)[:, None, None]
        weight = weight * weight * (3 - 2 * weight)  # smooth at both ends
        yield (block + weight * (rest - block)).astype(np.float32)
