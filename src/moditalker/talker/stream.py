"""A video of speech that is still arriving."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from moditalker.config import Config
from moditalker.features.face.confidence import lookahead
from moditalker.media import MediaInfo
from moditalker.talker.video import Video

Pixels = NDArray[np.uint8]


def held_frames(config: Config, fps: float, live: bool = False) -> int:
    """How many later frames a frame's picture may depend on, besides its motion and its tracking.

    live: work that needs no sound is done before the sound comes.
    """
    compose, held = config.compose, 0
    if compose.enabled:
        held += compose.lag + 2 + (lookahead(fps) if compose.confidence and not live else 0)
    if not compose.enabled or compose.inside == "mtov":
        held += config.autoencoder.frames
    return held


@dataclass(frozen=True)
class Stream:
    """A video of speech that is still arriving: iterating yields its frames as they are finished, once.

    Each item is (n, H, W, 3) uint8 RGB: the next n frames, as many as one clip of the video stage adds,
    or fewer at the end; with a deadline always one. If frames are left out, or the frame rate varies,
    iterate `video`, which yields each frame with its time.

    ahead: seconds of sound after the start of a frame that it may depend on.
    """

    video: Video
    ahead: float

    @property
    def info(self) -> MediaInfo:
        """Size, rate and colours of the frames."""
        return self.video.face.source.info

    @property
    def dropped(self) -> int:
        """Frames left out so far because they would have been too late."""
        return 0 if self.video.live is None else self.video.live.dropped

    def __iter__(self) -> Iterator[Pixels]:
        config = self.video.config
        size = config.autoencoder.frames - config.mtov.overlap if self.video.live is None else 1
        images = (image for _, image in self.video)
        while clip := list(islice(images, size)):
            yield np.stack(clip)
