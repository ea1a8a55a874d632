"""Sounds of the world: what they change, and that they move nothing in time."""

from __future__ import annotations

import numpy as np
import pytest

from moditalker.data import sounds

RATE = 16_000


def syllables(seconds: float = 2.0, pitch: float = 150.0) -> np.ndarray:
    t = np.arange(int(seconds * RATE)) / RATE
    voice = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 12))
    return (0.1 * voice * (0.5 - 0.5 * np.cos(2 * np.pi * 3 * t))).astype(np.float32)


def envelope(waveform: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(waveform).reshape(-1, 320).mean(1))


def pitch_of(waveform: np.ndarray) -> float:
    """Hz, by the autocorrelation of the loudest 100 ms."""
    at = int(envelope(waveform).argmax()) * 320
    part = waveform[max(0, at - 800) : at + 800].astype(float)
    correlation = np.correlate(part, part, "full")[len(part) - 1 :]
    return RATE / (50 + int(correlation[50:400].argmax()))


def test_spectra_give_the_sound_back() -> None:
    sound = syllables()
    np.testing.assert_allclose(sounds.from_spectra(sounds.spectra(sound), len(sound)), sound, atol=1e-6)


@pytest.mark.parametrize("ratio", [0.75, 1.0, 1.33])
def test_another_voice_has_another_pitch_at_the_same_times(ratio: float) -> None:
    other = sounds.other_voice(syllables(), ratio)
    assert pitch_of(other) == pytest.approx(150 * ratio, rel=0.03)
    assert np.corrcoef(envelope(other), envelope(syllables()))[0, 1] > 0.9


@pytest.mark.parametrize("change", [sounds.telephone, sounds.compressed, sounds.other_room])
def test_channels_and_rooms_move_nothing(change) -> None:
    other = change(syllables(), np.random.default_rng(1))
    assert len(other) == len(syllables())
    assert np.corrcoef(envelope(other), envelope(syllables()))[0, 1] > 0.9


def test_a_telephone_has_no_bass_and_no_treble() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    power = np.abs(np.fft.rfft(sounds.telephone(noise, np.random.default_rng(1)))) ** 2
    voice = power[500:3000].mean()
    assert power[:100].mean() < 0.01 * voice
    assert power[5500:].mean() < 0.01 * voice


@pytest.mark.parametrize("seed", range(8))
def test_what_is_no_speech_is_bounded_and_the_same_again(seed: int) -> None:
    one, two = (sounds.no_speech(RATE, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(one, two)
    assert one.shape == (RATE,)
    assert np.isfinite(one).all()
    assert np.abs(one).max() < 2


def test_what_is_behind_is_as_soft_as_asked() -> None:
    speech, noise = syllables(), sounds.coloured(2 * RATE, np.random.default_rng(0))
    added = sounds.behind(speech, noise, 12.0) - speech
    assert 20 * np.log10(sounds.level(speech) / sounds.level(added)) == pytest.approx(12, abs=0.1)
