"""Captions: what keeps its place in the frame while the face moves is in front of it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from test_compose import CROP, SIDE, face, picture

from moditalker.features.face.confidence import COVERED, Sight, confident
from moditalker.features.face.standing import Standing
from moditalker.geometry.raster import warp

PLACE = np.array([[0.5, 0.0, -10.0], [0.0, 0.5, -10.0]])  # frame -> crop, of a head in its first place
FPS = 25.0
CAPTION = "WE NEED TO TALK NOW"


@cache
def sight(shift: tuple[float, float], caption: str = "", opening: float = 3.0, number: int = 0) -> Sight:
    """A face whose head is moved by so many pixels of the frame, with a caption that is not."""
    still = picture_of(opening)
    matrix = PLACE.copy()
    matrix[:, 2] -= PLACE[:, :2] @ shift
    moved = np.eye(2, 3)
    moved[:, 2] = shift
    frame = warp(still[None], moved[None], SIDE)[0]
    if caption:
        drawn = Image.fromarray(frame)
        text = ImageDraw.Draw(drawn)
        text.text(
            (40, 195), caption, (255, 235, 0), ImageFont.load_default(26), stroke_width=2, stroke_fill=0
        )
        frame = np.array(drawn)
    crop = warp(frame[None], matrix[None], CROP.size)[0]
    return Sight(crop, face(opening), matrix, (SIDE, SIDE), face(opening), cut=number == 0)


@cache
def picture_of(opening: float) -> np.ndarray:
    """The face of test_compose, whose frame -> crop is PLACE."""
    from test_compose import MATRIX

    to_place = np.linalg.inv(np.vstack([PLACE, [0, 0, 1]])) @ np.vstack([MATRIX, [0, 0, 1]])
    return warp(picture(face(opening))[None], to_place[None, :2], SIDE)[0]


def swaying(count: int, caption: str = "", amount: float = 14.0) -> list[Sight]:
    times = np.arange(count) / FPS
    shifts = [(amount * np.sin(5 * t), amount * np.cos(4 * t)) for t in times]
    return [sight(shift, caption, 3 + 2 * np.sin(i), i) for i, shift in enumerate(shifts)]


def covered(sights: list[Sight], standing: Standing | None = None) -> list[bool]:
    nothing = np.zeros((128, 128), np.float32)
    made = confident(sights, lambda *_: nothing, FPS, standing)
    return [item.reason == COVERED for item in made]


def test_a_caption_below_the_lips_keeps_the_frame_once_the_face_has_moved():
    told = covered(swaying(40, CAPTION))
    assert not any(told[:3])  # nothing has moved yet
    assert sum(told[20:]) >= 17  # of 20


def test_a_face_that_moves_without_one_is_free():
    assert not any(covered(swaying(40)))


def test_what_was_seen_while_the_identity_was_looked_for_counts_from_the_first_frame():
    sights = swaying(40, CAPTION)
    known = Standing((one.crop, one.matrix) for one in sights[::3])
    assert sum(covered(sights, known)[:20]) >= sum(covered(sights)[:20]) + 6


def test_a_caption_counts_while_the_head_rests_and_no_longer_when_it_is_gone():
    moving, resting = swaying(30, CAPTION), [sight((6.0, 3.0), CAPTION)] * 40
    resting = [Sight(**(vars(one) | {"cut": False})) for one in resting]
    gone = [Sight(**(vars(sight((6.0, 3.0))) | {"cut": False}))] * 20
    told = covered([*moving, *resting, *gone])
    assert all(told[34:68])
    assert not any(told[72:])


def test_a_shot_is_forgotten():
    standing = Standing((one.crop, one.matrix) for one in swaying(30, CAPTION)[::3])
    one = swaying(30, CAPTION)[8]
    assert standing.find(one.crop, one.matrix) is not None
    standing.forget()
    assert standing.find(one.crop, one.matrix) is None


@pytest.mark.parametrize("amount", [0.0, 0.5])
def test_a_head_that_rests_tells_nothing(amount):
    assert not any(covered(swaying(30, CAPTION, amount)))
