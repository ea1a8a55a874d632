"""Measures detail of a mouth that a small picture cannot hold: wrinkles of lips, edges of teeth, stubble."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moditalker.geometry.points import eye_distance
from moditalker.metrics.polygon import outlined
from moditalker.metrics.region import LUMA, Array

LIPS = slice(48, 60)  # the outline of both lips
AROUND = 1.2  # times as large as the lips: their border counts, the skin beyond hardly
EYES = 42.0  # pixels between the eyes in a crop of 128, whose pixel is the unit of SIGMA
SIGMA = 0.5  # deviation of the Gaussian that removes fine detail, in such pixels
LEAST_SIGMA = 0.8  # its least deviation in the frame's pixels, for faces no larger than in the crop
LEAST = 0.5  # grey levels: a mouth with less has no detail to compare with


def fine_detail(frames: ArrayLike, landmarks: ArrayLike) -> NDArray[np.float64]:
    """Root mean square of a mouth's fine detail in each frame, (S,), grey levels; nan without a face. [ours]

    Fine detail is luma minus its Gaussian blur, at the frame's own size. The blur grows with the face: its
    deviation is half a pixel of a crop of 128 whose eyes are 42 pixels apart. Of the finest wave in such a
    crop (two pixels long) it leaves 71 % as fine detail, of one of four pixels 27 %, of one of eight 7 %. It
    is at least 0.8 pixels of the frame. A mouth is the lips' outline, 1.2 times as large. frames (S, H, W, 3)
    in grey levels; landmarks (S, 68, 2 or 3) in pixels. Raises ValueError for other shapes.
    """
    x, points = np.asarray(frames), np.asarray(landmarks, np.float64)[..., :2]
    if x.ndim != 4 or points.shape != (len(x), 68, 2):
        raise ValueError(
            f"frames (S, H, W, 3) and (S, 68, 2) landmarks are needed, not {x.shape}, {points.shape}"
        )
    return np.array([_detail(frame, own) for frame, own in zip(x, points, strict=True)])


def detail_ratio(generated: ArrayLike, real: ArrayLike) -> float:
    """Fine detail of one video's mouth over another's, >= 0; 1: the same, below: softer, above: sharper or
    noisy.

    Both are tracks of `fine_detail`, of any lengths; the ratio is that of their medians, so a few frames with
    motion blur, or a mouth that opens at other times, hardly count. Frames without a face are left out. nan
    if a video has no frame left, or the real mouth has less than LEAST grey levels of detail.
    """
    sides = [np.asarray(track, np.float64) for track in (generated, real)]
    seen = [track[np.isfinite(track)] for track in sides]
    if not all(map(len, seen)):
        return float("nan")
    made, meant = (float(np.median(track)) for track in seen)
    return made / meant if meant >= LEAST else float("nan")


def _detail(frame: NDArray[np.generic], points: Array) -> float:
    (rows, columns), inside = outlined(points[LIPS], (frame.shape[0], frame.shape[1]), AROUND)
    if not inside.any():
        return float("nan")
    sigma = max(SIGMA * float(eye_distance(points)) / EYES, LEAST_SIGMA)
    reach = int(np.ceil(4 * sigma))
    top, left = max(rows.start - reach, 0), max(columns.start - reach, 0)
    luma: Array = frame[top : rows.stop + reach, left : columns.stop + reach] @ LUMA
    fine = luma - gaussian(luma, sigma)
    here = fine[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return float(np.sqrt(np.mean(here[inside] ** 2)))


def gaussian(picture: Array, sigma: float) -> Array:
    """Blur a picture (H, W) by a Gaussian of this deviation, pixels; its edges are mirrored."""
    down, across = (_window(length, sigma) for length in picture.shape)
    blurred: Array = down @ picture @ across.T
    return blurred


def _window(length: int, sigma: float) -> Array:
    """The Gaussian along one axis as a matrix (length, length)."""
    reach = int(np.ceil(4 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    mirrored = np.pad(np.arange(length), reach, mode="symmetric")
    matrix = np.zeros((length, length))
    for offset, tap in enumerate(taps):
        np.add.at(matrix, (np.arange(length), mirrored[offset : offset + length]), tap)
    return matrix
