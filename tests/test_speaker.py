"""Whose lips move with the sound: the face that is followed when the speaker is asked for."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import write_wav
from PIL import Image
from skimage import data
from standins import grid_clip, needs_grid, talker

from moditalker.features.face.identity import Follower
from moditalker.features.face.speaker import Speakers
from moditalker.features.face.tracker import FaceTracker
from moditalker.geometry.points import LIP_INNER
from moditalker.media import AudioReader, Frame, VideoReader, VideoWriter, plain_info, read_clip
from moditalker.talker.talker import MoDiTalker
from moditalker.weights.named import ASSETS

SPEECH = ASSETS / "demo_speech.flac"
CUT = 30  # first frame of the second shot
PICTURE = data.astronaut()[0:256, 90:346]


@pytest.fixture(scope="module")
def tracker() -> FaceTracker:
    return FaceTracker()


def write(path: Path, frames: list[np.ndarray], audio: Path | None) -> Path:
    height, width = frames[0].shape[:2]
    with VideoWriter(path, plain_info(width, height), audio, lossless=True) as writer:
        for i, frame in enumerate(frames):
            writer.write(Frame(i, Fraction(i, 25), Fraction(1, 25), frame))
    return path


def small(frame: np.ndarray) -> np.ndarray:
    """Four fifths of its size, on grey, so that the face is not the largest."""
    result = np.full_like(frame, 120)
    side = frame.shape[0] * 4 // 5
    result[-side:, :side] = np.asarray(Image.fromarray(frame).resize((side, side)))
    return result


@pytest.fixture(scope="module")
def conversation(tmp_path_factory, weights) -> Path:
    """Two shots of 1.2 s of two people under one sound: the smaller speaks, on the left, then on the right.

    The other one moves her head and blinks.
    """
    folder = tmp_path_factory.mktemp("speaker")
    Image.fromarray(PICTURE).save(folder / "face.png")
    sound = write_wav(folder / "speech.wav", AudioReader(SPEECH).read(2.4))
    speaking = [
        image for _, image in MoDiTalker.from_pretrained(weights).generate(folder / "face.png", sound)
    ]
    still = talker().face(folder / "face.png", Fraction(12, 5), blink=40, seed=1)
    listening = [face.frame.image[:, ::-1] for face in still]
    frames = []
    for i in range(2 * CUT):
        pair = [small(speaking[i]), listening[i]]
        frames.append(np.concatenate(pair if i < CUT else pair[::-1], axis=1))
    return write(folder / "conversation.mkv", frames, sound)


def test_the_speaker_is_followed_across_a_cut(tracker, conversation):
    model, source = talker(), VideoReader(conversation)

    follower = Follower(tracker, model.config.crop, source, "speaker")
    followed = np.array([face.landmarks[30, 0] for face in follower.follow(source) if face.usable])
    assert len(followed) == 2 * CUT
    assert (followed[:CUT] < 256).all()
    assert (followed[CUT:] > 256).all()
    (largest,) = tracker.track([next(iter(source)).image], 25)
    assert largest.centre[0] > 256


def test_frames_may_be_asked_for_in_any_order(tracker, conversation):
    speakers = Speakers(tracker, VideoReader(conversation))
    first, late = speakers.at(0), speakers.at(50)
    assert isinstance(first, tuple)
    assert isinstance(late, tuple)
    assert first[0] < 256 < late[0]
    assert [speakers.at(i) for i in (CUT - 1, CUT, 10, 59, 500)] == [first, late, first, late, late]


def test_no_more_is_read_than_a_shot_needs(tracker, conversation):
    source = VideoReader(conversation)
    read = 0

    class Counted:
        info, start = source.info, source.start

        def __iter__(self):
            nonlocal read
            for frame in source:
                read += 1
                yield frame

    Speakers(tracker, Counted()).at(0)
    assert read <= CUT + 1 + 2  # which look for dissolves


def test_without_faces_or_without_sound(tracker, tmp_path, conversation):
    grey = write(tmp_path / "grey.mkv", [np.full((96, 96, 3), 90, np.uint8)] * 5, None)
    assert Speakers(tracker, VideoReader(grey)).at(3) == "largest"
    silent = [frame.image for frame in VideoReader(conversation)][:CUT]
    mute = Speakers(tracker, VideoReader(write(tmp_path / "mute.mkv", silent, None)))
    assert mute.loudness is None
    assert mute.at(0)[0] < 256


@pytest.mark.slow
@needs_grid
def test_the_one_who_chews_is_not_the_speaker(tracker, tmp_path):
    """Real people, real sound: who speaks it, beside one whose lips move all the time, more and in vain."""
    clip = read_clip(grid_clip())
    people = clip.frames[:, :, 36:324]
    (face,) = tracker.detect(people[0])
    rows = slice(*np.percentile(face.landmarks[LIP_INNER, 1], [0, 100]).astype(int) + np.array([-12, 30]))
    chewing = np.repeat(people[:1], len(people), axis=0)
    opened = people[int(np.argmax([gap(tracker, frame) for frame in people]))]
    chewing[(np.arange(len(people)) // 3) % 2 == 1, rows] = opened[rows]
    both = np.concatenate([people, chewing], axis=2)
    path = write(tmp_path / "both.mkv", list(both), grid_clip())
    assert Speakers(tracker, VideoReader(path)).at(0)[0] < people.shape[2]


def gap(tracker: FaceTracker, frame: np.ndarray) -> float:
    (face,) = tracker.detect(frame, 0)
    return float(np.ptp(face.landmarks[[62, 66], 1]))
