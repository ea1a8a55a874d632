"""The 68 points: which they are, how open the mouth is, alignment to the crop, head pose, drawing.

Pure functions on arrays (..., 68, 3) or (..., 68, 2) in iBUG order: 0-16 jaw from the viewer's left (the
person's right) ear over the chin (8), 17-26 brows, 27-35 nose, 36-47 eyes, 48-59 outer and 60-67 inner lips.
Image units are pixels of the source frame, x right, y down, z in the same scale, smaller = nearer; the centre
of the top left pixel is (0, 0). Canonical (frontal) units: x right, y up, z towards the viewer, origin =
weighted centroid of the stable points, scale such that the eye centres of the mean face are 1 apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from moditalker.config import CropConfig
from moditalker.errors import UserError

Array = NDArray[Any]  # of floats

# Vertices of MediaPipe's 468-point face mesh that stand where the iBUG points do.
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
LIP_RELATED = np.concatenate([JAW, MOUTH])  # [paper Fig. 2] in the order of the networks' lip branch
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
    """The same face with its inner lips touching; outer lips and chin follow: (..., 68, D) -> (..., 68,
    D).
    """
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


# --- alignment: source frame <-> face crop -----------------------------------------------------------------


@dataclass(frozen=True)
class _Fit:
    """One frame's similarity source -> crop, in the quantities that are averaged over time."""

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
    fps: float = 25.0,
    frame_size: tuple[int, int] | None = None,
) -> Iterator[NDArray[np.float64]]:
    """Streaming form of `align`: landmarks (68, 2 or 3) in, None where there is no face; matrices (2, 3) out.

    A matrix is given ceil(3 sigma) frames after its landmarks were taken (sigma = crop.smoothing at 25 Hz).
    """
    if crop.eye_distance <= 0:
        if frame_size is None:
            raise UserError("crop.eye_distance is 0, so the whole frame is the crop: frame_size is needed")
        yield from (_whole_frame(crop.size, frame_size) for _ in points)
        return
    sigma = crop.smoothing * fps / 25.0
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
    points: Array, crop: CropConfig, fps: float = 25.0, frame_size: tuple[int, int] | None = None
) -> NDArray[np.float64]:
    """Similarity matrices that carry source pixels to crop pixels, smoothed over time [ours].

    points: (S, 68, 2 or 3) image landmarks, NaN where no face was found; frame_size: (height, width) of the
    source, needed only where crop.eye_distance is 0 (the whole frame is the crop [paper]). -> (S, 2, 3).
    Each frame: weighted Procrustes of the stable points to `TEMPLATE`, then a Gaussian in time of the angle,
    the logarithm of the scale and the centre, over the frames of one shot (a jump of half a face starts
    another). Frames without a face take the neighbours' answer; with none within the Gaussian's reach, NaN.
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
    """Points (S, N, 2 or 3) through matrices (S, 2, 3) or (2, 3); z, where given, is scaled, not shifted."""
    linear, shift = matrices[..., :2], matrices[..., 2]
    xy = np.einsum("...ij,...nj->...ni", linear, points[..., :2]) + shift[..., None, :]
    scale = np.sqrt(np.abs(np.linalg.det(linear)))[..., None, None]
    z = np.broadcast_to(points[..., 2:] * scale, (*xy.shape[:-1], points.shape[-1] - 2))
    moved: Array = np.concatenate([xy, z], axis=-1).astype(points.dtype)
    return moved


def inverse(matrices: Array) -> Array:
    """Matrices (..., 2, 3) of the opposite direction."""
    linear = np.linalg.inv(matrices[..., :2])
    return np.concatenate([linear, -linear @ matrices[..., 2:]], axis=-1)


def warp(
    frames: NDArray[np.generic], matrices: Array, size: int | tuple[int, int], padding: str = "border"
) -> NDArray[np.generic]:
    """Resample frames so that a source pixel p lands on matrix p, without aliasing when they shrink.

    frames: (S, H, W, C) or (S, H, W), uint8 (rounded back) or float; matrices: (S, 2, 3) source -> output;
    size: side or (height, width) of the output; padding: "border" repeats the edge, "zeros" is black outside.
    -> (S, height, width[, C]) of the same dtype. Bilinear; pixel centres at integers on both sides. A frame
    whose matrix is NaN (no face) becomes black.
    """
    height, width = (size, size) if isinstance(size, int) else size
    out = np.empty((len(frames), height, width, *frames.shape[3:]), frames.dtype)
    for frame, matrix, result in zip(frames, np.asarray(matrices, np.float64), out, strict=True):
        if not np.isfinite(matrix).all():
            result[...] = 0
            continue
        values = _warp_one(frame.reshape(*frame.shape[:2], -1), matrix, height, width, padding)
        if frames.dtype == np.uint8:
            values = values.round().clamp(0, 255)
        result[...] = values.numpy().reshape(result.shape).astype(frames.dtype)
    return out


def unwarp(
    crops: NDArray[np.generic], matrices: Array, size: int | tuple[int, int], padding: str = "border"
) -> NDArray[np.generic]:
    """The way back: crops (S, h, w, C) made by `warp` with the same matrices -> frames of `size`."""
    return warp(crops, inverse(matrices), size, padding)


def _warp_one(
    frame: NDArray[np.generic], matrix: NDArray[np.float64], height: int, width: int, padding: str
) -> torch.Tensor:
    """frame (H, W, C) -> (height, width, C) float32: only the part that is looked at becomes float."""
    back = inverse(matrix)  # output -> source
    shrink = math.sqrt(abs(np.linalg.det(back[:, :2])))  # source pixels per output pixel
    # A box of this width (output pixels) blurs as much as shrinking needs; at 1:1 and above, not at all.
    box = math.sqrt(max(0.0, 1 - 1 / shrink**2)) if shrink > 0 else 0.0
    corners = np.array([[x, y, 1.0] for x in (-1, width) for y in (-1, height)]) @ back.T
    reach = 2 + math.ceil(shrink)
    limits = np.array([frame.shape[1], frame.shape[0]])
    low = np.clip(np.floor(corners.min(0)).astype(int) - reach, 0, limits - 1)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + reach + 1, low + 1, limits)
    part = frame[low[1] : high[1], low[0] : high[0]]
    back = back - np.array([[0, 0, low[0]], [0, 0, low[1]]])
    pool = max(1, int(shrink / 4))
    if pool == 1:
        image = planes(part)[None]
    else:  # very large sources: first means of pool x pool pixels, in bands of rows, to hold no copy in float
        bands = (planes(part[row : row + 32 * pool])[None] for row in range(0, len(part), 32 * pool))
        image = torch.cat([F.avg_pool2d(band, pool, ceil_mode=True) for band in bands], dim=2)
        back = (back - np.array([[0, 0, (pool - 1) / 2]] * 2)) / pool
        shrink /= pool
    taps = max(2, math.ceil(box * shrink)) if box > 0 else 1
    offsets = ((np.arange(taps) + 0.5) / taps - 0.5) * box
    x = (np.arange(width)[:, None] + offsets).ravel()  # (width taps,)
    y = (np.arange(height)[:, None] + offsets).ravel()
    rows, columns = image.shape[-2:]
    grid = sampling_grid(back, x, y, (rows, columns))
    values = F.grid_sample(image, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    if taps > 1:  # their mean; `avg_pool2d` takes some times as long
        values = reduce(torch.add, (values[:, :, i::taps] for i in range(taps)))
        values = reduce(torch.add, (values[..., i::taps] for i in range(taps))) / taps**2
    return values[0].permute(1, 2, 0)


def sampling_grid(
    matrix: NDArray[np.float64], x: NDArray[np.floating], y: NDArray[np.floating], size: tuple[int, int]
) -> torch.Tensor:
    """Where the points (x, y) of a grid land through a matrix (2, 3), as `grid_sample` wants it.

    x: (width,), y: (height,); size: rows and columns of the picture that they land in. -> (1, height, width,
    2) float32.
    """
    grid = np.empty((2, len(y), len(x)), np.float32)  # plane by plane, which `grid_sample` reads fastest
    for plane, (across, down, shift), length in zip(grid, matrix, reversed(size), strict=True):
        columns, rows = across * x * (2 / length), (down * y + shift + 0.5) * (2 / length) - 1
        np.add(columns.astype(np.float32), rows.astype(np.float32)[:, None], out=plane)
    return torch.from_numpy(grid).permute(1, 2, 0)[None]


def planes(pixels: NDArray[np.generic]) -> torch.Tensor:
    """(H, W, C) -> (C, H, W) float32, plane by plane in memory: three times as fast to calculate with."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()


# --- drawing -----------------------------------------------------------------------------------------------


def draw(
    points: Array, height: int, width: int, radius: float = 0.0, antialias: bool = True
) -> NDArray[np.float32]:
    """Landmark frames, white discs on black: points (S, N, 2 or 3) in pixels -> (S, height, width) in [0, 1].

    radius: pixels; 0: 3 per 256 of the width [released code]. antialias: soft edges, so that motion below a
    pixel is visible; without, a pixel is white where its centre is within the radius.
    """
    radius = radius or 3.0 * width / 256
    xy = np.asarray(points, np.float32)
    dx = (np.arange(width, dtype=np.float32) - xy[..., 0:1]) ** 2  # (S, N, width)
    dy = (np.arange(height, dtype=np.float32) - xy[..., 1:2]) ** 2  # (S, N, height)
    nearest = np.full((len(xy), height, width), np.inf, np.float32)
    for n in range(xy.shape[1]):
        np.minimum(nearest, dy[:, n, :, None] + dx[:, n, None, :], out=nearest)
    distance = np.sqrt(nearest)
    discs = np.clip(radius + 0.5 - distance, 0, 1) if antialias else distance <= radius
    return discs.astype(np.float32)


# --- head pose ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pose:
    """A canonical face in the image: image = scale * rotation @ (canonical + residual) + translation.

    rotation: (S, 3, 3), proper; scale: (S,) pixels per canonical unit; translation: (S, 3) pixels; residual:
    (S, 68, 3) canonical units, what of the observed shape the frontal landmarks leave out (the trace of the
    pose in the mesh), so that `apply_pose` gives the observed points back; 0: nothing was left out.
    """

    rotation: NDArray[np.float64]
    scale: NDArray[np.float64]
    translation: NDArray[np.float64]
    residual: NDArray[np.float64] | float = 0.0

    def angles(self) -> NDArray[np.float64]:
        """(S, 3) degrees: yaw (positive: nose to the viewer's right), pitch (down), roll (clockwise)."""
        right, down, back = (self.rotation * FLIP).transpose(1, 0, 2)  # rows, in x right, y down, z away
        yaw = np.arctan2(-right[:, 2], back[:, 2])
        pitch = np.arcsin(np.clip(-down[:, 2], -1, 1))
        roll = np.arctan2(down[:, 0], down[:, 1])
        return np.asarray(np.degrees(np.stack([yaw, pitch, roll], axis=-1)))


FLIP = np.array([1.0, -1.0, -1.0])  # canonical axes <-> image axes; a rotation by half a turn about x


def procrustes(points: Array, reference: Array, weights: Array) -> Pose:
    """The rotation, scale and shift of each frame that carry reference onto points by weighted least squares.

    points: (S, N, 3) image units; reference: (N, 3) or (S, N, 3) canonical; weights: (N,), 0 = ignored.
    """
    points, reference = np.asarray(points, np.float64), np.asarray(reference, np.float64)
    reference = np.broadcast_to(reference, points.shape)
    weights = weights / weights.sum()
    centre, origin = weights @ points, weights @ reference
    a, b = points - centre[:, None], reference - origin[:, None]
    u, s, vt = np.linalg.svd(np.einsum("n,sni,snj->sij", weights, a, b))
    s[:, 2] *= np.sign(np.linalg.det(u @ vt))
    u[..., 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    rotation = u @ vt
    scale = s.sum(-1) / np.maximum(weights @ (b**2).sum(-1).T, 1e-12)
    return Pose(rotation, scale, centre - scale[:, None] * np.einsum("sij,sj->si", rotation, origin))


def remove_pose(points: Array, pose: Pose) -> NDArray[np.float64]:
    """Image points (S, N, 3) -> canonical (S, N, 3): the rigid part alone, nothing left out."""
    shape: NDArray[np.float64] = (
        (points - pose.translation[:, None]) @ pose.rotation / pose.scale[:, None, None]
    )
    return shape


def apply_pose(frontal: Array, pose: Pose) -> NDArray[np.float32]:
    """Canonical (S or 1, 68, 3) -> image (S, 68, 3): the inverse of the frontalisation that gave the pose."""
    turned = (frontal + pose.residual) @ pose.rotation.transpose(0, 2, 1)
    posed = pose.scale[:, None, None] * turned + pose.translation[:, None]
    return np.asarray(posed, np.float32)


def affine_to_pose(
    frontal_generated: Array, frontal_source: Array, points_source: Array, smoothing: float = 0.0
) -> NDArray[np.float32]:
    """Generated frontal landmarks into the source's head pose [paper, Appendix 1.2]: (S, 68, 3) image units.

    frontal_generated, frontal_source: (S or 1, 68, 3) canonical; points_source: (S, 68, 3) image units,
    whose frontal landmarks frontal_source are. Each frame: the affine map, 3D to 3D, that carries the
    lip-unrelated points of frontal_source to points_source by least squares. What it moves is the difference
    between generated and source [ours]: the map is fitted on the upper face only, and its error at the chin
    would otherwise shift the whole jaw; so generated = source gives points_source exactly. smoothing:
    standard deviation in frames of a Gaussian over the maps of the given frames; 0: each frame alone.
    """
    points = np.asarray(points_source, np.float64)
    source = np.broadcast_to(np.asarray(frontal_source, np.float64), points.shape)
    maps = _affine_maps(source, points)
    if smoothing > 0:
        frames = np.arange(len(maps))
        kernel = np.exp(-0.5 * ((frames[:, None] - frames) / smoothing) ** 2)
        maps = np.einsum("st,tij->sij", kernel / kernel.sum(1, keepdims=True), maps)
    return (points + (frontal_generated - source) @ maps).astype(np.float32)


def affine_error(frontal_source: Array, points_source: Array) -> NDArray[np.float64]:
    """What the map of `affine_to_pose` leaves over of the source's landmarks: (S, 68, 3) image units [ours].

    A part of it is the person and stays; another goes with what the source's mouth does.
    """
    points = np.asarray(points_source, np.float64)
    source = np.broadcast_to(np.asarray(frontal_source, np.float64), points.shape)
    shift = points[:, LIP_UNRELATED].mean(1, keepdims=True)
    turned = (source - source[:, LIP_UNRELATED].mean(1, keepdims=True)) @ _affine_maps(source, points)
    error: NDArray[np.float64] = points - shift - turned
    return error


def _affine_maps(source: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares over the lip-unrelated points: (S, 68, 3) twice -> (S, 3, 3), rows times it."""
    a = source[:, LIP_UNRELATED] - source[:, LIP_UNRELATED].mean(1, keepdims=True)
    b = points[:, LIP_UNRELATED] - points[:, LIP_UNRELATED].mean(1, keepdims=True)
    maps: NDArray[np.float64] = np.linalg.solve(a.transpose(0, 2, 1) @ a, a.transpose(0, 2, 1) @ b)
    return maps
