"""Silence: when nobody speaks, even if there is music or noise.

Speech features do not always tell music or a beep from a voice; a voice activity detector does. While it
detects no voice, the mouth is shut (`motion.stage.hush`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from moditalker.features.speech.voice_activity import voice_activity

Array = NDArray[np.float32]

SURE, LIKELY = 0.5, 0.15  # probability that a stretch of speech reaches, and that each frame of it has


@dataclass(frozen=True)
class Reach:
    """How far silence looks in one direction, frames of 25 Hz.

    near: a likely frame counts as speech if a sure one is this near; margin: silence next to speech that
    AToM moves; ramp: over which the mouth shuts.
    """

    near: int
    margin: int
    ramp: int

    @property
    def frames(self) -> int:
        """Their sum."""
        return self.near + self.margin + self.ramp


PATIENT = Reach(near=8, margin=5, ramp=4)  # behind a frame, and ahead of it where there is time
QUICK = Reach(near=2, margin=2, ramp=2)  # ahead of a frame where somebody waits for it


def _windows(items: Iterable[float], behind: int, ahead: int) -> Iterator[list[float]]:
    """For each item those from ``behind`` before to ``ahead`` after it; NaN beyond the ends."""
    window: deque[float] = deque([np.nan] * (behind + 1 + ahead), maxlen=behind + 1 + ahead)
    for taken, item in enumerate(chain(items, [np.nan] * ahead)):
        window.append(item)
        if taken >= ahead:
            yield list(window)


def silence(chunks: Iterable[Array], ahead: Reach = PATIENT) -> Iterator[float]:
    """How much each frame of 25 Hz belongs to a stretch without speech, 0 to 1.

    chunks: waveform at 16 kHz in [-1, 1]; ahead: what is looked at ahead of a frame, `ahead.frames` in
    all.
    """
    behind = PATIENT
    spoken = (
        float(around[behind.near] >= LIKELY and np.nanmax(around) >= SURE)
        for around in _windows(voice_activity(chunks), behind.near, ahead.near)
    )
    before, after = behind.margin + behind.ramp, ahead.margin + ahead.ramp
    for window in _windows(spoken, before, after):
        speech = [i - before for i, value in enumerate(window) if value == 1]
        coming = min((i for i in speech if i >= 0), default=after + 1)
        gone = min((-i for i in speech if i <= 0), default=before + 1)
        free = min((coming - ahead.margin) / ahead.ramp, (gone - behind.margin) / behind.ramp)
        yield min(max(free, 0.0), 1.0)
