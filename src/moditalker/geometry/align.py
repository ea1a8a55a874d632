"""Alignment: source frame <-> face crop, and points through matrices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moditalker.config import CropConfig
from moditalker.config.limits import RATE
from moditalker.errors import UserError
from moditalker.geometry.points import STABLE, STABLE_WEIGHTS, TEMPLATE

Array = NDArray[Any]  # of floats


@dataclass(frozen=True)
class _Fit:
    """One frame's similarity source -> crop, as quantities to average over time."""

    turn: complex  # unit vector of the rotation
    log_scale: float
    anchor: complex  # source point that falls on the template's centroid
    shot: int  # frames of different shots are never averaged


def _similarity(
    points: Array, target: NDArray[np.complex128], weights: Array, previous: _Fit | None
) -> _Fit | None:
    """Weighted least squares of a rotation, scale and shift; x + iy makes it one division."""
    stable = np.asarray(points, np.float64)[STABLE, :2]
    if not np.isfinite(stable).all():
        return None
    source = stable[:, 0] + 1j * stable[:, 1]
    anchor = complex(weights @ source)
    moment = float(weights @ np.abs(source - anchor) ** 2)
    slope = complex(weights @ ((target - weights @ target) * np.conj(source - anchor))) / max(moment, 1e-12)
    if abs(slope) < 1e-9:
        return None
    turn, log_scale, shot = slope / abs(slope), math.log(abs(slope)), 0
    if previous is not None:
        size = abs(target[0] - target[3]) / abs(slope)  # outer eye corners, source pixels
        jumped = abs(anchor - previous.anchor) > 0.5 * size or abs(log_scale - previous.log_scale) > 0.3
        shot = previous.shot + jumped
    return _Fit(turn, log_scale, anchor, shot)


def align_stream(
    points: Iterable[Array | None],
    crop: CropConfig,
    fps: float = RATE,
    frame_size: tuple[int, int] | None = None,
) -> Iterator[NDArray[np.float64]]:
    """Streaming form of `align`: landmarks (68, 2 or 3) in, None without a face; matrices (2, 3) out.

    A matrix comes ceil(3 sigma) frames after its landmarks (sigma = crop.smoothing at 25 Hz).
    """
    if crop.eye_distance <= 0:
        if frame_size is None:
            raise UserError("crop.eye_distance is 0, so the whole frame is the crop: frame_size is needed")
        yield from (_whole_frame(crop.size, frame_size) for _ in points)
        return
    sigma = crop.smoothing * fps / RATE
    radius = math.ceil(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-6)) ** 2)
    target = (TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]) * crop.eye_distance
    target = target + complex((crop.size - 1) / 2, crop.eye_row)  # flipped, the face stays centred
    weights = STABLE_WEIGHTS / STABLE_WEIGHTS.sum()
    goal = complex(weights @ target)

    def smooth(window: list[_Fit | None]) -> NDArray[np.float64]:
        shots = [fit.shot for fit in window if fit is not None]
        centre = window[radius]
        shot = centre.shot if centre is not None else (shots[0] if shots else 0)
        near = [(w, fit) for w, fit in zip(kernel, window, strict=True) if fit and fit.shot == shot]
        if not near:
            return np.full((2, 3), np.nan)
        total = sum(w for w, _ in near)
        turn = sum(w * fit.turn for w, fit in near)
        turn = turn / abs(turn) if abs(turn) > 1e-9 else near[0][1].turn
        slope = turn * math.exp(sum(w * fit.log_scale for w, fit in near) / total)
        shift = goal - slope * sum(w * fit.anchor for w, fit in near) / total
        return np.array([[slope.real, -slope.imag, shift.real], [slope.imag, slope.real, shift.imag]])

    window: list[_Fit | None] = [None] * (2 * radius + 1)
    previous: _Fit | None = None
    taken = 0
    for frame in points:
        fit = None if frame is None else _similarity(frame, target, weights, previous)
        previous = fit or previous
        window = [*window[1:], fit]
        taken += 1
        if taken > radius:
            yield smooth(window)
    for step in range(radius):
        window = [*window[1:], None]
        if taken + step + 1 > radius:
            yield smooth(window)


def align(
    points: Array, crop: CropConfig, fps: float = RATE, frame_size: tuple[int, int] | None = None
) -> NDArray[np.float64]:
    """Similarity matrices that carry source pixels to crop pixels, smoothed over time [ours].

    points: (S, 68, 2 or 3) image landmarks, NaN if no face was found; frame_size: (height, width) of the
    source, needed only if crop.eye_distance is 0 (the whole frame is the crop [paper]). -> (S, 2, 3).
    Each frame: weighted Procrustes of the stable points to `TEMPLATE`, then a Gaussian in time of the angle,
    the logarithm of the scale and the centre, over the frames of one shot (a jump of half a face starts
    another). Frames without a face take their neighbours' matrix; NaN if none is within the Gaussian's reach.
    """
    matrices = list(align_stream(points, crop, fps, frame_size))
    return np.stack(matrices) if matrices else np.zeros((0, 2, 3))


def _whole_frame(size: int, frame_size: tuple[int, int]) -> NDArray[np.float64]:
    """The largest centred square of the frame becomes the crop."""
    height, width = frame_size
    scale = size / min(height, width)
    centre = (size - 1) / 2
    return np.array(
        [[scale, 0, centre - scale * (width - 1) / 2], [0, scale, centre - scale * (height - 1) / 2]]
    )


def transform(points: Array, matrices: Array) -> Array:
    """Map points (S, N, 2 or 3) by matrices (S, 2, 3) or (2, 3); z, if any, is scaled, not shifted."""
    linear, shift = matrices[..., :2], matrices[..., 2]
    xy = np.einsum("...ij,...nj->...ni", linear, points[..., :2]) + shift[..., None, :]
    scale = np.sqrt(np.abs(np.linalg.det(linear)))[..., None, None]
    z = np.broadcast_to(points[..., 2:] * scale, (*xy.shape[:-1], points.shape[-1] - 2))
    moved: Array = np.concatenate([xy, z], axis=-1).astype(points.dtype)
    return moved


def inverse(matrices: Array) -> Array:
    """Invert matrices (..., 2, 3)."""
    linear = np.linalg.inv(matrices[..., :2])
    return np.concatenate([linear, -linear @ matrices[..., 2:]], axis=-1)
