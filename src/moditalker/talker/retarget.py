"""Carries the motion to each frame: landmarks in that frame's head pose (paper: the affine step)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from moditalker.config.limits import RATE
from moditalker.features.face.identity import FaceFrame
from moditalker.geometry.looks import Identity
from moditalker.geometry.points import MOUTH, shut_mouth
from moditalker.jobs.streams import Timeline
from moditalker.motion.track import Track
from moditalker.talker.steps import Motion

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]

STEADY = 0.1  # share of a new frame (25 Hz) in the steady shape that lips at rest have [ours]
NEAR_REST = 0.02  # canonical units from the rest face where lips no longer count as at rest


class Wish:
    """Wanted landmarks of each frame, in the head's pose (paper: the affine step).

    Args:
        blocks: of the motion, (n, 68, 3) at 25 Hz.
        fps: of the frames. calm: lips at rest do not shake with the frame's landmarks.
    """

    def __init__(
        self, motion: Motion | Track, blocks: Iterable[Array], fps: float, calm: bool = True
    ) -> None:
        self.calm = calm
        self.timeline = Timeline(blocks, RATE)
        self.rest = shut_mouth(motion.identity)
        self.share = 1 - (1 - STEADY) ** (RATE / fps)
        self.steady: NDArray[np.float64] | None = None  # of the lips, beside the frontal landmarks
        self.frontal = motion.identity

    def advance(self, time: float) -> None:
        """Go to the frame at `time`, in seconds; times must rise."""
        self.frontal = self.timeline.at(time)

    def forget(self) -> None:
        """Another run of frames begins."""
        self.steady = None

    def posed(self, face: FaceFrame, anchor: Identity) -> Array:
        """The wanted landmarks of a usable frame: (1, 68, 3), pixels of the frame."""
        # The motion of one identity, as another one makes it: the difference to rest carries it over.
        still = max(0.0, 1 - float(np.abs(self.frontal - self.rest).max()) / NEAR_REST)
        frontal = shut_mouth(anchor.frontal) + (self.frontal - self.rest)
        posed: Array = face.affine.posed(frontal[None])
        if not self.calm:
            return posed
        error = face.affine.error()[:, MOUTH]
        self.steady = error if self.steady is None else self.steady + self.share * (error - self.steady)
        posed[:, MOUTH] += (still * (self.steady - error)).astype(np.float32)
        return posed
