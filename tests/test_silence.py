"""Who speaks and who does not: the voice activity detector, and the mouth that it shuts."""

from __future__ import annotations

import numpy as np
import pytest

from moditalker.data import sounds
from moditalker.features.speech.silence import PATIENT, QUICK, silence
from moditalker.features.speech.voice_activity import FRAME, voice_activity
from moditalker.geometry.points import lip_opening, shut_mouth
from moditalker.media import AudioReader
from moditalker.motion.stage import hush
from moditalker.weights.named import ASSETS

RATE = 16_000


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """The demo's sentence, from 0.2 s on: 2 s."""
    return AudioReader(ASSETS / "demo_speech.flac").read(2.2)[int(0.2 * RATE) :]


def between_silences(speech: np.ndarray) -> np.ndarray:
    """2 s of nothing, 2 s of speech, 2 s of nothing."""
    nothing = np.zeros(2 * RATE, np.float32)
    return np.concatenate([nothing, speech, nothing])


@pytest.mark.parametrize("kind", ["zeros", "white", "coloured", "beep", "beeps", "music", "applause"])
@pytest.mark.parametrize("level", [0.01, 0.3])
def test_what_is_no_speech_shuts_the_mouth(kind: str, level: float) -> None:
    rng = np.random.default_rng(4)
    size = 3 * RATE
    sound = {
        "zeros": lambda: np.zeros(size),
        "white": lambda: rng.normal(0, 0.3, size),
        "coloured": lambda: sounds.coloured(size, rng) / 3,
        "beep": lambda: np.sin(2 * np.pi * 1000 * np.arange(size) / RATE),
        "beeps": lambda: sounds.beeps(size, rng),
        "music": lambda: sounds.music(size, rng),
        "applause": lambda: sounds.applause(size, rng),
    }[kind]()
    weights = np.array(list(silence([(level * sound).astype(np.float32)])))
    assert len(weights) == 75
    assert weights.mean() > 0.7  # a chord may sound like a vowel for a moment


@pytest.mark.parametrize("gain", [1.0, 0.1, 0.01])
def test_speech_is_left_alone_at_any_loudness(speech: np.ndarray, gain: float) -> None:
    weights = np.array(list(silence([gain * between_silences(speech)])))
    assert weights[50:100].mean() < 0.02
    assert (weights[:36] == 1).all()
    assert (weights[115:] == 1).all()


def test_speech_over_music_is_speech(speech: np.ndarray) -> None:
    music = sounds.music(len(speech), np.random.default_rng(0))
    weights = np.array(list(silence([sounds.behind(speech, music, 8.0)])))
    assert weights.mean() < 0.1


@pytest.mark.parametrize("size", [1, 700, 16_001])
def test_chunking_does_not_matter(speech: np.ndarray, size: int) -> None:
    sound = between_silences(speech)[RATE : 3 * RATE + 123]
    step = 40 if size == 1 else size
    parts = np.split(sound, range(step, len(sound), step))
    whole = list(voice_activity([sound]))
    assert len(whole) == -(-len(sound) // FRAME)
    np.testing.assert_allclose(list(voice_activity(parts)), whole, atol=1e-5)


def test_nothing_gives_nothing() -> None:
    assert list(voice_activity([])) == []
    assert len(list(voice_activity([np.zeros(1, np.float32)]))) == 1


def test_the_detector_waits_for_no_more_than_a_block(speech: np.ndarray) -> None:
    taken = 0

    def chunks():
        nonlocal taken
        for part in np.split(speech, range(320, len(speech), 320)):
            taken += len(part)
            yield part

    for number, _ in enumerate(voice_activity(chunks())):
        assert taken <= (number + 1) * FRAME + 512 + 320


def test_hush_shuts_the_mouth_and_leaves_speech_alone(speech: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    face = rng.normal(size=(68, 3)).astype(np.float32)
    motion = face + rng.normal(0, 0.1, size=(150, 68, 3)).astype(np.float32)
    quiet = np.concatenate(list(hush([motion[:37], motion[37:]], silence([between_silences(speech)]), face)))
    assert np.array_equal(quiet[55:95], motion[55:95])
    assert lip_opening(quiet[: 50 - PATIENT.margin - PATIENT.ramp]).max() < 1e-5
    assert np.ptp(quiet[: 50 - PATIENT.margin - PATIENT.ramp], axis=0).max() < 1e-5


def test_little_is_looked_ahead_where_somebody_waits(speech: np.ndarray) -> None:
    sound = between_silences(speech)
    weights = np.array(list(silence([sound], QUICK)))
    assert weights[50:100].mean() < 0.03
    assert (weights[:42] == 1).all()
    other = sound.copy()
    other[50 * FRAME :] = 0  # the speech
    changed = np.array(list(silence([other], QUICK)))
    first = int(np.flatnonzero(weights != changed)[0])
    assert 50 - QUICK.frames <= first <= 52
    patient = np.array(list(silence([sound])))
    assert np.array_equal(weights[100:], patient[100:])  # behind speech the mouth shuts as it does elsewhere


def test_shut_mouth_touches_and_moves_nothing_above() -> None:
    face = np.random.default_rng(4).normal(size=(2, 68, 3)).astype(np.float32)
    shut = shut_mouth(face)
    assert lip_opening(shut).max() < 1e-6
    assert np.array_equal(shut[:, 17:48], face[:, 17:48])
