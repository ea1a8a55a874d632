"""Speech that is still arriving: the frames of `generate`, a fixed time behind the sound."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from conftest import write_wav
from PIL import Image
from standins import ASTRONAUT, grid_clip, live_talker, needs_grid, talker

from moditalker import MoDiTalker
from moditalker.errors import UserError
from moditalker.media import SAMPLE_RATE, AudioReader, VideoReader
from moditalker.media.arriving import ArrivingSound
from moditalker.talker.steps import Speech
from moditalker.talker.targets import Live
from moditalker.weights.named import ASSETS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def portrait(tmp_path_factory) -> Path:
    """A small picture, so that many frames cost little."""
    path = tmp_path_factory.mktemp("portrait") / "face.png"
    Image.open(ASTRONAUT).crop((60, 0, 380, 320)).resize((128, 128)).save(path)
    return path


def cut(samples: np.ndarray, seed: int = 0, most: int = 3000) -> Iterator[np.ndarray]:
    """Chunks of all sizes, empty ones too."""
    chance, start = np.random.default_rng(seed), 0
    while start < len(samples):
        size = int(chance.integers(0, most))
        yield samples[start : start + size]
        start += size


def images(video) -> np.ndarray:
    return np.stack([image for _, image in video])


def test_the_frames_of_generate(face_video, speech_wav, tmp_path):
    sound = np.tile(AudioReader(speech_wav).read(), 2)[:21_000]
    whole = write_wav(tmp_path / "whole.wav", sound)
    model = talker()
    expected = images(model.generate(face_video, whole, seed=2))
    stream = model.stream(face_video, cut(AudioReader(whole).read()), seed=2)
    clips = list(stream)
    assert np.array_equal(np.concatenate(clips), expected)
    assert {len(clip) for clip in clips[:-1]} == {14}  # a clip of 16 shares 2 with the next one
    assert stream.info.fps == 20


@pytest.mark.parametrize("samples", [14_399, 14_400, 17_601])
def test_ends_that_differ_by_little_end_together(face_video, speech_wav, tmp_path, samples):
    """The face video lasts 1 s; within 0.1 s of that, sound and frames end together."""
    sound = np.tile(AudioReader(speech_wav).read(), 2)[:samples]
    whole = write_wav(tmp_path / "whole.wav", sound)
    model = talker()
    count = sum(map(len, model.stream(face_video, cut(sound))))
    assert count == sum(1 for _ in model.generate(face_video, whole))
    assert (count == 20) == (14_400 <= samples <= 17_600)


def test_a_picture_and_another_rate(portrait, tmp_path):
    sound = np.concatenate(list(AudioReader(ASSETS / "demo_speech.flac").blocks(44_100, 1)), axis=1)[0]
    whole = write_wav(tmp_path / "whole.wav", sound[:40_000], 44_100)
    samples = np.concatenate(list(AudioReader(whole).blocks(44_100, 1)), axis=1)[0]
    model = talker()
    expected = images(model.generate(portrait, whole))
    given = np.concatenate(list(model.stream(portrait, cut(samples, most=9000), rate=44_100)))
    assert len(given) == ceil(40_000 / 44_100 * 25)
    assert np.array_equal(given, expected)


def test_frames_come_a_fixed_time_behind_the_sound(portrait):
    """What comes later than `ahead` changes nothing, and no more is ever held."""
    speech = AudioReader(ASSETS / "demo_speech.flac").read()
    sound = np.concatenate([speech, 0.3 * speech[::-1]] * 2)[: 10 * SAMPLE_RATE]
    model, taken, most = talker(), 0, 0.0

    def chunks() -> Iterator[np.ndarray]:
        nonlocal taken
        for chunk in cut(sound):
            taken += len(chunk)
            yield chunk

    stream, given = model.stream(portrait, chunks()), []
    for clip in stream:
        most = max(most, taken / SAMPLE_RATE - len(given) / 25)
        given += list(clip)
    # Beside the look-ahead: the frames that the threads are ahead of each other, a clip, a chunk.
    assert most < stream.ahead + 3 * 16 / 25 + 0.2
    assert stream.ahead < 6

    until = 6.5
    other = sound.copy()
    other[round(until * SAMPLE_RATE) :] = 0.2 * np.sin(np.arange(len(sound) - round(until * SAMPLE_RATE)))
    changed = np.concatenate(list(model.stream(portrait, cut(other))))
    same = [np.array_equal(a, b) for a, b in zip(given, changed, strict=True)]
    assert all(same[: int((until - stream.ahead) * 25)])
    assert not all(same)


def test_stopping_early_stops_the_threads(portrait):
    before = threading.active_count()
    frames = iter(talker().stream(portrait, cut(np.zeros(10 * SAMPLE_RATE, np.float32))))
    next(frames)
    frames.close()
    assert threading.active_count() == before


def test_sound_is_heard_once(portrait, speech_wav):
    stream = talker().stream(portrait, cut(AudioReader(speech_wav).read()))
    list(stream)
    with pytest.raises(ValueError, match="only once"):
        list(stream)


@pytest.fixture(scope="module")
def spoken() -> np.ndarray:
    """2.4 s of speech."""
    speech = AudioReader(ASSETS / "demo_speech.flac").read()
    return np.concatenate([speech, speech[::-1]])[: round(2.4 * SAMPLE_RATE)]


@pytest.fixture(scope="module")
def live() -> MoDiTalker:
    return live_talker()


def test_live_frames_depend_on_half_a_second_and_no_more(portrait, spoken, live):
    """The future of the sound is changed, and the frames before it are the same to the last grey level."""
    stream = live.stream(portrait, cut(spoken), deadline=100.0)
    assert stream.ahead < 0.5
    given = np.concatenate(list(stream))
    assert len(given) == ceil(len(spoken) / SAMPLE_RATE * 25)
    assert stream.dropped == 0
    until = 1.2
    other = spoken.copy()
    start = round(until * SAMPLE_RATE)
    other[start:] = 0.2 * np.sin(np.arange(len(spoken) - start) ** 1.5 / 100)
    changed = np.concatenate(list(live.stream(portrait, cut(other, seed=1, most=9000), deadline=100.0)))
    same = [np.array_equal(a, b) for a, b in zip(given, changed, strict=True)]
    assert all(same[: int((until - stream.ahead) * 25) + 1])
    assert not all(same)
    assert any(not np.array_equal(given[0], frame) for frame in given)  # the lips do move


def test_live_frames_are_those_of_generate_whatever_the_chunks(portrait, spoken, live, tmp_path):
    whole = write_wav(tmp_path / "whole.wav", spoken)
    expected = images(live.generate(portrait, whole))
    sound = AudioReader(whole).read()
    for size in (333, 9000):
        chunks = (sound[i : i + size] for i in range(0, len(sound), size))
        frames = list(live.stream(portrait, chunks, deadline=100.0))
        assert {len(frame) for frame in frames} == {1}
        assert np.array_equal(np.concatenate(frames)[:-5], expected[:-5])
        # The face goes on behind the end of the sound, and its alignment is smoothed over that.
        assert np.abs(np.concatenate(frames).astype(int) - expected).max() <= 2


def test_a_live_video_holds_its_face_before_the_sound_begins(face_video, spoken, live):
    """The face is followed ahead of the sound; what the sound adds waits for it, and little is held."""
    taken, seen, behind = 0, [], 0.0

    def chunks() -> Iterator[np.ndarray]:
        nonlocal taken
        for chunk in np.array_split(np.tile(spoken, 2), 60):
            taken += len(chunk)
            yield chunk

    sound = ArrivingSound(chunks())
    stream = live.stream(face_video, [np.zeros(16_000)], deadline=100.0)
    speech = Speech(sound, sound.length, live.speech_encoder)
    track = stream.video.face
    for frame, _ in replace(stream.video, motion=live.motion(speech, track), live=Live(sound, 100.0)):
        behind = max(behind, taken / SAMPLE_RATE - float(frame.time))
        seen.append(float(frame.time))
    assert len(seen) == ceil(4.8 * 20)
    # The look-ahead, a chunk of 0.08 s, and the frames that the thread is ahead of this loop.
    assert behind < stream.ahead + 0.08 + 18 / 20 + 0.1


def test_late_frames_are_left_out_and_counted(portrait, spoken, live):
    """All of the sound is there at once, so nearly all frames would be shown too late."""
    heard = threading.Event()

    def chunks() -> Iterator[np.ndarray]:
        yield from np.array_split(spoken, 7)
        heard.set()

    stream, times = live.stream(portrait, chunks(), deadline=0.6), []
    for frame, image in stream.video:
        assert heard.wait(60)  # the sound comes in while frames are made
        assert image.shape == (128, 128, 3)
        times.append(float(frame.time))
    assert stream.dropped > 0
    assert len(times) + stream.dropped == 60
    assert times[-1] == pytest.approx(59 / 25)  # the last frame is in time: none follows
    assert all(time > 2.4 - 0.6 for time in times[18:])  # the first few were made while little was heard


def test_a_live_video_says_what_it_left_out(portrait, spoken, live, tmp_path):
    stream = live.stream(portrait, [spoken], deadline=0.8)
    report = stream.video.save(tmp_path / "live.mp4")
    assert report["frames"] + report["frames_dropped"] == 60
    assert report["frames_dropped"] == stream.dropped
    assert sum(1 for _ in VideoReader(tmp_path / "live.mp4")) == report["frames"]


@pytest.mark.parametrize("deadline", [0.0, -1.0, 0.3, float("inf"), float("nan")])
def test_deadlines_that_cannot_be_kept(portrait, live, deadline):
    with pytest.raises(UserError, match=r"frames depend on what is heard 0\.\d+ s later"):
        live.stream(portrait, [], deadline=deadline)


def test_the_package_s_offline_weights_have_no_deadline_of_a_second(portrait):
    with pytest.raises(UserError, match="take the preset live"):
        talker().stream(portrait, [], deadline=1.0)


def broken() -> Iterator[np.ndarray]:
    yield np.zeros(SAMPLE_RATE, np.float32)
    raise ConnectionError("the caller hung up")


@pytest.mark.parametrize(
    ("chunks", "error", "says"),
    [
        ([np.zeros(1600, np.int16)], UserError, r"int16 of shape \(1600,\)"),
        ([np.zeros((1600, 2))], UserError, r"shape \(1600, 2\)"),
        ([], UserError, "0.000 s of sound; at least 0.04 s"),
        ([np.zeros(639)], UserError, "0.040 s of sound; at least 0.04 s"),
        (broken(), ConnectionError, "hung up"),
    ],
)
def test_chunks_that_are_no_sound(portrait, chunks, error, says):
    with pytest.raises(error, match=says):
        list(talker().stream(portrait, chunks))


def test_rates_that_are_none():
    for rate in (0, -1, 1000, 10**6):
        with pytest.raises(UserError, match="samples a second"):
            ArrivingSound([], rate)


def test_loud_and_damaged_samples_are_clipped():
    (chunk,) = ArrivingSound([np.array([2.0, -3.0, np.nan, np.inf] * 200)])
    assert chunk.dtype == np.float32
    assert set(chunk.tolist()) == {1.0, -1.0, 0.0}


def test_the_example_runs(portrait, speech_wav, tmp_path, shipped, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    out = tmp_path / "talking.mp4"
    command = [sys.executable, ROOT / "examples" / "stream.py", portrait, speech_wav, out, "--window"]
    text = subprocess.run([*command, "--model", shipped], capture_output=True, text=True, check=True).stdout
    assert "no window" in text
    assert re.search(r"first frame after [\d.]+ s, 26 frames after [\d.]+ s", text)
    assert sum(1 for _ in VideoReader(out)) == 26
    assert AudioReader(out).seconds == pytest.approx(1.02, abs=0.05)


def test_the_example_answers_a_mistake_with_a_sentence(speech_wav, tmp_path, shipped):
    command = [sys.executable, ROOT / "examples" / "stream.py", "none.png", speech_wav, tmp_path / "o.mp4"]
    done = subprocess.run([*command, "--model", shipped], capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"stream.py: none.png: there is no such file.*\n", done.stderr)


@pytest.mark.slow
@needs_grid
def test_the_frames_of_generate_with_the_packages_weights(weights):
    """The other tests have small untrained networks; a person and the weights of the package."""
    model = MoDiTalker.from_pretrained(weights)
    speech = ASSETS / "demo_speech.flac"
    stream = model.stream(grid_clip(), cut(AudioReader(speech).read()))
    assert stream.ahead == pytest.approx(6.13, abs=0.01)  # as docs/streaming.md says
    assert np.array_equal(np.concatenate(list(stream)), images(model.generate(grid_clip(), speech)))
