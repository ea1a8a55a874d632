"""Measures how far apart a video's lips and sound are: the lag at which AToM's motion fits the lips.

Opening and width of the mouth are compared at each lag; the stretches of one video add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moditalker import config as configuration
from moditalker.config import Config
from moditalker.diffusion.process import Diffusion
from moditalker.features.speech.encoders import load_speech_encoder
from moditalker.geometry.points import lip_opening, mouth_width
from moditalker.metrics.lips import correlation
from moditalker.motion.atom import Atom
from moditalker.motion.sample import sample_motion
from moditalker.weights.files import fill, load_weights
from moditalker.weights.named import model_folder

Array = NDArray[np.float32]

MOST = 12  # frames of 25 Hz to each side
PEAK = 4  # lags at most this far from the best one count as the same peak
SURE = 0.25  # minimum confidence to trust an offset (docs/lab/speech.md)
SECONDS = 2.9  # minimum seconds of video to trust an offset
LEAST = 2  # frames: a smaller offset is within the error of the measurement


class Lips:
    """Turns a sound into two tracks of AToM's motion for it: opening and width of the mouth."""

    def __init__(self) -> None:
        path = model_folder("tiny") / "atom.safetensors"
        state, about = load_weights(path)
        config: Config = configuration.from_dict(about["config"])
        self.model = Atom(config.atom, config.speech.width)
        fill(self.model, state, path)
        self.model.eval().requires_grad_(False)
        self.diffusion = Diffusion(config.atom_diffusion)
        self.encoder = load_speech_encoder(config.speech)

    def __call__(self, waveform: Array, l_id: Array) -> Array:
        """Waveform (640 S,) at 16 kHz, a face (68, 3) with a shut mouth -> (2, S)."""
        speech = self.encoder(waveform)
        return tracks(np.concatenate(list(sample_motion(self.model, self.diffusion, [speech], l_id))))


def tracks(landmarks: Array) -> Array:
    """Frontal landmarks (S, 68, 3) -> opening and width of the mouth, (2, S)."""
    return np.stack([lip_opening(landmarks), mouth_width(landmarks)])


@dataclass
class OffsetMeter:
    """The offset of one video, measured on stretches of it.

    offset: frames of 25 Hz by which the lips lead the sound. confidence: the correlation at the offset minus
    the best one at lags more than PEAK away, 0 to 2; 0 before the first stretch.
    """

    scores: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2 * MOST + 1))
    frames: int = 0

    def add(self, heard: Array, seen: Array) -> None:
        """Add a stretch.

        Args:
            heard: (2, S + 2 MOST) tracks of AToM's motion for the sound, from MOST frames before `seen`.
            seen: (2, S) tracks of the lips.
        """
        length = seen.shape[1]
        for lag in range(2 * MOST + 1):
            both = [correlation(heard[i, lag : lag + length], seen[i]) for i in range(len(seen))]
            self.scores[lag] += length * np.nan_to_num(np.mean(both))
        self.frames += length

    @property
    def offset(self) -> int:
        return int(self.scores.argmax()) - MOST

    @property
    def confidence(self) -> float:
        if not self.frames:
            return 0.0
        lags = np.arange(-MOST, MOST + 1)
        others = self.scores[np.abs(lags - self.offset) > PEAK]
        return float(max(0.0, self.scores.max() - others.max()) / self.frames)

    @property
    def sure(self) -> bool:
        """Whether the offset can be trusted."""
        return self.frames >= math.ceil(25 * SECONDS) and self.confidence >= SURE

    @property
    def correction(self) -> int:
        """Frames by which to advance the sound: the offset if it is sure and not too small, else 0."""
        return self.offset if self.sure and abs(self.offset) >= LEAST else 0
