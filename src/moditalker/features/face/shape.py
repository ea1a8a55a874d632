"""Frontal landmarks: a linear identity + expression model of the 68 points, fitted along with the head pose.

Face meshes that a network sees in a picture are not free of the head's pose: their jaw follows the
silhouette, and their depth grows with the turn. After removing the rotation, yaw and pitch can still be
predicted from them (R^2 above 0.9), and a motion model would learn nods as mouth movements. So the fit
treats the effect of pose on the shape as noise of known covariance. The rest is kept in `Pose.residual`.

The default model is learned by `tools/build_face_model.py`; `FaceModel.from_bfm` reads the Basel Face Model
[paper: 3DMM] where the user has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from moditalker.errors import UserError
from moditalker.geometry.align import Array
from moditalker.geometry.points import STABLE, STABLE_WEIGHTS, eye_distance
from moditalker.geometry.pose import Pose, procrustes, remove_pose
from moditalker.weights.files import load_weights, save_weights

Float = NDArray[np.float64]
ASSET = Path(__file__).parents[2] / "assets" / "face_model.safetensors"
WEIGHTS = np.zeros(68)
WEIGHTS[STABLE] = STABLE_WEIGHTS
NOISE = 0.003  # of a landmark, canonical units: a fifth of a pixel where the eyes are 60 pixels apart
RIGID = 0.02  # how far a wrong pose may move the whole face, canonical units
TRACE_LIMIT = np.radians(20.0)  # beyond this the trace of the mean pose is not extrapolated
MAX_BYTES = 2**30


@dataclass(frozen=True)
class FaceModel:
    """shape = mean + identity_basis @ identity + expression_basis @ expression, canonical units.

    mean (68, 3); identity_basis (68, 3, Ki), expression_basis (68, 3, Ke): scaled so that coefficients have
    unit variance. contamination (N, 68, 3): directions, times their deviation, in which the mesh follows the
    pose. trace (3, 68, 3): what a radian of yaw, pitch and roll adds to the mesh on average. sway (Ke, 3):
    the rotation (vector, radians) that comes with each expression, as people nod to their own speech; the
    pose is given without it, so that neither can be told from the other. personal: frontal landmarks keep
    what of a face's resting shape is outside the identity basis. unit: length of a canonical unit in the
    units of the file that the model was read from.
    """

    mean: Float
    identity_basis: Float
    expression_basis: Float
    contamination: Float = field(default_factory=lambda: np.zeros((0, 68, 3)))
    trace: Float = field(default_factory=lambda: np.zeros((3, 68, 3)))
    sway: Float | float = 0.0
    personal: bool = True
    unit: float = 1.0

    @classmethod
    def load(cls, path: str | Path = ASSET) -> FaceModel:
        """The package's model, or one that `save` wrote; UserError where the file is missing or damaged."""
        state, about = load_weights(path)
        arrays = {name: tensor.double().numpy() for name, tensor in state.items()}
        return cls(**arrays, personal=about["config"]["personal"], unit=about["config"]["unit"])

    def save(self, path: str | Path, about: dict[str, str]) -> None:
        """Write safetensors (float32); about: what its metadata should say besides: licence, source."""
        names = ("mean", "identity_basis", "expression_basis", "contamination", "trace")
        state = {name: torch.tensor(getattr(self, name).copy(), dtype=torch.float32) for name in names}
        sway = np.broadcast_to(self.sway, (self.expression_basis.shape[-1], 3))
        state["sway"] = torch.tensor(np.array(sway), dtype=torch.float32)
        save_weights(path, state, {"personal": self.personal, "unit": self.unit}, dict(about))

    @classmethod
    def from_bfm(cls, path: str | Path, shift: int = 1) -> FaceModel:
        """Read `BFM_model_front.mat`: meanshape (1, 3V), idBase (3V, 80), exBase (3V, 64), keypoints (68).

        shift: subtracted from the key points, which the file counts from 1; 0 as in the released code, whose
        AToM weights speak of (identity + expression displacement) * unit * 10. Raises UserError where the
        file is missing, too large or something else.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(
                f"{path} does not exist; give the BFM_model_front.mat that you obtained from its owners"
            )
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} has more than {MAX_BYTES >> 30} GiB: it is not a BFM_model_front.mat")
        try:
            from scipy.io import loadmat  # type: ignore[import-untyped]
        except ImportError:
            raise UserError("reading BFM needs scipy: pip install scipy") from None
        try:
            file = loadmat(path, variable_names=["meanshape", "idBase", "exBase", "keypoints"])
            points = np.asarray(file["keypoints"]).astype(int).ravel() - shift
            mean = np.asarray(file["meanshape"], np.float64).reshape(-1, 3)
            bases = [
                np.asarray(file[name], np.float64).reshape(len(mean), 3, -1) for name in ("idBase", "exBase")
            ]
            if len(points) != 68 or points.min() < 0 or points.max() >= len(mean):
                raise ValueError(f"{len(points)} key points from {points.min()} to {points.max()}")
        except (KeyError, ValueError, TypeError, NotImplementedError, OSError) as error:
            raise UserError(f"{path} is not a BFM_model_front.mat ({error})") from None
        mean = mean[points]
        unit = float(eye_distance(mean))
        mean = (mean - WEIGHTS @ mean / WEIGHTS.sum()) / unit
        identity, expression = (basis[points] / unit for basis in bases)
        return cls(mean, identity, expression, personal=False, unit=unit)

    def shape(self, identity: Array, expression: Array) -> Float:
        """Coefficients (..., Ki) and (..., Ke) -> canonical landmarks (..., 68, 3)."""
        moved: Float = self.mean + self.displacement(identity, expression)
        return moved

    def displacement(self, identity: Array, expression: Array) -> Float:
        """What the coefficients add to the mean: (..., 68, 3)."""
        moved = identity @ self.identity_basis.reshape(204, -1).T
        moved = moved + expression @ self.expression_basis.reshape(204, -1).T
        return np.asarray(moved.reshape(*moved.shape[:-1], 68, 3))

    def neutral(self, points: Array) -> Float:
        """The resting shape (68, 3), canonical, of the one person whose image points (S, 68, 3) are given.

        More frames make it steadier; it is an anchor: taken once, and given to `fit` and `frontalize`
        for all frames of that person, their frontal landmarks differ by expression alone, however the
        frames arrive.
        """
        return self._rest(np.asarray(points, np.float64))[1]

    def fit(self, points: Array, neutral: Array | None = None) -> tuple[Float, Float, Pose]:
        """Image points (S, 68, 3) of one person -> identity (Ki,), expression (S, Ke), pose of each frame.

        neutral: the person's resting shape; None: from these frames. Ridge regression (coefficients of unit
        variance), in turns with the rigid pose; a frame's answer depends on that frame and neutral only.
        """
        identity, expression, pose, _ = self._fit(points, neutral)
        return identity, expression, pose

    def frontalize(self, points: Array, neutral: Array | None = None) -> tuple[NDArray[np.float32], Pose]:
        """Image points (S, 68, 3) of one person -> frontal landmarks (S, 68, 3), free of pose, and the pose.

        `apply_pose(frontal, pose)` gives the points back. neutral: as for `fit`.
        """
        _, _, pose, frontal = self._fit(points, neutral)
        return frontal.astype(np.float32), pose

    def _fit(self, points: Array, neutral: Array | None) -> tuple[Float, Float, Pose, Float]:
        points = np.asarray(points, np.float64)
        if neutral is None:
            identity, rest = self._rest(points)
        else:
            rest = np.asarray(neutral, np.float64)
            identity = self._solve(rest - self.mean, both=True)[: self.identity_basis.shape[-1]]
        pose = procrustes(points, rest, WEIGHTS)
        expression = self._solve(remove_pose(points, pose) - rest)
        frontal = rest + self.displacement(np.zeros_like(identity), expression)
        sway = _rotations(expression @ np.broadcast_to(self.sway, (expression.shape[-1], 3)))
        pose = replace(pose, rotation=pose.rotation @ sway.transpose(0, 2, 1))
        return identity, expression, replace(pose, residual=remove_pose(points, pose) - frontal), frontal

    def _rest(self, points: Float) -> tuple[Float, Float]:
        """Identity (Ki,) and resting shape (68, 3)."""
        rest = self.mean
        for _ in range(3):
            pose = procrustes(points, rest, WEIGHTS)
            angles = np.clip(np.radians(pose.angles().mean(0)), -TRACE_LIMIT, TRACE_LIMIT)
            shape = remove_pose(points, pose).mean(0) - np.tensordot(angles, self.trace, 1)
            coefficients = self._solve(shape - self.mean, both=True)
            identity, expression = np.split(coefficients, [self.identity_basis.shape[-1]])
            rest = self.shape(identity, np.zeros_like(expression))
            if self.personal:
                rest = shape - self.displacement(np.zeros_like(identity), expression)
        return identity, rest

    def _solve(self, shape: Float, both: bool = False) -> Float:
        """Ridge regression of displacements (..., 68, 3): expression (..., Ke), or both: (..., Ki + Ke)."""
        return np.asarray(shape.reshape(*shape.shape[:-2], -1) @ self._solvers[both].T)

    @property
    def _solvers(self) -> tuple[Float, Float]:
        if "solvers" not in self.__dict__:  # computed once; the fields never change
            expression = self.expression_basis.reshape(204, -1)
            noise = self.contamination.reshape(-1, 204)
            rigid = RIGID * _rigid(self.mean)
            covariance = noise.T @ noise + rigid.T @ rigid + NOISE**2 * np.eye(204)
            solvers = []
            for basis in (
                expression,
                np.concatenate([self.identity_basis.reshape(204, -1), expression], axis=1),
            ):
                weighted = np.linalg.solve(covariance, basis)
                solvers.append(np.linalg.solve(basis.T @ weighted + np.eye(basis.shape[1]), weighted.T))
            self.__dict__["solvers"] = tuple(solvers)
        found: tuple[Float, Float] = self.__dict__["solvers"]
        return found


def _rigid(mean: Float) -> Float:
    """(7, 204): how small rotations, shifts and scaling move the mean face."""
    turns = [np.cross(axis, mean) for axis in np.eye(3)]
    shifts = [np.tile(axis, (68, 1)) for axis in np.eye(3)]
    return np.stack([*turns, *shifts, mean]).reshape(7, 204)


def _rotations(vectors: Float) -> Float:
    """Rotation vectors (S, 3), radians -> matrices (S, 3, 3)."""
    angle = np.linalg.norm(vectors, axis=-1)[:, None, None]
    x, y, z = vectors.T
    cross = np.stack([0 * x, -z, y, z, 0 * x, -x, -y, x, 0 * x], axis=-1).reshape(-1, 3, 3)
    half = 0.5 * np.sinc(angle / 2 / np.pi) ** 2  # (1 - cos angle) / angle^2
    return np.asarray(np.eye(3) + np.sinc(angle / np.pi) * cross + half * cross @ cross)


@lru_cache(maxsize=1)
def default_model() -> FaceModel:
    """The model in the package, read once."""
    return FaceModel.load()


def frontalize(points: Array, neutral: Array | None = None) -> tuple[NDArray[np.float32], Pose]:
    """`FaceModel.frontalize` of the model in the package."""
    return default_model().frontalize(points, neutral)
