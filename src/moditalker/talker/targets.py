"""Targets: each frame's face, the landmarks that the speech wants of it, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from moditalker.config import Config
from moditalker.features.face.confidence import (
    CROP,
    DOUBTFUL,
    Confidence,
    Cover,
    Sight,
    confident,
)
from moditalker.features.face.cover import load_cover
from moditalker.features.face.identity import REMEMBERED, FaceFrame, anchored
from moditalker.features.face.standing import Standing
from moditalker.geometry.align import transform
from moditalker.geometry.looks import Identity
from moditalker.jobs.streams import Clock, ahead, beside
from moditalker.media import Frame
from moditalker.media.arriving import ArrivingSound
from moditalker.motion.track import Track
from moditalker.talker.retarget import Wish
from moditalker.talker.steps import FaceTrack, Motion

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]

TRUSTED = Confidence()  # of a face about which nothing is known against it
MAKING = 0.15  # seconds that are kept free for putting a frame together and handing it over
FRONTS = 256  # pictures of what is in front of a face that are kept, 64 kB each


@dataclass
class Live:
    """A video that is made while its sound is spoken: a frame that would be shown too late is left out.

    sound: as it arrives; deadline: seconds after the start of a frame's sound until it must be shown.
    """

    sound: ArrivingSound
    deadline: float
    dropped: int = 0  # frames that were left out

    def late(self, frame: Frame) -> bool:
        """Whether a frame would be finished too late; counts it if so."""
        late = self.sound.heard > float(frame.time) + self.deadline - MAKING
        self.dropped += late
        return late

    def over(self, frame: Frame) -> bool:
        """Whether the sound ends before a frame. Waits for the sound at its time."""
        return frame.time >= self.sound.length(frame.time)


@dataclass(frozen=True)
class Target:
    """A frame and the mouth that it shall have; landmarks are (68, 3) with x, y in crop pixels."""

    face: FaceFrame
    run: int  # frames of one run are consecutive and share the anchor
    anchor: Identity
    crop: Pixels | None = None  # (size, size, 3) uint8, None where there is no usable face
    landmarks: Array | None = None  # that the source has
    wanted: Array | None = None  # that the speech wants
    confidence: Confidence = TRUSTED

    @property
    def lacks(self) -> str:
        """Why the frame stays the source's; "" where it does not."""
        return self.face.lacks or self.confidence.reason

    @property
    def rest(self) -> Array:
        """The landmarks of a usable face with its mouth shut, (68, 3), crop pixels."""
        rest: Array = transform(self.face.at_rest(self.anchor), self.face.matrix[None])[0]
        return rest

    @property
    def strength(self) -> float:
        """Share of the new mouth in the picture, 0 to 1."""
        return self.face.strength * self.confidence.strength


@dataclass(frozen=True)
class Targets:
    """The frames of a video as targets, in three steps.

    motion: None: the face's own landmarks. live: None: every frame is made, however long it takes.
    """

    face: FaceTrack
    motion: Motion | Track | None
    config: Config
    clock: Clock
    live: Live | None = None

    def seen(self, lead: int = 0) -> Iterator[Target]:
        """Targets with the source's landmarks; lead: frames that a thread may be ahead, 0: without one."""
        fps, size = float(self.face.source.info.fps), self.config.crop.size
        run, before = 0, False
        faces = self.clock.each("face", self.face)
        if lead:
            faces = self.clock.each("waiting", ahead(faces, lead))
        for face, anchor in anchored(faces, self.face.anchor, size, fps):
            if face.usable != before or face.cut:
                run += 1
            before = face.usable
            if not face.usable or face.landmarks is None:
                yield Target(face, run, anchor)
                continue
            landmarks = transform(face.landmarks[None], face.matrix[None])[0]
            yield Target(face, run, anchor, face.crop(size), landmarks)

    def wished(self, targets: Iterable[Target]) -> Iterator[Target]:
        """The same with the wanted landmarks."""
        if self.motion is None:
            yield from (replace(target, wanted=target.landmarks) for target in targets)
            return
        fps, run = float(self.face.source.info.fps), 0
        said = self.clock.each("motion", self.motion)
        wish = Wish(self.motion, said, fps, self.config.rules.steady)
        for target in targets:
            face = target.face
            if self.live is not None and self.live.over(face.frame):
                return
            wish.advance(float(face.frame.time))
            if target.run != run:
                run = target.run
                wish.forget()
            if target.crop is None:
                yield target
                continue
            posed = wish.posed(face, target.anchor)
            yield replace(target, wanted=transform(posed, face.matrix[None])[0])

    def trusted(self, targets: Iterable[Target]) -> Iterator[Target]:
        """The same with the confidence in each frame's face."""
        config, info = self.config, self.face.source.info
        # A picture is the user's choice: one that is doubted would give no video at all.
        doubting = config.compose.enabled and config.compose.confidence and info.kind != "picture"
        if not doubting or config.crop.size != CROP:
            yield from targets
            return
        size = info.height, info.width

        def sight(target: Target) -> Sight | None:
            if target.crop is None or target.landmarks is None:
                return None
            face = target.face
            return Sight(target.crop, target.landmarks, face.matrix, size, target.wanted, face.cut)

        cover, fps = _remembering(load_cover().covered), float(info.fps)
        looks = self.face.anchor.looks
        standing = Standing(((look.crop, look.placed) for look in looks), fps)
        for target, confidence in beside(
            targets, lambda items: confident(map(sight, items), cover, fps, standing)
        ):
            yield replace(target, confidence=confidence)


def _remembering(cover: Cover) -> Cover:
    """The same function with a memory: frames that are shown again are not looked at again."""
    known: dict[bytes, Array | None] = {}  # by the landmarks; None: nothing is in front of that face
    fronts = 0

    def covered(crop: Pixels, landmarks: NDArray[np.floating]) -> Array:
        nonlocal fronts
        key = landmarks.tobytes()
        if key in known:
            front = known[key]
            return np.zeros(crop.shape[:2], np.float32) if front is None else front
        front = cover(crop, landmarks)
        free = front.max() <= DOUBTFUL[0]
        if len(known) < REMEMBERED and (free or fronts < FRONTS):
            known[key] = None if free else front
            fronts += not free
        return front

    return covered
