"""Short videos in memory."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import takewhile

import numpy as np

from moditalker.media.files import PathLike, Pixels, Samples
from moditalker.media.sound import SAMPLE_RATE, AudioReader
from moditalker.media.sources import VideoReader


@dataclass(frozen=True)
class Clip:
    """A short clip in memory: frames (S, H, W, 3) uint8 RGB, audio (N,) float32 mono in [-1, 1]."""

    frames: Pixels
    fps: Fraction
    audio: Samples
    sample_rate: int = SAMPLE_RATE


def read_clip(path: PathLike, max_seconds: float | None = None) -> Clip:
    """Read a short video, or its first seconds, into memory; without a sound track, ``audio`` is empty."""
    reader = VideoReader(path, planes=False)
    wanted = takewhile(lambda frame: max_seconds is None or frame.time < max_seconds, reader)
    frames = [frame.image for frame in wanted]
    audio = AudioReader(path).read(max_seconds) if reader.info.has_audio else np.zeros(0, np.float32)
    return Clip(np.stack(frames), reader.info.fps, audio)
