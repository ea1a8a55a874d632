"""Which frames are trusted: each part of the measure, how it runs over time, and what stays in front."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from moditalker.features.face.confidence import (
    COVERED,
    EDGE,
    HIDDEN,
    UNSURE,
    Sight,
    confident,
    jumped,
    lips_covered,
    lips_outside,
    lookahead,
    misplaced,
)
from moditalker.features.face.shape import default_model
from moditalker.geometry.align import align, transform
from moditalker.geometry.pose import Pose, apply_pose
from moditalker.video.front import keep_front

FPS = 25.0
SIZE = (256, 256)
MATRIX = np.array([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]])  # the crop is the whole frame at half its size


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """Landmarks (68, 2) of an average face, aligned."""
    from moditalker.config import load

    pose = Pose(np.diag([1.0, -1.0, -1.0])[None], np.array([42.0]), np.array([[63.5, 45.0, 0.0]]))
    face = apply_pose(default_model().mean[None], pose)
    return transform(face, align(face, load("tiny").crop))[0, :, :2]


def sight(points: np.ndarray, **changes: object) -> Sight:
    given = {"crop": np.zeros((128, 128, 3), np.uint8), "matrix": MATRIX, "size": SIZE} | changes
    return Sight(landmarks=points, **given)


def covering(points: np.ndarray) -> np.ndarray:
    """What is in front: everything from the upper lip down."""
    front = np.zeros((128, 128), np.float32)
    front[int(points[50, 1]) :] = 1
    return front


def judged(points, covered, **changes):
    """Confidence of frames whose mouth is covered or free, by the letters of a word: c or another."""
    empty = np.zeros((128, 128), np.float32)
    fronts = iter([covering(points) if letter == "c" else empty for letter in covered])
    sights = [sight(points, **changes) for _ in covered]
    return list(confident(sights, lambda crop, landmarks: next(fronts), FPS))


def test_a_covered_mouth_is_the_sources_and_fades(points):
    seen = judged(points, 10 * "." + 6 * "c" + 10 * ".")
    assert [item.reason for item in seen] == 10 * [""] + 6 * [COVERED] + 10 * [""]
    strength = np.array([item.strength for item in seen])
    assert (strength[10:16] == 0).all()
    fade = lookahead(FPS) - 1
    assert (strength[: 10 - fade] == 1).all()
    assert (strength[16 + fade :] == 1).all()
    assert (np.diff(strength[16 - 1 : 16 + fade + 1]) > 0).all()  # rises without a jump
    assert np.abs(np.diff(strength)).max() < 0.3
    assert all(item.front is not None for item in seen[10:16])
    assert seen[0].front is None


def test_nothing_is_learnt_near_what_is_covered(points):
    seen = judged(points, 10 * "." + 6 * "c" + 10 * ".")
    assert not any(item.learnable for item in seen[9:17])
    assert all(item.learnable for item in seen if item.strength == 1 and item.front is None)
    assert seen[0].learnable


def test_one_odd_frame_is_not_a_cover(points):
    assert all(item.reason == "" for item in judged(points, "....c...."))
    assert judged(points, "....cc...")[4].reason == COVERED
    # Teeth that are once taken for something in front would show the source's mouth through the made one.
    assert all(item.front is None for item in judged(points, "....c...."))
    assert judged(points, "....cc...")[4].front is not None


def test_a_new_shot_begins_free(points):
    empty, full = np.zeros((128, 128), np.float32), covering(points)
    fronts = iter([full, full, full, full, empty, empty, empty])
    sights = [sight(points, cut=number == 4) for number in range(7)]
    reasons = [item.reason for item in confident(sights, lambda *_: next(fronts), FPS)]
    assert reasons == 4 * [COVERED] + 3 * [""]


def test_a_mouth_that_is_covered_stays_so_until_it_is_free(points):
    lips = points[48:60].min(0)
    full, little = covering(points), np.zeros((128, 128), np.float32)
    little[int(lips[1]) : int(lips[1]) + 4, int(lips[0]) : int(lips[0]) + 10] = 1
    share = lips_covered(little, points)
    assert 0.02 < share < HIDDEN
    for fronts, expected in (([full] * 3 + [little] * 4, COVERED), ([little] * 7, "")):
        made = iter(fronts)
        seen = list(confident([sight(points)] * 7, lambda *_, made=made: next(made), FPS))
        assert seen[5].reason == expected


def test_it_streams(points):
    taken = 0

    def sights() -> Iterator[Sight]:
        nonlocal taken
        while True:
            taken += 1
            yield sight(points)

    stream = confident(sights(), lambda *_: np.zeros((128, 128), np.float32), FPS)
    for count in range(1, 8):
        next(stream)
        assert taken == count + lookahead(FPS)


def test_every_frame_is_answered_also_without_a_face(points):
    for count in range(5):
        seen = list(confident([None] * count, lambda *_: pytest.fail("no crop to look at"), FPS))
        assert [(item.strength, item.reason) for item in seen] == count * [(1.0, "")]
    mixed = [sight(points), None, sight(points)]
    assert len(list(confident(mixed, lambda *_: np.zeros((128, 128), np.float32), FPS))) == 3


@pytest.mark.parametrize(("shift", "share"), [(0.0, 0.0), (0.5, 0.5), (2.0, 1.0)])
def test_lips_outside_the_picture(points, shift, share):
    low, high = points[48:60].min(0), points[48:60].max(0)
    matrix = MATRIX.copy()
    matrix[0, 2] = low[0] + shift * (high[0] - low[0]) if shift else 0.0  # where the frame begins
    assert lips_outside(points, matrix, SIZE) == pytest.approx(share, abs=0.05)


def test_a_mouth_at_the_edge_is_told(points):
    matrix = MATRIX.copy()
    matrix[0, 2] = points[48:60, 0].mean()  # what is left of the mouth's middle is outside
    assert {item.reason for item in judged(points, ".....", matrix=matrix)} == {EDGE}


def test_how_far_the_alignment_is_off(points):
    assert misplaced(points) < 0.5
    assert misplaced(points + np.array([3, 4])) == pytest.approx(5, abs=0.5)


def test_a_violent_shake_is_unsure_and_a_gentle_one_is_not(points):
    empty = np.zeros((128, 128), np.float32)
    for reach, expected in ((5.0, {""}), (30.0, {UNSURE})):
        shaken = [points + np.array([0, reach * (-1) ** number]) for number in range(8)]
        seen = list(confident([sight(p) for p in shaken], lambda *_: empty, FPS))
        assert {item.reason for item in seen} == expected
        assert {item.learnable for item in seen} == {expected == {""}}


def test_landmarks_that_jump_against_each_other(points):
    angle = 0.2
    turn = 1.1 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert jumped(points @ turn.T + [9, -4], points) < 1e-6  # the head moved
    lost = points.copy()
    lost[36:48] += [0, 9]
    assert jumped(lost, points) > 2
    assert judged(points, "...", score=0.0)[1].reason == UNSURE  # a face that was only interpolated


def test_wanted_lips_count_as_well(points):
    wanted = points.copy()
    wanted[48:60] += [0, 14]
    front = np.zeros((128, 128), np.float32)
    front[int(points[48:60, 1].max()) + 8 :] = 1
    assert lips_covered(front, points) == 0
    assert lips_covered(front, points, wanted) > HIDDEN
    assert lips_covered(np.ones((128, 128), np.float32), points) == 1


def test_what_is_in_front_stays_to_the_pixel():
    rng = np.random.default_rng(0)
    image, made = rng.integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    front = np.zeros((128, 128), np.float32)
    front[60:80, 40:70] = 1
    out = keep_front(image, made, MATRIX, front)
    assert (out[120:160, 80:140] == image[120:160, 80:140]).all()
    beyond = np.ones(SIZE, bool)
    beyond[110:170, 70:150] = False
    assert (out[beyond] == made[beyond]).all()
    assert keep_front(image, made, MATRIX, 0 * front) is made
    away = MATRIX + np.array([[0, 0, 500], [0, 0, 0]])  # all of it outside the frame
    assert (keep_front(image, made, away, front) == made).all()
