"""Removes the head pose from landmarks, and applies it to them."""

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
    (S, 68, 3) canonical units, the part of the observed shape that the frontal landmarks leave out (the trace
    of the pose in the mesh). With it, `apply_pose` gives the observed points back; 0: nothing was left out.
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
    """Fit each frame's rotation, scale and shift of reference onto points by weighted least squares.

    points: (S, N, 3) image units; reference: (N, 3) or (S, N, 3) canonical; weights: (N,), 0 = ignored.
    """
    points, reference = np.asarray(points, np.float64), np.asarray(reference, np.float64)
    reference = np.broadcast_to(reference, points.shape)
    weights = weights / weights.sum()
    centre, origin = weights @ points, weights @ reference
    a, b = points - centre[:, None], reference - origin[:, None]
    u, s, vt = np.linalg.svd((a * weights[:, None]).transpose(0, 2, 1) @ b)
    s[:, 2] *= np.sign(np.linalg.det(u @ vt))
    u[..., 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    rotation = u @ vt
    scale = s.sum(-1) / np.maximum(weights @ (b**2).sum(-1).T, 1e-12)
    return Pose(rotation, scale, centre - scale[:, None] * (rotation @ origin[..., None])[..., 0])


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


@dataclass(frozen=True)
class Affine:
    """The head pose of frames as one affine map each, 3D to 3D [paper, Appendix 1.2].

    It carries the lip-unrelated points of a frame's frontal landmarks to the frame's own by least squares.
    source: (S, 68, 3) canonical, the frames' frontal landmarks; points: (S, 68, 3) image units, their own;
    maps: (S, 3, 3), rows times it.
    """

    source: NDArray[np.float64]
    points: NDArray[np.float64]
    maps: NDArray[np.float64]

    @classmethod
    def fitted(cls, source: Array, points: Array) -> Affine:
        """source: (S or 1, 68, 3) canonical; points: (S, 68, 3) image units."""
        points = np.asarray(points, np.float64)
        source = np.broadcast_to(np.asarray(source, np.float64), points.shape)
        a = source[:, LIP_UNRELATED] - source[:, LIP_UNRELATED].mean(1, keepdims=True)
        b = points[:, LIP_UNRELATED] - points[:, LIP_UNRELATED].mean(1, keepdims=True)
        return cls(source, points, np.linalg.solve(a.transpose(0, 2, 1) @ a, a.transpose(0, 2, 1) @ b))

    def posed(self, frontal: Array) -> NDArray[np.float32]:
        """Generated frontal landmarks (S or 1, 68, 3) in the frames' head poses: (S, 68, 3) image units.

        The map moves the difference between generated and source [ours]. It is fitted on the upper face
        only, so its error at the chin would otherwise shift the whole jaw. generated = source gives the
        frames' own landmarks exactly.
        """
        return (self.points + (frontal - self.source) @ self.maps).astype(np.float32)

    def error(self) -> NDArray[np.float64]:
        """The error of the map at the frames' own landmarks: (S, 68, 3) image units [ours].

        One part of it is the person and stays; another changes with the source's mouth.
        """
        shift = self.points[:, LIP_UNRELATED].mean(1, keepdims=True)
        turned = (self.source - self.source[:, LIP_UNRELATED].mean(1, keepdims=True)) @ self.maps
        error: NDArray[np.float64] = self.points - shift - turned
        return error
