"""A picture that does not look frozen: what moves, by how much, and that nothing else does."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from conftest import write_wav
from skimage import data
from standins import ASTRONAUT, talker

from moditalker.errors import UserError
from moditalker.features.face.shape import default_model, frontalize
from moditalker.features.face.tracker import FaceTracker
from moditalker.features.portrait.head import (
    IDLE,
    LIMIT,
    Blinks,
    Copied,
    head_motion,
    idle,
    read_poses,
    still,
)
from moditalker.features.portrait.still import Still
from moditalker.geometry.points import BROWS, EYE_LEFT, EYE_RIGHT, NOSE, eye_distance
from moditalker.geometry.pose import procrustes
from moditalker.media import AudioReader, Frame, VideoWriter, plain_info

PICTURE = data.astronaut()[0:256, 90:346]


@pytest.fixture(scope="module")
def tracker() -> FaceTracker:
    return FaceTracker()


@pytest.fixture(scope="module")
def portrait(tracker) -> Still:
    (face,) = tracker.detect(PICTURE)
    return Still(PICTURE, face)


def frames(count: int, fps: int = 25) -> list[Frame]:
    return [Frame(i, Fraction(i, fps), Fraction(1, fps), PICTURE) for i in range(count)]


def angles(points: np.ndarray, neutral: np.ndarray) -> np.ndarray:
    return frontalize(points, neutral)[1].angles()


def openness(points: np.ndarray) -> float:
    """Of the eyes: height over width, from the 68 landmarks."""
    p = points[:, :2]
    heights = [np.linalg.norm(p[a] - p[b]) for a, b in ((37, 41), (38, 40), (43, 47), (44, 46))]
    return float(np.mean(heights) / np.mean([np.linalg.norm(p[36] - p[39]), np.linalg.norm(p[42] - p[45])]))


# -------------------------------------------------------------------------------------------- when and how


def test_idle_motion_is_small_slow_and_begins_with_the_picture():
    motion = idle(seed=3)
    track = np.stack([motion(i / 25) for i in range(25 * 200)])
    assert not motion(0.0).any()
    assert (np.abs(track) <= IDLE).all()
    assert (track.std(0) > 0.25 * IDLE).all()
    power = np.abs(np.fft.rfft(track[50:] * np.hanning(len(track) - 50)[:, None], axis=0)) ** 2
    rate = np.fft.rfftfreq(len(track) - 50, 1 / 25)
    slow = (rate > 0.08) & (rate < 0.42)
    assert (power[slow].sum(0) > 0.99 * power.sum(0)).all()
    assert np.array_equal(track[777], idle(seed=3)(777 / 25))
    assert not np.array_equal(track[777], idle(seed=4)(777 / 25))


def test_blinks_come_at_their_rate_unevenly_and_never_overlap():
    for rate, seed in ((15.0, 0), (60.0, 5), (7.5, 2)):
        blinks = Blinks(rate, seed)
        starts = [blinks.start(k) for k in range(200)]
        assert all(later - sooner > 0.29 for sooner, later in pairwise(starts))
        assert [int(t * rate / 60) for t in starts] == list(range(200))
        assert np.std(np.diff(starts)) > 0.1 * 60 / rate
        closed = np.array([blinks.closure(i / 250) for i in range(4_000)])
        count = int(((closed[1:] > 0.5) & (closed[:-1] <= 0.5)).sum())
        assert count == sum(start < 15.95 for start in starts)
        one = closed[int(starts[0] * 250) :][:70] > 0
        assert 0.15 < one.sum() / 250 < 0.25
    assert Blinks(0).closure(3.0) == 0
    assert Blinks(15, 1).start(4) != Blinks(15, 2).start(4)


def test_eyes_shut_faster_than_they_open():
    blinks = Blinks()
    closed = np.array([blinks.closure(blinks.start(0) + i / 1000) for i in range(300)])
    shut = np.flatnonzero(closed > 0.999)
    assert 40 <= len(shut) <= 80  # a frame at 25 fps sees it shut
    assert (closed[: shut[0]] > 0.01).sum() < 0.8 * (closed[shut[-1] :] > 0.01).sum()


# -------------------------------------------------------------------------------------- what it looks like


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_head_turns_as_it_is_told(tracker, portrait, axis):
    """Measured by the tracker in the pictures: yaw and pitch to a third, roll to a tenth."""
    neutral = default_model().neutral(portrait.face.landmarks[None])
    wanted = np.zeros((4, 3))
    wanted[:, axis] = (-10, -4, 4, 10)
    points = [tracker.detect(portrait.turned(pose)[0])[0].landmarks for pose in wanted]
    found = angles(np.stack(points), neutral) - angles(portrait.face.landmarks[None], neutral)
    assert found[:, axis] == pytest.approx(wanted[:, axis], rel=0.1 if axis == 2 else 0.34, abs=0.5)
    others = np.delete(found, axis, axis=1)
    assert np.abs(others).max() < 2.5


def test_the_landmarks_go_where_the_pixels_go(tracker, portrait):
    image, known = portrait.turned(np.array([3.0, -2.0, 1.0]))
    (seen,) = tracker.detect(image)
    inner = slice(17, None)  # the jaw is a silhouette
    error = np.linalg.norm((seen.landmarks - known)[inner, :2], axis=1) / portrait.face.size
    moved = np.linalg.norm((known - portrait.face.landmarks)[inner, :2], axis=1) / portrait.face.size
    assert error.mean() < 0.008
    assert moved.mean() > 0.02


def test_the_face_keeps_its_proportions(portrait):
    """Idle motion at its largest, its pose taken away: the same face, to 1.5 % of the eye distance."""
    _, known = portrait.turned(IDLE)
    upper = np.concatenate([BROWS, NOSE, EYE_RIGHT, EYE_LEFT])
    before = portrait.face.landmarks.astype(float)
    pose = procrustes(known[None], before, np.isin(np.arange(68), upper).astype(float))
    after = pose.scale[0] * before @ pose.rotation[0].T + pose.translation[0]
    error = np.linalg.norm(after - known, axis=1)[:, None] / eye_distance(before)
    assert error[upper].max() < 0.02


def test_what_is_around_the_head_stays_exactly_and_edges_do_not_tear(portrait):
    y, x = np.mgrid[:256, :256]
    for pose in (IDLE, -IDLE):
        image, _ = portrait.turned(pose)
        changed = (image != PICTURE).any(-1)
        assert changed.any()
        for edge in (changed[0], changed[-1], changed[:, 0], changed[:, -1]):
            assert not edge.any()
        face = portrait.face
        across, down = (x - face.centre[0]) / face.size, (y - face.centre[1]) / face.size
        away = (np.abs(across) > 1) | (down > 1)
        assert away.mean() > 0.1
        assert not changed[away].any()
        # Pixels whose brightness is their place: along each row and column they keep their order.
        for axis, place in ((1, x), (0, y)):
            ramp = np.repeat(place[..., None], 3, axis=2).astype(np.uint8)
            order = Still(ramp, face).turned(pose)[0][..., 0].astype(int)
            steps = np.diff(order, axis=axis)
            assert steps.min() >= 0
            assert steps.max() <= 2


def test_no_motion_is_the_picture_itself(portrait):
    image, points = portrait.turned(np.zeros(3))
    assert image is PICTURE
    assert points is portrait.face.landmarks or np.array_equal(points, portrait.face.landmarks)
    almost, _ = portrait.turned(np.full(3, 1e-9))
    assert np.array_equal(almost, PICTURE)


def test_a_blink_shuts_the_eyes_and_changes_nothing_else(tracker, portrait):
    image, points = portrait.turned(np.zeros(3), closure=1.0)
    assert np.array_equal(points, portrait.face.landmarks)
    changed = (image != PICTURE).any(-1)
    brows_to_nose = portrait.face.landmarks[[*BROWS, *NOSE], 1]
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert brows_to_nose.min() - 2 < rows[0]
    assert rows[-1] < portrait.face.landmarks[30, 1]
    assert portrait.face.box[0] < columns[0]
    assert columns[-1] < portrait.face.box[2]
    (shut,) = tracker.detect(image)
    assert openness(shut.landmarks) < 0.6 * openness(portrait.face.landmarks)
    half, _ = portrait.turned(np.zeros(3), closure=0.5)
    (seen,) = tracker.detect(half)
    assert openness(shut.landmarks) < openness(seen.landmarks) < openness(portrait.face.landmarks)


def test_blinks_are_counted_in_the_video(tracker, portrait):
    """One a second for 2.2 s while the head moves: the tracker sees two, when they were due."""
    blinks = Blinks(60, seed=1)
    made = portrait.frames(frames(55), talker().config.crop, 25, idle(1), blinks)
    opened = np.array([openness(tracker.detect(face.frame.image, 0)[0].landmarks) for face in made])
    shut = opened < 0.7 * np.median(opened)
    begun = np.flatnonzero(shut[1:] & ~shut[:-1]) + 1
    assert begun / 25 == pytest.approx([blinks.start(k) + 0.06 for k in range(2)], abs=0.06)


def test_frames_stream_and_repeat(portrait):
    """They come with a fixed look-ahead, carry the times they were asked for, and the seed decides."""
    crop, taken = talker().config.crop, 0

    def counted():
        nonlocal taken
        for frame in frames(30):
            taken += 1
            yield frame

    first = next(iter(portrait.frames(counted(), crop, 25, idle(1), Blinks(seed=1))))
    assert np.array_equal(first.frame.image, PICTURE)
    assert taken < 12
    runs = [list(portrait.frames(frames(30), crop, 25, idle(s), Blinks(seed=s))) for s in (1, 1, 2)]
    assert [face.frame.time for face in runs[0]] == [Fraction(i, 25) for i in range(30)]
    same = [np.array_equal(a.frame.image, b.frame.image) for a, b in zip(runs[0], runs[1], strict=True)]
    other = [np.array_equal(a.frame.image, b.frame.image) for a, b in zip(runs[0], runs[2], strict=True)]
    assert all(same)
    assert not all(other)
    assert all(face.usable for face in runs[0])


# ---------------------------------------------------------------------------------------- where it is from


def test_poses_from_a_table(tmp_path):
    (tmp_path / "a.csv").write_text("yaw,pitch,roll\n0,0,0\n5,-2,1\n\n10,0,0\n")
    motion = read_poses(tmp_path / "a.csv")
    assert motion(0.04) == pytest.approx([5, -2, 1])
    assert motion(0.06) == pytest.approx([7.5, -1, 0.5])
    assert motion(9.0) == pytest.approx([10, 0, 0])
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbfRoll, Seconds, Pitch, Yaw\r\n1,1,2,3\r\n2,3,4,6\r\n")
    assert read_poses(tmp_path / "b.csv")(2.0) == pytest.approx([4.5, 3, 1.5])
    (tmp_path / "c.csv").write_bytes("Yaw;Pitch;Roll\n4,5;3;1,5\n".encode("utf-16"))  # of an office program
    assert read_poses(tmp_path / "c.csv")(0.0) == pytest.approx([4.5, 3, 1.5])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the first line must be yaw,pitch,roll"),
        ("1,2,3\n", "the first line must be yaw,pitch,roll"),
        ("yaw,pitch,roll\n", "0 poses"),
        ("yaw,pitch,roll\n1,2\n", "pose 1: '1,2' is not 3 numbers"),
        ("yaw,pitch,roll\n0,0,0\n1,2,nan\n", "pose 2: '1,2,nan' is not 3 numbers"),
        ("yaw,pitch,roll\n0,0,0\n0,-40,0\n", "pose 2: 40 degrees; a picture can be turned by 12"),
        ("seconds,yaw,pitch,roll\n1,0,0,0\n1,0,0,0\n", "seconds must rise"),
        (b"\xff\xfe\x00", "not a readable CSV"),
    ],
)
def test_a_bad_table_is_a_sentence(tmp_path, text, sentence):
    (tmp_path / "a.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=sentence):
        read_poses(tmp_path / "a.csv")


def test_motion_is_copied_from_a_video(tracker, portrait, tmp_path):
    """A video of known poses, made with other blinks, at another rate: its motion comes back."""
    poses = 6 * np.sin(np.arange(45)[:, None] / (7, 9, 11)) * (1, 0.8, 0.7)
    info = plain_info(256, 256, 30)
    with VideoWriter(tmp_path / "driver.mkv", info, lossless=True) as writer:
        for frame, pose in zip(frames(45, 30), poses, strict=True):
            image, _ = portrait.turned(pose)
            writer.write(frame, image)
    copied = Copied(tracker, tmp_path / "driver.mkv", Fraction(3, 2))
    for _ in range(2):  # the second time from the start again
        track = np.stack([copied(i / 25) for i in range(36)])
        told = np.stack([np.interp(np.arange(36) / 25, np.arange(45) / 30, pose) for pose in poses.T], 1)
        for axis in range(3):
            a, b = track[:, axis] - track[:, axis].mean(), told[:, axis] - told[:, axis].mean()
            assert np.corrcoef(a, b)[0, 1] > 0.95
            assert 0.6 < (a @ b) / (b @ b) < 1.2
    assert (np.abs(track) <= LIMIT).all()


def test_mistakes_are_sentences(tracker, tmp_path, face_video, speech_wav):
    with pytest.raises(UserError, match="61 blinks a minute; it must be between 0 and 60"):
        Blinks(61)
    with pytest.raises(UserError, match="nan blinks"):
        Blinks(float("nan"))
    with pytest.raises(UserError, match="there is no video in it"):
        head_motion(ASTRONAUT, 0, tracker, Fraction(1))
    with VideoWriter(tmp_path / "grey.mkv", plain_info(64, 64), lossless=True) as writer:
        writer.write(replace(frames(1)[0]), np.full((64, 64, 3), 90, np.uint8))
    with pytest.raises(UserError, match="no face was found in it whose motion could be copied"):
        head_motion(tmp_path / "grey.mkv", 0, tracker, Fraction(1))
    with pytest.raises(UserError, match="a video keeps its own head motion"):
        talker().generate(face_video, speech_wav, head=face_video)


def test_the_mouth_is_made_for_the_moving_head(tmp_path, speech_wav):
    """Through the pipeline: still and idle say the same with other heads; the background is the picture's."""
    audio = write_wav(tmp_path / "short.wav", AudioReader(speech_wav).read(0.7))
    runs = {head: list(talker().generate(ASTRONAUT, audio, head=head, blink=0)) for head in ("still", "idle")}
    picture = data.astronaut()
    for (quiet, _), (moving, image) in zip(*runs.values(), strict=True):
        assert np.array_equal(quiet.image, picture)
        changed = (moving.image != picture).any(-1)
        assert not changed[330:].any()
        assert not changed[:, :60].any()
        assert ((image != moving.image).any(-1)).mean() < 0.05
    assert changed.mean() > 0.05
    assert np.array_equal(runs["idle"][0][0].image, picture)
    assert np.array_equal(still(1.0), np.zeros(3))


@pytest.mark.parametrize("turn", [(12, 0, 0), (0, -12, 12), (12, 12, -12), (-12, 12, 0)])
def test_a_head_at_the_edges_does_not_fold(tracker, turn):
    """Where each pixel of a tight portrait comes from, by pictures of its coordinates: never inside out."""
    tight = np.ascontiguousarray(data.astronaut()[55:185, 165:280])
    face = Still(tight, tracker.detect(tight)[0])
    step = 6
    places = []
    for coordinate in np.mgrid[: tight.shape[0], : tight.shape[1]]:
        face.image = np.repeat(coordinate[..., None] * 1.9, 3, axis=2).astype(np.uint8)
        places.append(face.turned(np.array(turn, float))[0][..., 0].astype(float) / (1.9 * step))
    (y_down, y_across), (x_down, x_across) = (
        (place[step:, :-step] - place[:-step, :-step], place[:-step, step:] - place[:-step, :-step])
        for place in places
    )
    assert (y_down * x_across - y_across * x_down).min() > 0.1
