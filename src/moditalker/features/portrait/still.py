"""Turns a still picture into frames: the head turns, the eyes blink, the background stays unchanged [ours].

The face's mesh says how near each part of the head is. Turning it moves each pixel by what the turn does to
a point of that depth, by the full amount on the head, by less around it, and not at all beyond a margin and
at the picture's edges. So nothing tears there, and the background stays the picture's, exactly. The moved
landmarks are computed, not detected again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from moditalker.config import CropConfig
from moditalker.features.face.found import Face
from moditalker.features.face.identity import FaceFrame
from moditalker.features.face.shape import frontalize
from moditalker.features.face.tracker import Choice, FaceTracker
from moditalker.features.portrait.eyelids import EYES, Eye, sample, shut_eyes
from moditalker.features.portrait.head import Angles, Blinks, HeadMotion
from moditalker.geometry.align import align_stream
from moditalker.geometry.points import smooth_step
from moditalker.jobs.streams import beside
from moditalker.media import Frame, Source

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]
Pixels = NDArray[np.uint8]

# The part that moves as one, in half widths and half heights of the mesh around its middle: hair and chin
# are in. Beyond it the motion falls off, to nothing at FALL_OFF times the distance from the middle.
SIDES, ABOVE, BELOW, FALL_OFF = 1.3, 1.6, 1.1, 1.7
NECK = 1.3  # half heights under the middle, about which nods and tilts turn
EDGE, LEAST_EDGE = 0.5, 0.15  # longer sides of the mesh: how far from the picture's edges motion begins
CELLS = 40  # of the grid on which motion is computed, over the longer side of the mesh
NEAR = 0.03  # longer sides of the mesh: over what depth is smoothed
DEPTH = 1.3  # the mesh is this much flatter than heads are: nose to ears is 0.55 of its height, not 0.7
BAND = 1 << 18  # pixels that are drawn at a time
TURNS = 5  # rounds in which a pixel's origin is found
BEND = 0.75  # share of their distance by which neighbours may come nearer or part; at 1 the picture folds


class Still:
    """A picture, (H, W, 3) uint8, with a face found in it."""

    def __init__(self, image: Pixels, face: Face) -> None:
        self.image, self.face = image, face
        points = face.points.astype(np.float64)
        pose = frontalize(face.landmarks[None])[1]
        self.angles = pose.angles()[0]  # degrees: yaw, pitch, roll
        self.upright = _rotation(self.angles)
        self.eyes = [Eye(face.points, names, image.shape) for names in EYES]
        self._place(points)

    @classmethod
    def found(cls, tracker: FaceTracker, source: Source, choose: Choice = "largest") -> Still:
        """The still of a picture that shows a face."""
        image = next(iter(source)).image
        face = next(tracker.track([image], 1.0, choose))
        assert face is not None
        return cls(image, face)

    def _place(self, points: Matrix) -> None:
        """Compute weights, depths and the pivot of the motion."""
        height, width = self.image.shape[:2]
        roll = np.radians(self.angles[2])
        turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])  # from upright
        own = points[:, :2] @ turn  # of rows: into upright
        low, high = own.min(0), own.max(0)
        middle, half = (low + high) / 2, (high - low) / 2
        sides = points[[127, 234, 454, 356], 2].mean()  # beside the ears: they hardly move when a head turns
        self.pivot = np.append(turn @ (middle + np.array([0, NECK * half[1]])), sides)

        # The ellipses' box, and every CELLS-th of a face a node, on whole pixels.
        reach = FALL_OFF * max(SIDES * half[0], ABOVE * half[1])
        centre = turn @ middle
        limits = np.array([width, height])
        first = np.clip(np.floor(centre - reach).astype(int), 0, limits - 1)
        last = np.clip(np.ceil(centre + reach).astype(int) + 1, first + 1, limits)
        self.rows, self.columns = slice(first[1], last[1]), slice(first[0], last[0])
        self.step = max(1, round(self.face.size / CELLS))
        counts = -(-(last - first - 1) // self.step) + 1
        self.nodes = np.stack(
            np.meshgrid(*(f + self.step * np.arange(n) for f, n in zip(first, counts, strict=True))), -1
        )
        weight = self._weight(self.nodes @ turn - middle, half)
        box = np.array(self.face.box).reshape(2, 2)
        for axis, length in enumerate(limits):
            for gap, distance in (
                (box[0, axis], self.nodes[..., axis]),
                (length - 1 - box[1, axis], length - 1 - self.nodes[..., axis]),
            ):
                margin = np.clip(gap, LEAST_EDGE * self.face.size, EDGE * self.face.size)
                weight = weight * smooth_step(distance / margin)
        down, across = np.gradient(weight, self.step)
        self.slope = np.stack([across, down], -1).reshape(-1, 2)  # of the weight, a pixel
        depth = _depth(self.nodes.reshape(-1, 2), points, NEAR * self.face.size).reshape(weight.shape)
        depth = DEPTH * (depth - sides)
        self.depth = depth.reshape(-1, 1)
        self.maps = torch.from_numpy(np.stack([weight, depth]).astype(np.float32))[None]
        self.first = first

    @staticmethod
    def _weight(own: Matrix, half: Matrix) -> Matrix:
        """1 in the inner ellipse, 0 outside the outer one; own: upright pixels from the mesh's middle."""
        down = np.where(own[..., 1] < 0, ABOVE, BELOW) * half[1]
        distance = np.hypot(own[..., 0] / (SIDES * half[0]), own[..., 1] / down)
        result: Matrix = smooth_step((FALL_OFF - distance) / (FALL_OFF - 1))
        return result

    def turned(self, angles: Angles, closure: float = 0.0) -> tuple[Pixels, Array]:
        """The picture with its head turned by (yaw, pitch, roll) degrees, and the 68 landmarks in it.

        It turns by less where the picture would fold: near its edges, where there is little room, and by
        large angles about several axes at once. closure: of the eyes, 0 as they are, 1 shut. The landmarks
        (68, 3) do not follow the lids: what the mouth does is not to depend on a blink.
        """
        image = shut_eyes(self.image, self.eyes, closure) if closure > 0 else self.image
        if not np.any(angles):
            return image, self.face.landmarks
        own = self.nodes.reshape(-1, 2).astype(np.float64)
        turn = self._turn(angles)
        bend = float(np.abs((self.slope * self._swing(own, self.depth, turn)).sum(1)).max())
        if bend > BEND:
            turn = self._turn(angles * (BEND / bend))
        origin = own
        for _ in range(TURNS):
            weight, depth = self._looked_up(origin)
            origin = own - weight * self._swing(origin, depth, turn)
        moved = (origin - own).reshape(*self.nodes.shape).astype(np.float32)
        landmarks = self.face.landmarks.astype(np.float64)
        weight, _ = self._looked_up(landmarks[:, :2])
        landmarks = landmarks + weight * ((landmarks - self.pivot) * [1, 1, DEPTH] @ turn.T)
        return self._drawn(image, moved), landmarks.astype(np.float32)

    def _turn(self, angles: Angles) -> Matrix:
        """The change that a turn by these degrees makes to places relative to the pivot: (3, 3)."""
        return np.asarray(_rotation(self.angles + angles) @ self.upright.T - np.eye(3))

    def _swing(self, places: Matrix, depth: Matrix, turn: Matrix) -> Matrix:
        """How far places (N, 2) at depths (N, 1) move where the weight is 1: (N, 2) pixels."""
        return np.asarray((places - self.pivot[:2]) @ turn[:2, :2].T + depth * turn[:2, 2])

    def _looked_up(self, places: Matrix) -> tuple[Matrix, Matrix]:
        """Weight and depth, (N, 1) each, at places (N, 2) in pixels."""
        extent = np.array([self.maps.shape[3], self.maps.shape[2]]) - 1
        grid = (places - self.first) / self.step * (2 / np.maximum(extent, 1)) - 1
        found = F.grid_sample(
            self.maps,
            torch.from_numpy(grid.astype(np.float32))[None, None],
            padding_mode="border",
            align_corners=True,
        )[0, :, 0].double()
        return found[0].numpy()[:, None], found[1].numpy()[:, None]

    def _drawn(self, image: Pixels, moved: Array) -> Pixels:
        """The picture warped by offsets (h, w, 2) at the nodes; a band at a time."""
        result = image.copy()
        width = self.columns.stop - self.columns.start
        far = math.ceil(float(np.abs(moved[..., 1]).max())) + 3  # bicubic looks two pixels around
        count = max(1, BAND // (self.step * width))  # of a band's rows of cells
        for node in range(0, len(moved) - 1, count):
            part = torch.from_numpy(moved[node : node + count + 1]).permute(2, 0, 1)[None]
            fine = [1 + self.step * (n - 1) for n in part.shape[2:]]
            field = F.interpolate(part, fine, mode="bilinear", align_corners=True)[0, :, :, :width]
            first = self.rows.start + node * self.step
            height = min(field.shape[1], self.rows.stop - first)
            field = field[:, :height].permute(1, 2, 0)
            low, high = max(0, first - far), min(len(image), first + height + far)
            source = image[low:high, self.columns]
            y, x = torch.meshgrid(torch.arange(height) + (first - low), torch.arange(width), indexing="ij")
            grid = (field + torch.stack([x, y], -1) + 0.5) * (2 / torch.tensor([width, len(source)])) - 1
            drawn = sample(source.astype(np.float32), grid).round().clip(0, 255)
            place = result[first : first + height, self.columns]
            place[...] = np.where(field.any(-1, keepdim=True).numpy(), drawn, place)
        made: Pixels = result
        return made

    def frames(
        self, frames: Iterable[Frame], crop: CropConfig, fps: float, motion: HeadMotion, blinks: Blinks
    ) -> Iterator[FaceFrame]:
        """The picture's frames with its head moving; frames: when they are shown."""

        def turned() -> Iterator[tuple[Frame, Array]]:
            for frame in frames:
                seconds = float(frame.time)
                image, landmarks = self.turned(motion(seconds), blinks.closure(seconds))
                yield replace(frame, image=image), landmarks

        aligned = beside(
            turned(),
            lambda items: align_stream((points for _, points in items), crop, fps, self.image.shape[:2]),
        )
        return (FaceFrame(frame, points, matrix) for (frame, points), matrix in aligned)


def _rotation(angles: Angles) -> Matrix:
    """Yaw, pitch, roll in degrees -> (3, 3) from a head's axes to the picture's: x right, y down, z away."""
    yaw, pitch, roll = np.radians(angles)
    (cy, cp, cr), (sy, sp, sr) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    about_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(about_y @ about_x @ about_z)


def _depth(places: Matrix, points: Matrix, near: float) -> Matrix:
    """Depth (M,) at places (M, 2), from points (N, 3): a mean of those near, of more where none is near."""
    squares = ((places[:, None] - points[None, :, :2]) ** 2).sum(-1)
    nearest = squares.min(1, keepdims=True)
    weights = np.exp(-(squares - nearest) / (2 * (near**2 + 0.25 * nearest)))
    return np.asarray(weights @ points[:, 2] / weights.sum(1))
