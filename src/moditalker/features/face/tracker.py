"""Faces in frames: detection, 478-point mesh, tracking, smoothing. [ours, after MediaPipe's FaceMesh]

One face is followed through a video: the mesh of one frame says where to look in the next, and the detectors
run only where no face is known. Everything streams: `FaceTracker.track` holds points of a fixed number of
frames and no pictures, so memory does not grow and each answer comes a fixed number of frames late.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from moditalker.errors import UserError
from moditalker.features.face.found import Face
from moditalker.features.face.networks import FaceNetwork, load_face_network
from moditalker.features.face.shots import CUT_DIFFERENCE, CUT_MOVE, CUT_PART, changes
from moditalker.features.face.smoothing import GAP_SECONDS, SMOOTHING_SECONDS, fill_gaps, smooth
from moditalker.jobs.streams import beside

Array = NDArray[np.float32]
Image = NDArray[np.uint8]  # (H, W, 3) RGB
Choice = str | int | tuple[float, float]

PRESENCE = 0.5  # mesh score under which there is no face [MediaPipe]
DETECTION = 0.5  # detector score above which a place is tried [MediaPipe]
SURE = 0.85  # under it, faces are also looked for upside down; faces that stand upright have more
LARGE = 0.12  # of the longer side: width of a face beside which smaller ones do not count as the largest
TURNED = 0.1  # by how much these must be more likely
DOUBT = 0.25  # a face so much less likely than another one is not taken for its size alone
OFF_CENTRE = 0.1  # sizes of the face that it may move from frame to frame and be seen well enough
LOST_SECONDS, LOST_MOVE = 1.0, 1.0  # s, and sizes of the face: who comes back after more may be another
REGION = 1.5  # side of the mesh's region over the face's extent [MediaPipe]


@dataclass(frozen=True)
class Region:
    """A turned square of the picture: centre and side in pixels, angle in radians, clockwise as seen."""

    x: float
    y: float
    side: float
    angle: float = 0.0

    @property
    def axes(self) -> Array:
        """Columns: the region's width and height as vectors in pixels, (2, 2)."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return self.side * np.array([[cos, -sin], [sin, cos]], np.float32)


class FaceTracker:
    """Finds faces in pictures and follows one through a video.

    The networks' weights come with the package. They run on the CPU: they are small and see one frame after
    the other, for which an H200 took three times as long as the processor beside it.
    """

    def __init__(self) -> None:
        near, far = (load_face_network(name) for name in ("face-detector", "face-detector-far"))
        self.near = near, _anchors(near.size, [(8, 2), (16, 6)])
        self.far = far, _anchors(far.size, [(4, 1)])
        self.mesh = load_face_network("face-mesh")
        # The network looks again at three sets of points; the refined outputs are of these same points.
        lips, *eyes = (op["subset_idxs"] for op in self.mesh.ops if op["op"] == "landmarks_to_matrix")
        self.refined = {"lips": lips, "left_eye": eyes[0], "right_eye": eyes[1]}
        self.irises = {"left_iris": slice(468, 473), "right_iris": slice(473, 478)}
        self.rims = [eye[:16] for eye in eyes]

    def detect(self, image: Image, tiles: int = 2, small: bool = True) -> list[Face]:
        """All faces of a picture, from left to right.

        image: (H, W, 3) uint8 RGB. tiles: how many times the picture is halved, into overlapping tiles, to
        find faces too small for one look at the whole, none smaller than 128 pixels; 0: faces upside down
        are not looked for either. small: whether small faces count where a large one is seen; tiles, which
        cost thirty times as much as the whole, are left out if not.
        """
        candidates = self._candidates(image, tiles, small)
        rough = zip(self._meshes(image, [region for region, _ in candidates]), candidates, strict=True)
        again = [(region_of(face.points), score) for face, (_, score) in rough if face.score >= PRESENCE]
        found = zip(self._meshes(image, [region for region, _ in again]), again, strict=True)  # well centred
        faces: list[Face] = []
        for face, (_, score) in found:  # best first
            others = np.array([other.box for other in faces])
            if face.score >= PRESENCE and not (_overlaps(face.box, others, smaller=True) > 0.5).any():
                faces.append(replace(face, detection=score))
        return sorted(faces, key=lambda face: float(face.centre[0]))

    def track(
        self, frames: Iterable[Image], fps: float, choose: Choice | Iterator[Choice] = "largest"
    ) -> Iterator[Face | None]:
        """Follow one face: a face or None for each frame, in order, a fixed number of frames late.

        frames: (H, W, 3) uint8 RGB. fps: frames per second. choose: which of several faces, at the start and
        after a cut: "largest", a number (from 0, from left to right; waits for a frame with so many) or a
        place (x, y) in pixels (the nearest); an iterator of these gives one a frame. A chosen face is kept
        until its shot ends: when lost it is looked for near where it was, then further away. Losses up to
        0.2 s are interpolated, longer ones are None. Jitter is smoothed over +-0.08 s, movements larger than
        it are left alone. An answer comes when 0.36 s more of frames were read. Raises UserError for another
        choice or an fps that is not positive.
        """
        if not fps > 0:
            raise UserError(f"fps is {fps}; it must be positive")
        counted = isinstance(choose, int) and choose >= 0
        placed = isinstance(choose, tuple) and len(choose) == 2
        choices = choose if isinstance(choose, Iterator) else repeat(choose)
        if not (choose == "largest" or counted or placed or choices is choose):
            raise UserError(
                f'no face is called {choose!r}; give "largest", a number from 0 or a place (x, y)'
            )
        found = fill_gaps(self._follow(frames, fps, choices), round(GAP_SECONDS * fps))
        return smooth(found, round(SMOOTHING_SECONDS * fps))

    def _follow(
        self, frames: Iterable[Image], fps: float, choices: Iterable[Choice]
    ) -> Iterator[Face | None]:
        """The chosen face of each frame as the networks see it."""
        face: Face | None = None  # in the previous frame
        last: Face | None = None  # where it was seen last in this shot
        lost = 0  # frames since
        cut = doubt = False  # no face was seen since a cut; since what may be a cut or something in the way
        there: Array | None = None  # thumbnail of the frame with ``last``
        changing = beside(frames, lambda images: changes(images, fps))
        for (frame, change), choice in zip(changing, choices, strict=False):
            if change.dissolving:  # two faces are no face, and after it comes another shot
                face, last, lost, cut = None, None, 0, True
                yield None
                continue
            face = self.again(frame, face) if face is not None else None
            moved = 0.0 if face is None or last is None else _moved(last, face)
            if change.jump and face is not None and (moved > CUT_MOVE or change.size > CUT_DIFFERENCE):
                face, last, lost, cut = None, None, 0, True
            if face is None:
                often = lost % max(1, round(fps / 2)) == 0  # tiles cost much: now and then is enough
                faces = self.detect(frame, 2 if often else 0, small=choice != "largest")
                doubt = doubt or change.jump
                new = there is not None and (np.abs(change.look - there) > 0.02).mean() > CUT_PART
                if faces and last is not None and doubt and new:
                    last, lost, cut = None, 0, True
                face = _pick(faces, choice, last, lost / fps)
                if face is not None and last is not None:  # perhaps somebody else, who needs an anchor
                    cut = lost > LOST_SECONDS * fps or _moved(last, face) > LOST_MOVE
            if face is None:
                lost += 1
            else:
                face, last, there, lost = replace(face, cut=cut), face, change.look, 0
                cut = doubt = False
            yield face

    def again(self, frame: Image, face: Face) -> Face | None:
        """The face of the previous frame in this one, or None where it cannot be it."""
        found = self._meshes(frame, [region_of(face.points)])[0]
        if found.score >= PRESENCE and _moved(face, found) > OFF_CENTRE:
            found = self._meshes(frame, [region_of(found.points)])[0]  # now well centred
        return found if found.score >= PRESENCE and _moved(face, found) < 0.5 else None

    def _candidates(self, image: Image, tiles: int, small: bool = True) -> list[tuple[Region, float]]:
        """Faces that a detector found, with scores, best first."""
        height, width = image.shape[:2]
        side = max(height, width)
        whole = Region((width - 1) / 2, (height - 1) / 2, side)
        looks = [self._detections(image, whole, *network) for network in (self.near, self.far)]
        if tiles and max((score for look in looks for score in look[:, 0]), default=0.0) < SURE:
            # The mesh fits any face upside down, and would believe in it.
            turned = replace(whole, angle=math.pi)
            found = [self._detections(image, turned, *network) for network in (self.near, self.far)]
            looks += [np.concatenate([look[:, :1] - TURNED, look[:, 1:]], axis=1) for look in found]
        rows = np.concatenate(looks)
        if not small and ((rows[:, 0] >= SURE) & (rows[:, 3] - rows[:, 1] >= LARGE * side)).any():
            tiles = 0
        for level in range(1, tiles + 1):
            tile = side / 2**level
            if tile < self.near[0].size:
                break
            xs, ys = (
                np.linspace(min(tile, n) / 2, n - min(tile, n) / 2, max(1, math.ceil(2 * n / tile) - 1))
                for n in (width, height)
            )
            looks += [self._detections(image, Region(x, y, tile), *self.far) for y in ys for x in xs]
        rows, which = np.concatenate(looks), np.repeat(np.arange(len(looks)), [len(look) for look in looks])
        order = np.argsort(-rows[:, 0], kind="stable")
        rows, which = rows[order], which[order]
        regions = []
        while len(rows):  # non-maximum suppression: the best look's overlapping boxes become their mean
            same = _overlaps(rows[0, 1:5], rows[:, 1:5]) > 0.3
            same[0] = True
            group = rows[same & (which == which[0])]
            x0, y0, x1, y1, *eyes = np.average(group[:, 1:], axis=0, weights=group[:, 0]).tolist()
            angle = math.atan2(eyes[3] - eyes[1], eyes[2] - eyes[0])
            region = Region((x0 + x1) / 2, (y0 + y1) / 2, REGION * max(x1 - x0, y1 - y0), angle)
            regions.append((region, float(rows[0, 0])))
            rows, which = rows[~same], which[~same]
        return regions

    @torch.inference_mode()
    def _detections(self, image: Image, region: Region, network: FaceNetwork, anchors: Array) -> Array:
        """One run of a detector: (N, 9) rows of score, x0, y0, x1, y1 and the two eyes' x, y in pixels."""
        size = network.size
        out = network(cut_out(image, region, size, "zeros") / 127.5 - 1).values()
        logits, values = sorted((value[0].numpy() for value in out), key=lambda value: value.shape[1])
        keep = logits[:, 0] > math.log(DETECTION / (1 - DETECTION))
        pairs = values[keep].reshape(-1, 8, 2) / size  # centre (from its anchor), extent, 6 points (likewise)
        anchor, centre, extent = anchors[keep, None], pairs[:, :1] + anchors[keep, None], pairs[:, 1:2]
        spots = np.concatenate([centre - extent / 2, centre + extent / 2, pairs[:, 2:4] + anchor], 1)
        pixels = (spots - 0.5) @ region.axes.T + [region.x, region.y]
        pixels[:, :2] = np.sort(pixels[:, :2], axis=1)  # the box's corners
        score = 1 / (1 + np.exp(-np.clip(logits[keep], None, 80)))
        return np.concatenate([score, pixels.reshape(-1, 8)], 1)

    @torch.inference_mode()
    def _meshes(self, image: Image, regions: list[Region]) -> list[Face]:
        """The mesh in each region, whatever its score."""
        if not regions:
            return []
        size = self.mesh.size
        inputs = torch.cat([cut_out(image, region, size) for region in regions]) / 255
        out = {name: value.flatten(1).numpy() for name, value in self.mesh(inputs).items()}
        points = np.empty((len(regions), 478, 3), np.float32)
        points[:, :468] = out["output_mesh_identity"].reshape(-1, 468, 3)
        for name, indices in (self.refined | self.irises).items():
            points[:, indices, :2] = out[f"output_{name}"].reshape(len(regions), -1, 2)
        for iris, rim in zip(self.irises.values(), self.rims, strict=True):
            points[:, iris, 2] = points[:, rim, 2].mean(1, keepdims=True)
        points = points / np.float32(size) - np.array([0.5, 0.5, 0], np.float32)
        faces = []
        for region, p, logit in zip(regions, points, out["conv_faceflag"][:, 0].tolist(), strict=True):
            xy = p[:, :2] @ region.axes.T + np.array([region.x, region.y], np.float32)
            pixels = np.concatenate([xy, p[:, 2:] * np.float32(region.side)], 1)
            faces.append(Face(pixels, 1 / (1 + math.exp(-max(logit, -80)))))
        return faces


def region_of(points: Array) -> Region:
    """Where to look for the mesh next: the points' extent, enlarged, turned so that the eyes are level."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    x, y = ((low + high) / 2).tolist()
    dx, dy = (points[263, :2] - points[33, :2]).tolist()  # the eyes' outer corners
    return Region(x, y, REGION * float((high - low).max()), math.atan2(dy, dx))


def cut_out(image: Image, region: Region, size: int, outside: str = "border") -> Tensor:
    """A region as (1, 3, size, size) float in [0, 255], bilinear.

    ``outside`` the picture: "border" repeats its edge, "zeros" is black.
    """
    height, width = image.shape[:2]
    reach = float(np.abs(region.axes).sum(1).max()) / 2
    x0, x1 = _span(region.x, reach, width)
    y0, y1 = _span(region.y, reach, height)
    # What is much larger than the input is thinned, then averaged in pairs: little aliasing, little work.
    skip, pool = max(1, int(region.side / size) // 2), 2 if region.side >= 2 * size else 1
    if min(x1 - x0, y1 - y0) < skip * pool:
        skip = pool = 1
    part = torch.from_numpy(image[y0:y1:skip, x0:x1:skip].copy())
    if pool == 2:
        rows, columns = part.shape[0] // 2 * 2, part.shape[1] // 2 * 2
        part = part[:rows:2].short() + part[1:rows:2]
        part = (part[:, :columns:2] + part[:, 1:columns:2]).float() / 4
    part = part.permute(2, 0, 1)[None].float()

    extent = np.array([part.shape[3], part.shape[2]])
    origin = np.array([region.x - x0, region.y - y0]) - skip * (pool - 1) / 2  # of the part's first sample
    x, y = ((origin / (skip * pool) * 2 + 1) / extent - 1).tolist()  # in grid_sample's units, [-1, 1]
    (xx, xy), (yx, yy) = (region.axes / (skip * pool) * 2 / extent[:, None]).tolist()
    # MediaPipe maps pixel i of n to i / n of the region, not (i + 0.5) / n: its networks are used to that.
    steps = torch.arange(size) / size - 0.5
    grid = torch.empty(1, size, size, 2)
    grid[..., 0] = x + xx * steps + xy * steps[:, None]
    grid[..., 1] = y + yx * steps + yy * steps[:, None]
    return F.grid_sample(part, grid, padding_mode=outside, align_corners=False)


def _pick(faces: list[Face], choose: Choice, last: Face | None, seconds: float) -> Face | None:
    """The face to follow: the one seen ``seconds`` ago if there is one, else the chosen one."""
    if last is not None:
        nearest = min(faces, key=lambda face: _moved(last, face), default=None)
        return nearest if nearest is not None and _moved(last, nearest) < 0.5 + 2 * seconds else None
    if isinstance(choose, int):
        return faces[choose] if choose < len(faces) else None
    if isinstance(choose, tuple):
        return min(faces, key=lambda face: math.dist(face.centre, choose), default=None)
    return faces[largest(faces)] if faces else None


def largest(faces: list[Face]) -> int:
    """Index of the largest face that is no mere pattern; there must be one face."""
    best = max(face.detection for face in faces)
    return max(
        (i for i, face in enumerate(faces) if face.detection > best - DOUBT), key=lambda i: faces[i].size
    )


def _moved(a: Face, b: Face) -> float:
    """The larger of the distance of b from a, in sizes of a, and |log2| of their sizes' ratio."""
    return max(math.dist(a.centre, b.centre) / a.size, abs(math.log2(b.size / a.size)))


def _span(centre: float, reach: float, length: int) -> tuple[int, int]:
    """The pixels within ``reach`` of ``centre``, with a margin; at least one pixel of the picture."""
    start = max(0, min(int(centre - reach) - 2, length - 1))
    return start, max(start + 1, min(int(centre + reach) + 3, length))


def _overlaps(box: tuple[float, float, float, float] | Array, boxes: Array, smaller: bool = False) -> Array:
    """Intersection of a box (4,) with boxes (N, 4) over their union or, if asked, over the smaller one."""
    a, b = np.asarray(box), boxes.reshape(-1, 4)
    common = np.clip(np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2]), 0, None).prod(1)
    one, other = (a[2:] - a[:2]).prod(), (b[:, 2:] - b[:, :2]).prod(1)
    return np.asarray(common / np.maximum(np.minimum(one, other) if smaller else one + other - common, 1e-9))


def _anchors(size: int, layers: list[tuple[int, int]]) -> Array:
    """Centres of a detector's cells, (N, 2) in [0, 1]; ``layers``: (stride, boxes a cell) [MediaPipe]."""
    parts = []
    for stride, count in layers:
        n = size // stride
        y, x = np.mgrid[:n, :n]
        parts.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2) + 0.5, count, 0) / n)
    return np.concatenate(parts).astype(np.float32)
