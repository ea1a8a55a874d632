"""Makes smooth flows from landmarks to landmarks, split at the lips.

A flow moves a place of the wanted face to the same place of an existing face: place + flow. All places
are pixels of the aligned crop, so lengths mean the same on every face.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Indices = NDArray[np.integer]

# Points of either lip with both corners, and of the face around them, which both lips share.
UPPER = np.array([48, 49, 50, 51, 52, 53, 54, 60, 61, 62, 63, 64])
LOWER = np.array([48, 54, 55, 56, 57, 58, 59, 60, 64, 65, 66, 67])
AROUND = np.array([*range(3, 14), 30, 31, 32, 33, 34, 35])
SIDES = np.union1d(UPPER, AROUND), np.union1d(LOWER, AROUND)  # the points of either lip's flow
OUTLINE = np.arange(48, 60)  # closed outline of the lips
FACE = np.array([*range(17), *range(26, 16, -1)])  # closed outline of the face: jaw and brows


def kernel(places: Floats, points: Floats) -> Floats:
    """r^2 log r, r from each place to each point: (..., 2), (N, 2) -> (..., N) [Duchon 1977]."""
    x, y = (places[..., None, axis] - points[:, axis] for axis in (0, 1))
    square = x * x + y * y
    return np.asarray(0.5 * square * np.log(square + 1e-9))


class Spline:
    """A thin-plate spline through shifts at points: the smoothest flow that has them.

    Args:
        points: (N, 2) crop pixels, at least three that are not on a line.
        stiffness: how far the flow may miss a shift to stay smooth; 0: not at all. Touching landmarks with
            different shifts need a little.
    """

    def __init__(self, points: Floats, stiffness: float = 1.0) -> None:
        self.points = np.asarray(points, np.float64)
        n = len(points)
        system = np.zeros((n + 3, n + 3))
        system[:n, :n] = kernel(self.points, self.points) + stiffness * np.eye(n)
        system[:n, n], system[:n, n + 1 :] = 1, self.points
        system[n:, :n] = system[:n, n:].T
        self.inverse = np.linalg.pinv(system) if n < 4 else np.linalg.inv(system + 1e-9 * np.eye(n + 3))

    def at(self, places: Floats) -> Floats:
        """Weights of the points' shifts at places (..., 2): (..., N); `at(places) @ shifts` is the flow."""
        n = len(self.points)
        basis = np.concatenate(
            [kernel(places, self.points), np.ones((*places.shape[:-1], 1)), places], axis=-1
        )
        return np.asarray((basis @ self.inverse[:, :n]).astype(np.float32))


@dataclass(frozen=True)
class Gap:
    """The line between the lips of a face, and how wide it is open: functions of x, crop pixels.

    x: (K,) rising, from corner to corner; upper, lower: (K,) the lips' inner edges, y.
    """

    x: Floats
    upper: Floats
    lower: Floats

    @classmethod
    def of(cls, landmarks: Floats) -> Gap:
        """Make the gap of landmarks (68, 2) in an upright crop."""
        left, right = float(landmarks[60, 0]), float(landmarks[64, 0])
        x = np.linspace(left, max(right, left + 1e-3), 49)
        upper, lower = (
            _curve(landmarks[list(points)], x) for points in ((60, 61, 62, 63, 64), (60, 67, 66, 65, 64))
        )
        middle = (upper + lower) / 2
        return cls(x, np.minimum(upper, middle), np.maximum(lower, middle))

    def is_below(self, places: Floats) -> NDArray[np.bool_]:
        """Whether places (..., 2) are below the line between the lips."""
        return np.asarray(places[..., 1] > np.interp(places[..., 0], self.x, (self.upper + self.lower) / 2))

    def open(self) -> float:
        """The widest opening, crop pixels."""
        return float((self.lower - self.upper).max())

    def edges(self, x: Floats) -> tuple[Floats, Floats]:
        """Upper and lower inner edge at any x; beyond the corners the line is level and shut."""
        upper = np.interp(x, self.x, self.upper)
        lower = np.interp(x, self.x, self.lower)
        return upper, lower

    def beyond(self, x: Floats) -> Floats:
        """How far x is beyond the corners; 0 between them."""
        result: Floats = np.maximum(0, np.maximum(self.x[0] - x, x - self.x[-1]))
        return result


def _curve(points: Floats, x: Floats) -> Floats:
    """A smooth line through points (5, 2) that go from left to right: y at each x (monotone pieces)."""
    px, py = points[:, 0].astype(np.float64), points[:, 1].astype(np.float64)
    px = np.maximum.accumulate(px + 1e-3 * np.arange(len(px)))
    line = np.interp(x, px, py)
    # The corners of a polygon show at native size: a short blur along the line rounds them.
    taps = np.array([1, 4, 6, 4, 1.0]) / 16
    for _ in range(2):
        line = np.convolve(np.pad(line, 2, mode="edge"), taps, mode="valid")
    ends = np.clip(np.minimum(x - x[0], x[-1] - x) / max(1e-3, 0.1 * (x[-1] - x[0])), 0, 1)
    return np.asarray(ends * line + (1 - ends) * np.interp(x, px, py))


def outline_distance(places: Floats, landmarks: Floats, outline: Indices = OUTLINE) -> Floats:
    """Distance of places (..., 2) to a closed outline, by default the lips', negative inside.

    landmarks: (68, 2), crop pixels; outline: which of them, in their order.
    """
    start = landmarks[outline, :2].astype(np.float32)
    x0, y0 = start.T
    along_x, along_y = (np.roll(start, -1, axis=0) - start).T
    px, py = (np.asarray(places[..., None, axis], np.float32) for axis in (0, 1))
    dx, dy = px - x0, py - y0
    share = (dx * along_x + dy * along_y) / np.maximum(along_x**2 + along_y**2, 1e-6)
    np.clip(share, 0, 1, out=share)
    distance = np.sqrt(((dx - share * along_x) ** 2 + (dy - share * along_y) ** 2).min(-1))
    at = dy * (along_x / np.where(along_y == 0, 1e-9, along_y))  # x of the edge at a place's height
    crossings = (((y0 <= py) != (np.roll(y0, -1) <= py)) & (dx < at)).sum(-1)
    return np.asarray(np.where(crossings % 2 == 1, -distance, distance))
