"""Head pose: taken off landmarks, and given to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moditalker.geometry.points import LIP_UNRELATED

Array = NDArray[Any]  # of floats


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
    frontal_generated: Array, frontal_source: Array, points_source: Array
) -> NDArray[np.float32]:
    """Generated frontal landmarks into the source's head pose [paper, Appendix 1.2]: (S, 68, 3) image units.

    frontal_generated, frontal_source: (S or 1, 68, 3) canonical; points_source: (S, 68, 3) image units,
    whose frontal landmarks frontal_source are. Each frame: the affine map, 3D to 3D, that carries the
    lip-unrelated points of frontal_source to points_source by least squares. What it moves is the difference
    between generated and source [ours]: the map is fitted on the upper face only, and its error at the chin
    would otherwise shift the whole jaw; so generated = source gives points_source exactly.
    """
    points = np.asarray(points_source, np.float64)
    source = np.broadcast_to(np.asarray(frontal_source, np.float64), points.shape)
    maps = _affine_maps(source, points)
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
