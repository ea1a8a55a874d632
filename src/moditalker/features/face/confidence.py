"""How far each frame's face can be trusted: what is in front of it, the picture's edge, shaking.

It decides whether a frame gets a new mouth, whether it may lend its own to other frames, what stays in
front, and why. It streams with a fixed look-ahead of `lookahead` frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from moditalker.features.face.standing import Standing
from moditalker.features.face.tracker import PRESENCE
from moditalker.geometry.align import inverse
from moditalker.geometry.points import STABLE, STABLE_WEIGHTS, TEMPLATE
from moditalker.jobs.streams import beside, fade

Pixels = NDArray[np.uint8]
Array = NDArray[np.float32]
Floats = NDArray[np.floating]
Cover = Callable[[Pixels, Floats], Array]  # as `features.cover.Cover.covered`

FADE_SECONDS = 0.12  # over which the generated mouth comes and goes
# Lengths are pixels of the crop of 128 whose eyes are 42 pixels apart, in row 26.
CROP, EYES, ROW = 128, 42.0, 26.0
AROUND = 14  # around the lips: what a frame lends
NEAR = 6  # around the lips that are there and those that are wanted: what is made anew
LENT = 0.005  # share of what a frame lends that may be covered
HIDDEN, SEEN = 0.05, 0.02  # share of it that is covered, from which on a frame is, and below which no more
STOOD = 0.09  # share of what a frame lends from which on standing edges are no chance
SURE = 0.75  # a pixel that is covered by more than this counts: chosen on free faces, docs/lab/cover.md
DOUBTFUL = 0.5, 0.7  # less is not in front, more is: a mouth must not shine through the one that is made
OUTSIDE = 0.34  # share of the lips' box beyond the picture from which on a mouth is not painted
OFF = 24.0  # from where the alignment should put the face; a fast tilt has 8, violent shaking 20
JUMP = 3.0  # that eyes and nose move against each other from frame to frame; natural heads 2

COVERED, EDGE, UNSURE = "covered", "at the picture's edge", "unsure"


@dataclass(frozen=True)
class Sight:
    """A usable face in a frame.

    crop: (128, 128, 3) uint8, aligned; landmarks: (68, 2 or 3) in it; matrix: (2, 3) frame -> crop pixel;
    size: height and width of the frame; wanted: landmarks that the mouth shall have, if they are known; cut:
    the first of a new shot; score: of the face network, 0 if the face was interpolated.
    """

    crop: Pixels
    landmarks: Floats
    matrix: Floats
    size: tuple[int, int]
    wanted: Floats | None = None
    cut: bool = False
    score: float = 1.0


@dataclass(frozen=True)
class Confidence:
    """How far a frame's face can be trusted.

    strength: of the generated mouth, from 0 (the frame stays the source's) to 1; reason: why the frame
    itself cannot be trusted, "" where it can, even if it fades; front: (128, 128) in [0, 1], how much of
    each crop pixel is in front of the face and stays the source's, None where nothing is; learnable:
    whether the frame may lend its mouth to others.
    """

    strength: float = 1.0
    reason: str = ""
    front: Array | None = None
    learnable: bool = True


def lookahead(fps: float) -> int:
    """Frames after one that its confidence depends on."""
    return 1 + round(FADE_SECONDS * fps)


def confident(
    sights: Iterable[Sight | None], cover: Cover, fps: float, standing: Standing | None = None
) -> Iterator[Confidence]:
    """The confidence of each frame. None stands for a frame without a usable face.

    cover: finds what is in front; fps: frames a second; standing: of the first shot.
    """
    judged = _settled(_judged(sights, cover, standing or Standing(fps=fps)))
    faded = beside(judged, lambda items: fade((item.reason == "" for item in items), lookahead(fps) - 1))
    for item, strength in faded:
        yield replace(item, strength=strength, learnable=item.learnable and strength == 1)


@dataclass(frozen=True)
class _Seen:
    """One frame without its neighbours. covered: share of the lips' surroundings; lent: of all that it would
    lend; doubt: another reason.
    """

    covered: float = 0.0
    lent: float = 0.0
    front: Array | None = None
    doubt: str = ""
    cut: bool = True


def in_front(cover: Array, standing: Array | None, landmarks: Floats) -> Array:
    """How much of each pixel is in front, (128, 128), by one frame and, if sure, by its motion."""
    if standing is None or lips_covered(standing, landmarks, near=AROUND) < STOOD:
        return cover
    return np.maximum(cover, standing)


def _judged(sights: Iterable[Sight | None], cover: Cover, standing: Standing) -> Iterator[_Seen]:
    before: Sight | None = None
    fresh = True
    for sight in sights:
        if sight is None:
            before = None
            yield _Seen()
            continue
        if sight.cut and not fresh:
            standing.forget()
        fresh = False
        front = in_front(
            cover(sight.crop, sight.landmarks), standing.find(sight.crop, sight.matrix), sight.landmarks
        )
        standing.remember()
        share = lips_covered(front, sight.landmarks, sight.wanted)
        lent = lips_covered(front, sight.landmarks, near=AROUND)
        shown = np.clip((front - DOUBTFUL[0]) / (DOUBTFUL[1] - DOUBTFUL[0]), 0, 1)
        last = None if before is None or sight.cut else before.landmarks
        yield _Seen(share, lent, shown if shown.any() else None, doubt(sight, last), last is None)
        before = sight


def _settled(seen: Iterable[_Seen]) -> Iterator[Confidence]:
    """Confidence before fading, with a delay of one frame.

    A single odd frame does not count. A covered mouth counts as covered until it is free.
    """
    hidden = False
    window: deque[_Seen | None] = deque([None, None], maxlen=3)
    for item in chain(seen, [None]):
        window.append(item)
        before, now, after = window
        if now is None:
            continue
        hidden = hidden and not now.cut
        near = [now]
        if before is not None and not now.cut:
            near.append(before)
        if after is not None and not after.cut:
            near.append(after)
        shares = sorted(one.covered for one in near)
        # At a shot's ends there are only two: the smaller one counts.
        share = shares[(len(shares) - 1) // 2]
        hidden = share > (SEEN if hidden else HIDDEN)
        free = max(one.lent for one in near) <= LENT and now.doubt == ""
        yield Confidence(1.0, now.doubt or (COVERED if hidden else ""), _usual_front(near), free)


def _usual_front(near: list[_Seen]) -> Array | None:
    """What is in front in most of some frames that follow each other; of two, what is in both."""
    fronts = [one.front for one in near if one.front is not None]
    place = (len(near) - 1) // 2 - (len(near) - len(fronts))  # of the median among those that have any
    if place < 0:
        return None
    usual = np.minimum(*fronts[:2]) if len(fronts) > 1 else fronts[0]
    if place == 1:  # the median of three
        usual = np.maximum(usual, np.minimum(np.maximum(*fronts[:2]), fronts[2]))
    return usual if usual.any() else None


# --- each part of it ---------------------------------------------------------------------------------------


def lips_covered(front: Array, landmarks: Floats, wanted: Floats | None = None, near: int = NEAR) -> float:
    """Share of the lips and what is within `near` pixels of them that something covers, in [0, 1].

    Args:
        front: (128, 128) in [0, 1]. landmarks, wanted: (68, 2 or 3) crop pixels; lips of either count.
    """
    if front.max() <= SURE:
        return 0.0
    plane = Image.new("L", (CROP, CROP))
    drawing = ImageDraw.Draw(plane)
    for points in (landmarks, wanted):
        if points is not None:
            drawing.polygon([(x, y) for x, y in points[48:60, :2].tolist()], fill=255)
    there = _widened(np.asarray(plane) > 0, near)
    return float((front[there] > SURE).mean()) if there.any() else 0.0


def _widened(plane: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """A plane (H, W) that is true where any pixel within `reach` rows and columns is."""
    for axis in (0, 1):  # by sums, which take a tenth of the time of `max_pool2d`
        ends = [(reach + 1, reach) if own == axis else (0, 0) for own in (0, 1)]
        sums = np.moveaxis(np.cumsum(np.pad(plane, ends), axis), axis, 0)
        plane = np.moveaxis(sums[2 * reach + 1 :] > sums[: -2 * reach - 1], 0, axis)
    return plane


def lips_outside(landmarks: Floats, matrix: Floats, size: tuple[int, int]) -> float:
    """Share of the lips' box that is beyond the picture's edge, in [0, 1].

    Args:
        landmarks: (68, 2 or 3) crop pixels.
        matrix: (2, 3) frame -> crop pixel.
        size: height and width of the frame.
    """
    lips = landmarks[48:60, :2]
    low, high = lips.min(0), lips.max(0)
    places = (np.arange(16) + 0.5) / 16
    x, y = np.meshgrid(*(a + (b - a) * places for a, b in zip(low, high, strict=True)))
    back = inverse(np.asarray(matrix, np.float64))
    frame = np.stack([x, y], axis=-1) @ back[:, :2].T + back[:, 2]
    beyond = (frame < -0.5) | (frame > np.array(size)[::-1] - 0.5)
    return float(beyond.any(-1).mean())


def misplaced(landmarks: Floats) -> float:
    """How far eyes and nose are from where an alignment should put them, crop pixels.

    An alignment is smooth in time, so it cannot follow a picture that shakes.

    Args:
        landmarks: (68, 2 or 3) crop pixels.
    """
    weights = STABLE_WEIGHTS / STABLE_WEIGHTS.sum()
    goal = weights @ TEMPLATE * EYES + [(CROP - 1) / 2, ROW]
    return float(np.linalg.norm(weights @ landmarks[STABLE, :2] - goal))


def jumped(landmarks: Floats, before: Floats) -> float:
    """How far eyes and nose moved against each other since the frame before, crop pixels.

    The turn, scale and shift of their motion are removed. The rest is small for a head that turns, and large
    for lost landmarks.

    Args:
        landmarks, before: (68, 2 or 3) crop pixels.
    """
    weights = STABLE_WEIGHTS / STABLE_WEIGHTS.sum()
    start, end = (points[STABLE, 0] + 1j * points[STABLE, 1] for points in (before, landmarks))
    start, end = start - weights @ start, end - weights @ end
    slope = (weights @ (end * np.conj(start))) / max(float(weights @ np.abs(start) ** 2), 1e-9)
    return float(np.sqrt(weights @ np.abs(end - slope * start) ** 2))


def doubt(sight: Sight, before: Floats | None = None) -> str:
    """Why a face cannot be trusted even if nothing is in front of it; "" where it can.

    before: landmarks of the frame before, (68, 2 or 3) crop pixels.
    """
    if lips_outside(sight.landmarks, sight.matrix, sight.size) > OUTSIDE:
        return EDGE
    shaking = misplaced(sight.landmarks) > OFF
    jump = 0.0 if before is None else jumped(sight.landmarks, before)
    return UNSURE if shaking or jump > JUMP or sight.score < PRESENCE else ""
