"""A look at a person: one frame's lower face at its own resolution, with its landmarks.

Tracking makes looks and the video stage draws from them, so they belong to neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from moditalker.geometry.align import inverse
from moditalker.geometry.points import INNER_LOWER, INNER_UPPER

Pixels = NDArray[np.uint8]
Array = NDArray[np.float32]
Matrix = NDArray[np.float64]

# The part of a frame that is kept, in crop widths: room for the lips however they move.
LEFT, RIGHT, TOP, BOTTOM = 0.15, 0.85, 0.42, 1.02
GREY = 6  # most levels by which channels of a grey picture differ, after coding
SOFTEST = 4.0  # most that `Look.softness` measures
PI_ROOT = math.sqrt(math.pi)
MOST = 6.0  # most pixels kept for one of a crop of 128; a larger face is shrunk to this


@dataclass(frozen=True, eq=False)
class Look:
    """pixels: (h, w, 3) uint8 around the mouth; matrix: (2, 3), pixels' own place -> crop pixel; crop: (size,
    size, 3) uint8, the aligned crop; landmarks: (68, 2) crop pixels; seconds: source time; placed: (2, 3),
    pixels of the source's frame -> crop pixel.
    """

    pixels: Pixels
    matrix: Matrix
    crop: Pixels
    landmarks: Array
    seconds: float = 0.0
    placed: Matrix = field(default_factory=lambda: np.eye(2, 3))

    @cached_property
    def opening(self) -> float:
        """The widest gap between the inner lips, crop pixels."""
        return float(max(0.0, (self.landmarks[INNER_LOWER, 1] - self.landmarks[INNER_UPPER, 1]).max()))

    @cached_property
    def softness(self) -> float:
        """Standard deviation of the Gaussian that blurs its edges, pixels of `pixels`; up to SOFTEST."""
        grey = self.pixels.mean(-1, dtype=np.float32)
        near, far = (
            sum(float(np.square(part[k:] - part[:-k]).mean()) for part in (grey, grey.T)) for k in (1, 2)
        )
        ratios, sigmas = _soft_steps()
        return float(np.interp(-near / max(far, 1e-6), -ratios, sigmas))

    @cached_property
    def grey(self) -> bool:
        """Whether the picture is grey, so that paint must be grey too."""
        return int((self.crop.max(-1).astype(int) - self.crop.min(-1)).max()) <= GREY

    @cached_property
    def scale(self) -> float:
        """Pixels of the source for one of the crop."""
        return scale_of(self.matrix)


@dataclass(frozen=True)
class Identity:
    """The identity of a face, from one shot of the source; both stages take it.

    crop: (size, size, 3) uint8, the paper's x_id; landmarks: (68, 2) in it, crop pixels;
    frontal: (68, 3) canonical, the paper's l_id; neutral: (68, 3) canonical, the resting shape against which
    every frame of this person is frontalised; looks: the frames it was chosen from; open_mouths: indices
    of those with open mouths, unlike each other; moves: deviation of lip opening and of mouth width over
    these frames, eye distances; 0 if there is only one.
    """

    crop: Pixels
    landmarks: Array
    frontal: Array = field(default_factory=lambda: np.zeros((68, 3), np.float32))
    neutral: NDArray[np.float64] = field(default_factory=lambda: np.zeros((68, 3)))
    looks: tuple[Look, ...] = ()
    open_mouths: tuple[int, ...] = ()
    moves: tuple[float, float] = (0.0, 0.0)

    @property
    def mouths(self) -> tuple[Look, ...]:
        """The looks that show open mouths."""
        return tuple(self.looks[i] for i in self.open_mouths)


@cache
def _soft_steps() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For a step that a Gaussian blurs: its mean squared difference over one pixel, divided by that over two,
    and the Gaussian's standard deviation.
    """
    sigmas = np.linspace(0.05, SOFTEST, 80)
    one, two = (
        [k * math.erf(k / (2 * s)) - 2 * s / PI_ROOT * (1 - math.exp(-((k / s) ** 2) / 4)) for s in sigmas]
        for k in (1, 2)
    )
    return np.divide(one, two), sigmas


def scale_of(matrix: NDArray[np.floating]) -> float:
    """Pixels of the frame for one of the crop; matrix: (2, 3), frame -> crop pixel."""
    (a, b), (c, d) = matrix[:, :2].tolist()
    return 1 / math.sqrt(abs(a * d - b * c))


def look_at(image: Pixels, matrix: Matrix, crop: Pixels, landmarks: Array, seconds: float = 0.0) -> Look:
    """Make the look of a frame.

    Args:
        image: (H, W, 3) uint8. matrix: (2, 3), frame -> crop pixel. crop: (size, size, 3).
        landmarks: (68, 2) crop pixels.
    """
    size = len(crop)
    corners = np.array([[x * size, y * size, 1.0] for x in (LEFT, RIGHT) for y in (TOP, BOTTOM)])
    corners = corners @ inverse(matrix).T
    limits = np.array([image.shape[1], image.shape[0]])
    low = np.clip(np.floor(corners.min(0)).astype(int), 0, limits - 2)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 1, low + 2, limits)
    part = image[low[1] : high[1], low[0] : high[0]]
    own = matrix.copy()
    own[:, 2] += own[:, :2] @ low
    step = int(np.ceil(scale_of(own) * size / 128 / MOST))
    if step > 1:  # means of step x step pixels
        h, w = (n // step * step for n in part.shape[:2])
        small = part[:h, :w].reshape(h // step, step, w // step, step, 3).mean(axis=(1, 3))
        part = small.round().astype(np.uint8)
        own[:, 2] += own[:, :2] @ [(step - 1) / 2, (step - 1) / 2]
        own[:, :2] *= step
    return Look(part.copy(), own, crop, np.asarray(landmarks[:, :2], np.float32), seconds, matrix)
