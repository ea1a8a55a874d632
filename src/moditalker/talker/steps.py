"""The values between the steps: speech, a face track, a motion. Each is computed while it is iterated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moditalker.features.face.identity import FaceFrame
from moditalker.features.speech.encoders import SpeechEncoder
from moditalker.features.speech.silence import PATIENT, Reach, silence
from moditalker.geometry.looks import Identity
from moditalker.jobs.streams import Clock
from moditalker.media import AudioReader, Length, Source
from moditalker.media.arriving import ArrivingSound
from moditalker.motion.edit import Style, styled
from moditalker.motion.track import Track, checked_points

Array = NDArray[np.float32]
Progress = Callable[[str, int, int], None]  # a stage's name, frames done, frames expected


@dataclass(frozen=True)
class Origin:
    """The weights that make a video.

    name: of the model; digests: file name -> SHA-256 of its weights; loading_seconds: time to load it.
    """

    name: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    loading_seconds: float = 0.0


@dataclass(frozen=True)
class Speech:
    """Speech features of a recording: iterating reads it and yields (n, width) at 50 Hz.

    sound: yields the waveform in chunks at 16 kHz. ahead: how far the silences look ahead.
    """

    sound: AudioReader | ArrivingSound
    seconds: Length
    encoder: SpeechEncoder
    clock: Clock = field(default_factory=Clock)
    ahead: Reach = PATIENT

    def __iter__(self) -> Iterator[Array]:
        return self.heard()[0]

    def heard(self) -> tuple[Iterator[Array], Iterator[float]]:
        """Features at 50 Hz, and silence at 25 Hz in [0, 1], of one pass over the sound."""
        ours, theirs = tee(self.sound)
        features = self.clock.each("speech", self.encoder.stream(ours))
        return features, self.clock.each("speech", silence(theirs, self.ahead))

    def array(self) -> Array:
        """All features, (2S, width)."""
        return np.concatenate([np.zeros((0, self.encoder.width), np.float32), *self])


@dataclass(frozen=True)
class FaceTrack:
    """The source's frames for as long as the speech lasts, with their faces: iterating yields `FaceFrame`."""

    source: Source
    anchor: Identity  # of the first shot
    seconds: Fraction | None  # of speech; None: not known yet
    frames: Callable[[], Iterator[FaceFrame]]
    head: Path | None = None  # file that a picture's head motion comes from
    holds: tuple[object, ...] = ()  # temporary files that it is read from

    def __iter__(self) -> Iterator[FaceFrame]:
        return self.frames()

    @property
    def expected(self) -> int:
        """About how many frames there are; 1 if the length is not known yet."""
        return max(1, round((self.seconds or 0) * self.source.info.fps))


@dataclass(frozen=True)
class Motion:
    """Frontal landmarks of the speech: iterating yields (n, 68, 3), canonical units, 25 Hz."""

    identity: Array  # (68, 3), the l_id that they were made for
    blocks: Callable[[], Iterable[Array]]

    def __iter__(self) -> Iterator[Array]:
        return iter(self.blocks())

    def array(self) -> Array:
        """The whole track, (S, 68, 3)."""
        return np.concatenate([np.zeros((0, 68, 3), np.float32), *self])

    def edited(self, track: ArrayLike) -> Motion:
        """The same identity with another track (S, 68, 3). Raises UserError: points that no face can have."""
        points = checked_points(track, "the track", 3)
        return replace(self, blocks=lambda: [points])

    def styled(self, style: Style) -> Motion:
        """Another mouth gain, expression strength or smoothing."""
        return replace(self, blocks=lambda: styled(self.blocks(), self.identity, style))

    def track(self, made: dict[str, Any] | None = None) -> Track:
        """The whole motion as a file's content, to change and save; made: its provenance."""
        return Track(self.identity, self.array(), made or {})
