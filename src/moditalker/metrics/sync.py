"""Measures whether lips and sound go together: shifts two rows of embeddings against each other.

The embeddings are from `syncnet` (the field's, with the user's weights) or `sync_expert` (the package's own).
Both look at 25 frames a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moditalker.config.limits import RATE

FPS = int(RATE)
MOST = 15  # frames of the largest offset that is tried, either way [SyncNet's pipeline]


@dataclass(frozen=True)
class Offsets:
    """The mean distance of lips and sound for each offset of the lips.

    distances: (2 most + 1,), for -most, ..., most frames (of 1/25 s) by which the lips come late.
    """

    distances: NDArray[np.float64]

    @property
    def distance(self) -> float:
        """The least distance, >= 0; LSE-D if the embeddings are SyncNet's. Smaller is better."""
        return float(self.distances.min())

    @property
    def confidence(self) -> float:
        """The median distance minus the least one, >= 0; LSE-C if SyncNet's. Larger is better."""
        return float(np.median(self.distances)) - self.distance

    @property
    def offset(self) -> int:
        """Frames by which the lips come late; negative: early. The smallest distance there."""
        return int(self.distances.argmin()) - len(self.distances) // 2


def compare_offsets(lips: ArrayLike, sound: ArrayLike, most: int = MOST, zeros: bool = False) -> Offsets:
    """Shift the sound's embeddings (N, D) against the lips' (M, D), one a frame, and measure distances.

    A row that is not finite (no face there) does not count. zeros: compare all lips at each offset, as
    SyncNet's pipeline does, with zeros before and after the sound; else only the overlap.

    Raises ValueError if the shapes do not fit, or some offset leaves nothing to compare.
    """
    a, b = np.asarray(lips, np.float64), np.asarray(sound, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"embeddings must be (N, D) of one width, not {a.shape} and {b.shape}")
    frames = min(len(a), len(b))
    a, b = a[:frames], b[:frames]
    distances = []
    for offset in range(-most, most + 1):  # lips of frame i belong to the sound of frame i - offset
        index = np.arange(frames) - offset
        heard = (index >= 0) & (index < frames)
        shifted = np.where(heard[:, None], b[index.clip(0, max(frames - 1, 0))], 0.0)
        distance = np.linalg.norm(a - shifted, axis=1)
        counted = np.isfinite(distance) if zeros else np.isfinite(distance) & heard
        if not counted.any():
            raise ValueError(f"{frames} frames leave nothing to compare at an offset of {offset}")
        distances.append(distance[counted].mean())
    return Offsets(np.array(distances))


def at_25_fps(frames: int, fps: float) -> NDArray[np.intp]:
    """Numbers of the frames, of ``frames`` at ``fps``, that a video at 25 frames a second shows."""
    wanted = np.arange(round(frames * FPS / fps))
    result: NDArray[np.intp] = np.minimum(np.floor(wanted * (fps / FPS) + 1e-6).astype(np.intp), frames - 1)
    return result


def auc(higher: Sequence[float], lower: Sequence[float]) -> float:
    """Probability that one of ``higher`` is above one of ``lower``, ties half: 0.5 is chance, 1 perfect."""
    a, b = np.asarray(higher, np.float64)[:, None], np.asarray(lower, np.float64)[None]
    return float(((a > b) + 0.5 * (a == b)).mean())
