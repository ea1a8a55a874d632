"""Follows one face through a source: the face of each frame, and the identity that each shot is made from.

Everything streams with a fixed look-ahead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice, takewhile, tee

import numpy as np
from numpy.typing import NDArray

from moditalker.config import CropConfig
from moditalker.features.face.confidence import AROUND, CROP, LENT, in_front, lips_covered
from moditalker.features.face.cover import load_cover
from moditalker.features.face.found import Face
from moditalker.features.face.shape import WEIGHTS, default_model, frontalize
from moditalker.features.face.shots import changes
from moditalker.features.face.speaker import Speakers
from moditalker.features.face.standing import Standing
from moditalker.features.face.tracker import Choice, FaceTracker
from moditalker.geometry.align import align_stream, transform
from moditalker.geometry.looks import Identity, Look, look_at, scale_of
from moditalker.geometry.points import LIP_INNER, TEMPLATE, lip_opening, mouth_width, shut_mouth
from moditalker.geometry.pose import Affine, procrustes
from moditalker.geometry.raster import warp
from moditalker.jobs.streams import beside, fade
from moditalker.media import Frame, Source

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Candidate = tuple[Array, Look]  # of a frame: landmarks (68, 3) in its pixels, and what it shows

ANCHOR_FACES = 25  # faces that the anchor is chosen from
LOOK, LOOK_BYTES = 16, 64 << 20  # frames that a later shot's anchor is chosen from, at most, and their bytes
ANCHOR_SECONDS = 0.12  # between them, so that the mouth has time to shut
CALM = 2  # of them before and after a covered one that are left out too: hands come and go
MAX_YAW = 50.0  # degrees, beyond which half of the mouth is out of sight
OPEN = 0.02  # eye distances between the lips from which on a mouth shows what is in it
LIGHT = 0.6  # share of the usual brightness that an anchor may lack or have more
MOUTHS = 8  # open mouths of different shapes that are kept
SHOTS = 32  # whose anchors are kept: a megabyte each
REMEMBERED = 7500  # frames, 5 minutes: some 10 MB
STRETCHED = 1.45  # how much wider or narrower than usual a face may be and still be somebody's own
TURNED = 0.12  # of the eyes' distance that the nose may be off their middle in a face from the front
FADE_SECONDS = 0.12  # over which the generated mouth comes and goes where the face is lost


@dataclass(frozen=True)
class FaceFrame:
    """A frame of the source and the face in it.

    landmarks: (68, 3) pixels of the frame, None where there is no face; matrix: (2, 3) frame -> crop pixels;
    yaw: degrees that the head is turned by; cut: the first face of a new shot; shot: its number, the same
    if it is shown again and remembered; strength: of the generated mouth, less than 1 near frames whose
    face is not usable; frontal: (68, 3) canonical, the landmarks without the head's pose, of a usable frame
    once its shot's identity is known.
    """

    frame: Frame
    landmarks: Array | None
    matrix: Matrix
    yaw: float = 0.0
    cut: bool = False
    shot: int = 0
    strength: float = 1.0
    frontal: Array | None = None
    crops: dict[int, Pixels] = field(default_factory=dict, repr=False, compare=False)  # made, by their size

    @property
    def lacks(self) -> str:
        """Why the face is not usable; "" where it is."""
        if self.landmarks is None or not np.isfinite(self.matrix).all():
            return "no face"
        return "turned away" if abs(self.yaw) > MAX_YAW else ""

    @property
    def usable(self) -> bool:
        return not self.lacks

    @property
    def scale(self) -> float:
        """Pixels of the frame for one of the crop, of a usable frame."""
        return scale_of(self.matrix)

    def crop(self, size: int) -> Pixels:
        """The aligned crop, (size, size, 3) uint8, of a usable frame; made once."""
        if size not in self.crops:
            self.crops[size] = warp(self.frame.image[None], self.matrix[None], size)[0]
        return self.crops[size]

    def look(self, crop: Pixels, fps: float) -> Look:
        """The look of a usable frame; crop: its own; fps: of the source."""
        assert self.landmarks is not None
        points = transform(self.landmarks[None], self.matrix[None])[0]
        return look_at(self.frame.image, self.matrix, crop, points, self.frame.index / fps)

    @cached_property
    def affine(self) -> Affine:
        """The head pose of a usable frame."""
        assert self.landmarks is not None
        assert self.frontal is not None
        return Affine.fitted(self.frontal[None], self.landmarks[None])

    def at_rest(self, identity: Identity) -> Array:
        """The landmarks of a usable frame with a shut mouth: (1, 68, 3), pixels of the frame."""
        return self.affine.posed(shut_mouth(identity.frontal)[None])

    def candidate(self, size: int, fps: float) -> Candidate:
        """The input of `choose_anchor` from a usable frame. fps: of the source."""
        assert self.landmarks is not None
        return self.landmarks, self.look(self.crop(size), fps)


class Follower:
    """One face through one source.

    choose: among several faces, as for `FaceTracker.track`, or "speaker": in each shot the one who speaks.
    """

    def __init__(
        self, tracker: FaceTracker, crop: CropConfig, source: Source, choose: Choice = "largest"
    ) -> None:
        self.tracker, self.crop, self.source, self.choose = tracker, crop, source, choose
        self.speakers = Speakers(tracker, source) if choose == "speaker" else None
        self.aspect = float(source.info.pixel_aspect)  # width of a pixel over its height

    def follow(self, frames: Iterable[Frame], rate: float | None = None) -> Iterator[FaceFrame]:
        """Frames with the tracked, aligned face; `rate`: frames a second, where they are not the source's."""
        fps = rate or float(self.source.info.fps)
        return _faded(self._found(frames, fps), fps)

    def follow_again(self, frames: Iterable[Frame]) -> Iterator[FaceFrame]:
        """`follow` for a source that may be shown again: frames that were seen are not searched again.

        frames: all of the source's first, then any of them in any order. A source longer than REMEMBERED
        frames is searched each time.
        """
        fps = float(self.source.info.fps)
        return _faded(_remembered(frames, lambda fresh: self._found(fresh, fps)), fps)

    def _found(self, frames: Iterable[Frame], fps: float) -> Iterator[FaceFrame]:
        """Frames with the tracked, aligned face, at full strength."""
        size = self.source.info.height, self.source.info.width
        tracked = beside(frames, lambda items: self._track(items, fps))
        aligned = beside(
            tracked,
            lambda items: displayed(
                (None if face is None else face.landmarks for _, face in items),
                self.crop,
                fps,
                size,
                self.aspect,
            ),
        )
        shot = 0
        for (frame, face), matrix in aligned:
            seen = _seen(face, matrix)
            shot += seen[-1]
            yield FaceFrame(frame, *seen, shot)

    def _track(self, frames: Iterator[Frame], fps: float) -> Iterator[Face | None]:
        speakers = self.speakers
        if speakers is None:
            return self.tracker.track((frame.image for frame in frames), fps, self.choose)
        ours, theirs = tee(frames)  # in step: a choice is taken right after its image
        places = (speakers.at(frame.index) for frame in theirs)
        return self.tracker.track((frame.image for frame in ours), fps, places)

    def find_anchor(self) -> Identity | None:
        """The identity of the first shot that shows a face; None where no frame does."""
        for stride in sorted({max(1, round(ANCHOR_SECONDS * self.source.info.fps)), 1}, reverse=True):
            if seen := self._look(stride):
                if stretched := stretch([look for _, look in seen]):
                    self.aspect /= stretched
                    seen = self._look(stride) or seen
                return choose_anchor(uncovered(seen))
        return None

    def _look(self, stride: int) -> list[Candidate]:
        """Up to ANCHOR_FACES faces of the first shot that has any, in every `stride`-th frame."""
        seen: list[Candidate] = []
        shots, first = dict[int, int](), 0  # by frame, as all frames tell: one in a few may miss a cut

        def some() -> Iterator[Frame]:
            shot = 0
            rate = float(self.source.info.fps)
            looks = beside(self.source, lambda frames: changes((frame.image for frame in frames), rate))
            for number, (frame, change) in enumerate(looks):
                shot += change.jump
                if number % stride == 0:
                    shots[frame.index] = shot
                    yield frame

        for item in self.follow(some(), float(self.source.info.fps / stride)):
            if seen and (item.cut or shots[item.frame.index] != first):
                break
            if item.usable:
                first = shots[item.frame.index]
                seen.append(item.candidate(self.crop.size, float(self.source.info.fps)))
            if len(seen) == ANCHOR_FACES:
                break
        return seen


def displayed(
    points: Iterable[Array | None], crop: CropConfig, fps: float, size: tuple[int, int], aspect: float
) -> Iterator[Matrix]:
    """`align_stream` for pixels `aspect` times as wide as high: crops show the face as viewers see it."""
    if aspect == 1:
        yield from align_stream(points, crop, fps, size)
        return
    wide = (None if own is None else own * np.array([aspect, 1, 1], own.dtype) for own in points)
    for matrix in align_stream(wide, crop, fps, (size[0], round(size[1] * aspect))):
        yield matrix * np.array([aspect, 1, 1])


def stretch(looks: list[Look]) -> float:
    """How many times too wide a face is shown without a tag for it; 0 if it may be that wide."""
    points = np.stack([look.landmarks for look in looks]).astype(np.float64)
    wide = np.abs(points[:, 45, 0] - points[:, 36, 0])  # between the outer corners of the eyes
    high = points[:, 33, 1] - points[:, [36, 45], 1].mean(1)  # from these to the nose's base
    front = np.abs(points[:, 33, 0] - points[:, [36, 45], 0].mean(1)) < TURNED * wide
    usual = (TEMPLATE[3, 0] - TEMPLATE[0, 0]) / (TEMPLATE[8, 1] - TEMPLATE[0, 1])
    ratio = float(np.median(wide[front] / np.maximum(high[front], 1e-6))) / usual if front.any() else 1.0
    return ratio if not 1 / STRETCHED < ratio < STRETCHED else 0.0


def _faded(found: Iterable[FaceFrame], fps: float) -> Iterator[FaceFrame]:
    """With the strength that each frame's generated mouth shall have."""
    faded = beside(found, lambda items: fade((item.usable for item in items), round(FADE_SECONDS * fps)))
    return (replace(item, strength=strength) for item, strength in faded)


def _remembered(
    frames: Iterable[Frame], find: Callable[[Iterator[Frame]], Iterator[FaceFrame]]
) -> Iterator[FaceFrame]:
    """The results of `find`; from the first frame that comes again, the remembered results."""
    source, again = iter(frames), list[Frame]()
    known: dict[int, tuple[int, Array | None, Matrix, float]] = {}  # by index: shot, landmarks, matrix, yaw

    def fresh() -> Iterator[Frame]:
        for count, frame in enumerate(source):
            if frame.index < count <= REMEMBERED:  # indices count from 0, so it was there before
                again.append(frame)
                return
            yield frame

    shown = 0
    for item in find(fresh()):
        if len(known) < REMEMBERED:
            known[item.frame.index] = item.shot, item.landmarks, item.matrix, item.yaw
        shown = item.shot
        yield item
    for frame in chain(again, source):
        shot, landmarks, matrix, yaw = known[frame.index]
        cut = landmarks is not None and shot != shown
        shown = shot if cut else shown
        yield FaceFrame(frame, landmarks, matrix, yaw, cut, shot)


def _seen(face: Face | None, matrix: Matrix) -> tuple[Array | None, Matrix, float, bool]:
    """The fields of `FaceFrame` for a face: landmarks, matrix, yaw, cut."""
    if face is None:
        return None, matrix, 0.0, False
    pose = procrustes(face.landmarks[None], default_model().mean, WEIGHTS)
    return face.landmarks, matrix, float(pose.angles()[0, 0]), face.cut


def anchored(
    faces: Iterable[FaceFrame], anchor: Identity, size: int, fps: float = 25.0
) -> Iterator[tuple[FaceFrame, Identity]]:
    """Each frame, with its frontal landmarks, and the anchor of its shot.

    The given anchor is the first shot's. Those of later shots are chosen from their first frames, and kept
    for when they are shown again.

    size: of the crops; fps: of the source.
    """
    source, held = iter(faces), deque[FaceFrame]()
    anchors = dict[int, Identity]()
    cut = False  # since the last usable face, as a shot may begin with one that is turned away
    while (face := held.popleft() if held else next(source, None)) is not None:
        cut = cut or face.cut
        if face.usable:
            if cut and face.shot in anchors:
                anchor = anchors[face.shot]
            elif cut and anchors:
                most = max(1, min(LOOK, LOOK_BYTES // face.frame.image.nbytes))
                held.extend(islice(source, most - 1 - len(held)))
                shot = takewhile(lambda other: not other.cut, held)
                usable = [item for item in chain([face], shot) if item.usable]
                anchor = choose_anchor(uncovered([item.candidate(size, fps) for item in usable]))
            if len(anchors) < SHOTS:
                anchors[face.shot] = anchor
            cut = False
            assert face.landmarks is not None
            face = replace(face, frontal=frontalize(face.landmarks[None], anchor.neutral)[0][0])
        yield face, anchor


def uncovered(faces: list[Candidate]) -> list[Candidate]:
    """Faces whose lips are free; all faces if there is none, or if it cannot be known."""
    if len(faces) < 2 or any(len(look.crop) != CROP for _, look in faces):  # nothing to choose, or to see
        return faces
    covered = load_cover().covered
    standing = Standing((look.crop, look.placed) for _, look in faces)

    def free(look: Look) -> bool:
        stood = standing.find(look.crop, look.placed)
        front = in_front(covered(look.crop, look.landmarks), stood, look.landmarks)
        return lips_covered(front, look.landmarks, near=AROUND) <= LENT

    trusted = [free(look) for _, look in faces]
    calm = [face for i, face in enumerate(faces) if all(trusted[max(0, i - CALM) : i + CALM + 1])]
    return calm or [face for face, ok in zip(faces, trusted, strict=True) if ok] or faces


def choose_anchor(faces: list[Candidate]) -> Identity:
    """The identity out of some frames of one person: the one whose mouth is shut most.

    Then all motion is what speech adds. Compared with an open mouth, lips follow the speech at least as
    well, and the picture is nearer to the source [ours].
    """
    light = np.array([look.crop.mean() for _, look in faces])
    usual = np.sort(light)[len(light) // 2]  # no face that is dark as a fade begins, or white with a flash
    faces = [face for face, own in zip(faces, light, strict=True) if LIGHT * own <= usual <= own / LIGHT]
    points, looks = np.stack([face[0] for face in faces]), tuple(face[1] for face in faces)
    neutral = default_model().neutral(points)
    frontal, _ = frontalize(points, neutral)
    opening = lip_opening(frontal)
    shut = int(np.argmin(opening))
    mouths = tuple(_open_mouths(frontal, opening))
    moves = float(opening.std()), float(mouth_width(frontal).std())
    return Identity(looks[shut].crop, looks[shut].landmarks, frontal[shut], neutral, looks, mouths, moves)


def _open_mouths(frontal: Array, opening: NDArray[np.floating]) -> list[int]:
    """Up to MOUTHS of N faces (N, 68, 3): open ones, unlike each other; never the one that is shut most."""
    lips = frontal[:, LIP_INNER]
    lips = (lips - lips.mean(axis=1, keepdims=True)).reshape(len(frontal), -1)
    left = [int(i) for i in np.argsort(-opening)[:-1] if opening[i] > OPEN]
    chosen: list[int] = []
    nearest = np.full(len(frontal), np.inf)
    while left and len(chosen) < MOUTHS:
        farthest = max(left, key=lambda i: nearest[i])
        left.remove(farthest)
        chosen.append(farthest)
        nearest = np.minimum(nearest, np.linalg.norm(lips - lips[farthest], axis=1))
    return chosen
