"""Which frames are usable, and which of them the identity is taken from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from standins import ASTRONAUT, talker

from moditalker.features.face import identity
from moditalker.features.face.identity import (
    MAX_YAW,
    MOUTHS,
    Candidate,
    FaceFrame,
    Follower,
    _remembered,
    _seen,
    choose_anchor,
)
from moditalker.features.face.shape import default_model, frontalize
from moditalker.geometry.looks import Look
from moditalker.geometry.points import lip_opening, mouth_width
from moditalker.geometry.pose import Pose, apply_pose
from moditalker.media import Frame, open_source, plan_frames


def turned(yaw: float) -> np.ndarray:
    """The mean face in a picture, turned by `yaw` degrees: (68, 3)."""
    c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    upright = np.diag([1.0, -1.0, -1.0]) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    pose = Pose(upright[None], np.array([60.0]), np.array([[200.0, 150.0, 0.0]]))
    return apply_pose(default_model().mean[None], pose)[0]


class Seen:
    """What a tracker would give."""

    def __init__(self, landmarks: np.ndarray, cut: bool = False) -> None:
        self.landmarks, self.cut = landmarks, cut


def seen(points, light: int) -> Candidate:
    crop = np.full((4, 4, 3), light, np.uint8)
    return points.astype(np.float32), Look(crop, np.eye(2, 3), crop, points[:, :2].astype(np.float32))


@pytest.mark.parametrize("yaw", [-80.0, -30.0, 0.0, 45.0, 55.0])
def test_a_head_that_is_turned_away_is_not_usable(yaw):
    landmarks, matrix, found, cut = _seen(Seen(turned(yaw), True), np.eye(2, 3))
    assert abs(found) == pytest.approx(abs(yaw), abs=1e-3)
    assert cut
    frame = Frame(0, Fraction(0), Fraction(1, 25), np.zeros((8, 8, 3), np.uint8))
    assert FaceFrame(frame, landmarks, matrix, found).usable is (abs(yaw) <= MAX_YAW)
    assert FaceFrame(frame, landmarks, matrix, found).lacks in ("", "turned away")
    assert FaceFrame(frame, landmarks, np.full((2, 3), np.nan)).lacks == "no face"
    assert FaceFrame(frame, *_seen(None, matrix)).lacks == "no face"


def test_the_anchor_is_the_frame_whose_mouth_is_shut_most():
    basis = default_model().expression_basis * 60 * np.array([1, -1, -1])[:, None]
    change = [lip_opening(turned(0) + basis[..., k]) - lip_opening(turned(0)) for k in range(basis.shape[-1])]
    k = int(np.argmax(np.abs(change)))
    faces = [turned(0) + amount * np.sign(change[k]) * basis[..., k] for amount in (0.5, 2.0, 0.0, 1.0)]
    candidates = [seen(face, 100 + i) for i, face in enumerate(faces)]
    anchor = choose_anchor(candidates)
    assert anchor.crop[0, 0, 0] == 102
    assert anchor.landmarks == pytest.approx(faces[2][:, :2], abs=1e-3)
    frontal, _ = frontalize(np.stack(faces).astype(np.float32), anchor.neutral)
    assert anchor.moves == pytest.approx((lip_opening(frontal).std(), mouth_width(frontal).std()), rel=1e-4)
    assert choose_anchor(candidates[:1]).moves == (0, 0)
    others = choose_anchor([candidates[1], candidates[3]])
    assert lip_opening(anchor.frontal) < lip_opening(others.frontal)
    assert [look.crop[0, 0, 0] for look in anchor.mouths] == [
        101,
        100,
        103,
    ]  # the widest, then the least like it
    assert len(choose_anchor(candidates * 5).mouths) == MOUTHS


def test_a_picture_gives_its_anchor_and_one_frame():
    model, source = talker(), open_source(ASTRONAUT)
    follower = Follower(model.tracker, model.config.crop, source)
    anchor = follower.find_anchor()
    (face,) = follower.follow(source)
    assert face.usable
    assert face.strength == 1.0
    assert anchor is not None
    assert np.array_equal(anchor.crop, face.crop(model.config.crop.size))
    assert replace(face, landmarks=None).lacks == "no face"


def shown(indices) -> list[Frame]:
    image = np.zeros((2, 2, 3), np.uint8)
    return [Frame(i, Fraction(turn), Fraction(1), image) for turn, i in enumerate(indices)]


def test_a_source_that_is_shown_again_is_looked_at_once():
    """Two shots, no face at the beginning of the second one; then back, and from the start."""
    looked = []

    def find(frames: Iterator[Frame]) -> Iterator[FaceFrame]:
        waiting = []  # answers come late
        for frame in frames:
            looked.append(frame.index)
            points = None if frame.index == 3 else np.full((68, 3), float(frame.index), np.float32)
            shot = int(frame.index >= 4)
            waiting.append(FaceFrame(frame, points, np.eye(2, 3), frame.index, frame.index == 4, shot))
            if len(waiting) == 3:
                yield waiting.pop(0)
        yield from waiting

    order = [0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0, 1, 2, 0, 5]
    frames = shown(order)
    found = list(_remembered(frames, find))
    assert looked == [0, 1, 2, 3, 4, 5]
    assert [id(item.frame) for item in found] == [id(frame) for frame in frames]
    assert [item.yaw for item in found] == order
    assert [item.landmarks is None for item in found] == [i == 3 for i in order]
    assert [place for place, item in enumerate(found) if item.cut] == [4, 9, 15]  # where the shot changes


def test_what_is_too_long_to_be_remembered_is_looked_at_again(monkeypatch):
    monkeypatch.setattr(identity, "REMEMBERED", 3)
    looked = []

    def find(frames: Iterator[Frame]) -> Iterator[FaceFrame]:
        for frame in frames:
            looked.append(frame.index)
            yield FaceFrame(frame, None, np.eye(2, 3))

    assert len(list(_remembered(shown([0, 1, 2, 3, 2, 1]), find))) == 6
    assert looked == [0, 1, 2, 3, 2, 1]
    looked.clear()
    assert len(list(_remembered(shown([0, 1, 2, 1, 0]), find))) == 5
    assert looked == [0, 1, 2]


def test_an_anchor_is_not_taken_from_the_dark():
    faces = [seen(turned(0), light) for light in (10, 60, 110, 120, 130, 255)]
    assert sorted(int(look.crop[0, 0, 0]) for look in choose_anchor(faces).looks) == [110, 120, 130]


def test_faces_of_a_video_that_is_shown_again(face_video):
    """Back and forth, faces are where they were, as a tracker that goes on finds them."""
    model, source = talker(), open_source(face_video)
    follower = Follower(model.tracker, model.config.crop, source)
    again = list(follower.follow_again(plan_frames(source, Fraction(5, 2))))
    anew = list(follower.follow(plan_frames(source, Fraction(5, 2))))
    assert [item.frame.time for item in again] == [item.frame.time for item in anew]
    first = {item.frame.index: item for item in reversed(again)}
    for item, other in zip(again, anew, strict=True):
        assert (item.usable, item.strength) == (other.usable, other.strength)
        if not item.usable:
            continue
        assert np.array_equal(item.landmarks, first[item.frame.index].landmarks)
        difference = np.abs(item.landmarks - other.landmarks)[:, :2]
        assert difference.mean() < 0.5  # pixels: the tracker comes from the other side
