"""The rule that shuts the mouth where nothing is said."""

from __future__ import annotations

import numpy as np
import pytest

from moditalker.landmarks import lip_opening, shut_mouth
from moditalker.motion.silence import FRAME, hush, silence


def sound(
    rng: np.random.Generator, noise: float, speech: tuple[int, int] | None, frames: int = 100
) -> np.ndarray:
    """Noise, and in the frames ``speech`` syllables at 4 Hz over it."""
    wave = rng.normal(0, noise, frames * FRAME)
    if speech is not None:
        t = np.arange((speech[1] - speech[0]) * FRAME) / 16000
        syllables = 0.15 * (0.5 - 0.5 * np.cos(2 * np.pi * 4 * t)) * np.sin(2 * np.pi * 180 * t)
        wave[speech[0] * FRAME : speech[1] * FRAME] += syllables
    return wave.astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 0.0005, 0.001, 0.003, 0.01])
def test_noise_alone_is_silence(noise: float) -> None:
    wave = sound(np.random.default_rng(0), noise, None)
    assert list(silence([wave])) == [1.0] * 100


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.003])
def test_speech_is_not_silence_nor_is_the_moment_before_it(noise: float) -> None:
    weight = np.array(list(silence([sound(np.random.default_rng(1), noise, (40, 70))])))
    assert (weight[36:72] == 0).all()
    assert (weight[:30] == 1).all()
    assert (weight[80:] == 1).all()


@pytest.mark.parametrize("gain", [0.3, 0.03, 0.01])
def test_faint_recordings_speak_too(gain: float) -> None:
    weight = np.array(list(silence([gain * sound(np.random.default_rng(1), 0.001, (40, 70))])))
    assert (weight[40:66] == 0).all()
    assert (weight[80:] == 1).all()


def test_chunking_does_not_matter() -> None:
    wave = sound(np.random.default_rng(2), 0.001, (20, 50), 80)
    whole = list(silence([wave]))
    assert list(silence(np.split(wave, [7, 900, 901, 30000]))) == whole


def test_hush_shuts_the_mouth_and_leaves_speech_alone() -> None:
    rng = np.random.default_rng(3)
    face = rng.normal(size=(68, 3)).astype(np.float32)
    motion = face + rng.normal(0, 0.1, size=(100, 68, 3)).astype(np.float32)
    quiet = np.concatenate(list(hush([motion[:37], motion[37:]], [sound(rng, 0.001, (40, 70))], face)))
    assert np.array_equal(quiet[40:70], motion[40:70])
    assert lip_opening(quiet[:30]).max() < 1e-5
    assert np.ptp(quiet[:30], axis=0).max() < 1e-5


def test_shut_mouth_touches_and_moves_nothing_above() -> None:
    face = np.random.default_rng(4).normal(size=(2, 68, 3)).astype(np.float32)
    shut = shut_mouth(face)
    assert lip_opening(shut).max() < 1e-6
    assert np.array_equal(shut[:, 17:48], face[:, 17:48])
