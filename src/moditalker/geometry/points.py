"""The 68 landmarks: their groups, and measures of the mouth.

Pure functions on arrays (..., 68, 3) or (..., 68, 2) in iBUG order: 0-16 jaw from the viewer's left (the
person's right) ear over the chin (8), 17-26 brows, 27-35 nose, 36-47 eyes, 48-59 outer and 60-67 inner
lips. Image units are pixels of the source frame, x right, y down, z in the same scale, smaller = nearer;
the centre of the top left pixel is (0, 0). Canonical (frontal) units: x right, y up, z towards the
viewer, origin = weighted centroid of the stable points, scale such that the eye centres of the mean face
are 1 apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # of floats

# Vertices of MediaPipe's 468-point face mesh at the iBUG points.
MESH_TO_68 = np.array(
    [
        *(127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356),  # jaw
        *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),  # brows
        *(168, 197, 5, 4, 98, 97, 2, 326, 327),  # nose
        *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),  # eyes
        *(61, 39, 37, 0, 267, 269, 291, 321, 314, 17, 84, 91),  # outer lips
        *(78, 81, 13, 311, 308, 402, 14, 178),  # inner lips
    ]
)
JAW = np.arange(0, 17)
BROWS = np.arange(17, 27)
NOSE = np.arange(27, 36)
EYE_RIGHT = np.arange(36, 42)  # the person's right: the viewer's left
EYE_LEFT = np.arange(42, 48)
MOUTH = np.arange(48, 68)
LIP_INNER = np.arange(60, 68)
INNER_UPPER, INNER_LOWER = [61, 62, 63], [67, 66, 65]  # pairs across the gap between the lips
LIP_RELATED = np.concatenate([JAW, MOUTH])  # [paper Fig. 2], in the order of AToM's lip branch
LIP_UNRELATED = np.arange(17, 48)
# MIRROR[i] is the point that i becomes when the picture is flipped left to right.
MIRROR = np.array(
    [
        *range(16, -1, -1),
        *range(26, 16, -1),
        *(27, 28, 29, 30, 35, 34, 33, 32, 31),
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
        *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
        *(64, 63, 62, 61, 60, 67, 66, 65),
    ]
)
# Points that speech does not move: eye corners, nose bridge, nose base (lightly: it follows the upper lip).
STABLE = np.array([36, 39, 42, 45, 27, 28, 29, 30, 33])
STABLE_WEIGHTS = np.array([1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.1, 0.2])
# Where they are in an upright average face: x right, y down, origin between the eye centres, 1 apart.
TEMPLATE = np.array(
    [
        *([-0.700, -0.003], [-0.268, 0.025], [0.268, 0.025], [0.700, -0.003]),
        *([0.0, -0.060], [0.0, 0.169], [0.0, 0.400], [0.0, 0.546], [0.0, 0.768]),
    ]
)


def smooth_step(x: Any) -> Any:
    """0 up to 0, 1 from 1 on, smooth between. x: a number, an array or a tensor."""
    x = x.clip(0, 1) if hasattr(x, "clip") else min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)


def _norm(vectors: Array) -> Array:
    return np.asarray(np.linalg.norm(vectors, axis=-1))


def eye_distance(points: Array) -> Array:
    """Distance between the eye centres in the x, y plane: (..., 68, 2 or 3) -> (...), in the points' unit."""
    xy = points[..., :2]
    return _norm(xy[..., EYE_LEFT, :].mean(-2) - xy[..., EYE_RIGHT, :].mean(-2))


def lip_opening(points: Array) -> Array:
    """Mean inner-lip gap (61-67, 62-66, 63-65) over the eye distance, in x, y: (..., 68, 2 or 3) -> (...)."""
    xy = points[..., :2]
    gap: Array = _norm(xy[..., INNER_UPPER, :] - xy[..., INNER_LOWER, :]).mean(-1) / eye_distance(points)
    return gap


def shut_mouth(points: Array) -> Array:
    """Make a face's inner lips touch; outer lips and chin follow: (..., 68, D) -> (..., 68, D)."""
    shut: Array = points.copy()
    half = (points[..., INNER_UPPER, :] - points[..., INNER_LOWER, :]) / 2  # from the middle to the upper lip
    mean = half.mean(-2, keepdims=True)
    shut[..., INNER_UPPER, :] -= half
    shut[..., INNER_LOWER, :] += half
    shut[..., [50, 51, 52], :] -= half
    shut[..., [58, 57, 56], :] += half
    shut[..., [49, 53], :] -= mean / 2
    shut[..., [59, 55], :] += mean / 2
    shut[..., 6:11, :] += mean
    shut[..., [5, 11], :] += mean / 2
    return shut


def mouth_width(points: Array) -> Array:
    """Distance between the outer mouth corners (48-54) over the eye distance: (..., 68, 2 or 3) -> (...)."""
    xy = points[..., :2]
    width: Array = _norm(xy[..., 54, :] - xy[..., 48, :]) / eye_distance(points)
    return width
