"""Who speaks in a video of several people: in each shot, the one whose lips move with the sound [ours].

The rule: over the first seconds of a shot, the speed of a face's lips counts for it where the video's own
sound is loud, and against it where it is not. The face with the highest sum is the speaker. Loud is within
20 dB of the loudest (without the loudest twentieth). Without sound, it is the face whose lips move most.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moditalker.config.limits import RATE
from moditalker.features.face.found import Face
from moditalker.features.face.shots import changes
from moditalker.features.face.tracker import Choice, FaceTracker
from moditalker.geometry.points import lip_opening
from moditalker.jobs.streams import beside
from moditalker.media import SAMPLE_RATE, AudioReader, Frame, Source

DECIDING_SECONDS = 4.0  # of a shot, from which the speaker is told
AGAIN_SECONDS = 1.0  # between looks for people who were not there
LOUD = 10 ** (-20 / 20)  # of the loudest


@dataclass
class _Person:
    face: Face  # seen last
    score: float = 0.0
    openings: list[float] = field(default_factory=list)  # of the last two frames
    centres: list[NDArray[np.float32]] = field(default_factory=list)

    def see(self, face: Face, loud: bool) -> None:
        opening = float(lip_opening(face.landmarks))
        if len(self.openings) == 2:
            self.score += abs(opening - self.openings.pop(0)) * (1 if loud else -1)
        self.face, self.openings = face, [*self.openings, opening]
        self.centres.append(face.centre)


@dataclass
class _Shot:
    first: int  # frame
    people: list[_Person] = field(default_factory=list)
    speaker: Choice | None = None  # None: not known yet

    def decide(self) -> None:
        best = max(self.people, key=lambda person: (person.score, person.face.size), default=None)
        if best is not None:
            x, y = np.mean(best.centres, axis=0).tolist()
        self.speaker = "largest" if best is None else (x, y)


class Speakers:
    """The speaker's place in each frame of a source, which is read ahead only as far as needed."""

    def __init__(self, tracker: FaceTracker, source: Source) -> None:
        self.tracker, self.source = tracker, source
        self.fps = float(source.info.fps)
        self.loudness = _loudness(source)
        self.shots: list[_Shot] = []
        self.seen = 0  # frames
        self.steps = self._watch()

    def at(self, index: int) -> Choice:
        """Where the speaker of a frame's shot is, (x, y) in pixels; "largest" where no face was seen."""
        while self.seen <= index or self._shot(index).speaker is None:
            next(self.steps)
        return self._shot(index).speaker or "largest"

    def _shot(self, index: int) -> _Shot:
        return self.shots[bisect_right([shot.first for shot in self.shots], index) - 1]

    def _watch(self) -> Iterator[None]:
        watched = beside(self.source, lambda frames: changes((frame.image for frame in frames), self.fps))
        dissolved = False  # the frame before
        for number, (frame, change) in enumerate(watched):
            if number == 0 or change.jump or (dissolved and not change.dissolving):
                if self.shots and self.shots[-1].speaker is None:
                    self.shots[-1].decide()
                self.shots.append(_Shot(number))
            dissolved = change.dissolving
            shot = self.shots[-1]
            if shot.speaker is None:
                self._look(shot, number, frame)
                if number - shot.first + 1 >= DECIDING_SECONDS * self.fps:
                    shot.decide()
            self.seen += 1
            yield
        self.shots[-1].decide()
        while True:  # whatever is asked beyond the end belongs to the last shot
            self.seen += 1
            yield

    def _look(self, shot: _Shot, number: int, frame: Frame) -> None:
        """Follow the people of a shot by one frame."""
        loud = self._loud(float(frame.time + self.source.start))
        for person in shot.people:
            found = self.tracker.again(frame.image, person.face)
            if found is not None:
                person.see(found, loud)
        if (number - shot.first) % max(1, round(AGAIN_SECONDS * self.fps)) == 0:
            for face in self.tracker.detect(frame.image):
                if all(np.hypot(*(face.centre - p.face.centre)) > 0.5 * p.face.size for p in shot.people):
                    shot.people.append(_Person(face))
                    shot.people[-1].see(face, loud)

    def _loud(self, seconds: float) -> bool:
        place = int(seconds * RATE)
        return self.loudness is None or (place < len(self.loudness) and bool(self.loudness[place] > LOUD))


def _loudness(source: Source) -> NDArray[np.float32] | None:
    """Loudness of the source's sound, as a share of the loudest, at RATE; None without sound."""
    if not source.info.has_audio:
        return None
    step = SAMPLE_RATE // int(RATE)
    parts, rest = [], np.zeros(0, np.float32)
    for block in AudioReader(source.info.path):
        rest = np.concatenate([rest, block])
        whole = len(rest) // step * step
        parts.append(np.sqrt((rest[:whole].reshape(-1, step) ** 2).mean(1)))
        rest = rest[whole:]
    levels = np.concatenate([np.zeros(1, np.float32), *parts])[1:]
    loudest = float(np.quantile(levels, 0.95)) if len(levels) else 0.0
    return np.asarray(levels / loudest, np.float32) if loudest > 0 else None
