"""Varies sound for AToM's training: voices, rooms, channels, and sounds that are not speech.

Everything is made from formulas and random numbers; waveforms are (N,) float32 in [-1, 1] at 16 kHz. No
function moves a sound in time, since the lips that belong to it stay where they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moditalker.features.speech.encoders import SAMPLE_RATE

Array = NDArray[np.float32]

WINDOW, HOP = 512, 128  # of short-time spectra, samples
PHONE = (300.0, 3400.0)  # Hz that a telephone carries
MU = 255.0  # of the telephone's logarithmic steps (ITU-T G.711)


def level(waveform: NDArray[np.floating]) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)) if len(waveform) else 0.0))


def coloured(samples: int, rng: np.random.Generator) -> Array:
    """Noise between white and brown, of deviation 1."""
    spectrum = np.fft.rfft(rng.normal(size=samples))
    spectrum = spectrum / np.maximum(np.fft.rfftfreq(samples) * samples, 1.0) ** rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum, samples)
    result: Array = (noise / max(noise.std(), 1e-9)).astype(np.float32)
    return result


# --- voices ------------------------------------------------------------------------------------------------


def spectra(waveform: NDArray[np.floating]) -> NDArray[np.complex128]:
    """Short-time spectra (T, WINDOW / 2 + 1), centred on multiples of HOP."""
    padded = np.pad(waveform, WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    return np.fft.rfft(frames * np.hanning(WINDOW), axis=1)


def from_spectra(spectrum: NDArray[np.complex128], samples: int) -> Array:
    """Inverse of `spectra`: overlap and add."""
    window = np.hanning(WINDOW)
    parts = np.fft.irfft(spectrum, WINDOW, axis=1) * window
    size = (len(parts) - 1) * HOP + WINDOW
    total, weight = np.zeros(size), np.zeros(size)
    for number, part in enumerate(parts):
        at = slice(number * HOP, number * HOP + WINDOW)
        total[at] += part
        weight[at] += window**2
    sound = (total / np.maximum(weight, 1e-3))[WINDOW // 2 :]
    return np.pad(sound, (0, max(0, samples - len(sound))))[:samples].astype(np.float32)


def stretched(waveform: NDArray[np.floating], samples: int) -> Array:
    """The sound in another length at the same pitch, by a phase vocoder [Flanagan and Golden 1966]."""
    seen = spectra(waveform)
    count = samples // HOP + 1
    places = np.linspace(0, max(len(seen) - 2, 0), count)
    low = np.minimum(places.astype(int), len(seen) - 2)
    share = (places - low)[:, None]
    size = np.abs(seen)
    magnitude = (1 - share) * size[low] + share * size[low + 1]
    advance = np.angle(seen[low + 1] * np.conj(seen[low]))  # of a hop, at each place
    phase = np.angle(seen[0]) + np.concatenate(
        [np.zeros((1, seen.shape[1])), np.cumsum(advance, axis=0)[:-1]]
    )
    return from_spectra(magnitude * np.exp(1j * phase), samples)


def other_voice(waveform: NDArray[np.floating], ratio: float) -> Array:
    """Pitch and formants ``ratio`` times as high, in the same time: a larger or smaller throat."""
    places = np.arange(0, len(waveform) - 1, ratio)
    higher = np.interp(places, np.arange(len(waveform)), waveform)
    return stretched(higher, len(waveform))


# --- rooms and channels ------------------------------------------------------------------------------------


def filtered(waveform: NDArray[np.floating], gain: NDArray[np.floating]) -> Array:
    """Through a filter without delay, whose gain (N / 2 + 1,) is that of the spectrum's lines."""
    return np.fft.irfft(np.fft.rfft(waveform) * gain, len(waveform)).astype(np.float32)


def other_room(waveform: NDArray[np.floating], rng: np.random.Generator) -> Array:
    """The sound through a random equaliser, sometimes with an echo."""
    octave = np.log2(np.maximum(np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE), 50.0) / 50.0)
    gain = np.interp(octave, np.arange(8), rng.normal(0, 4, size=8))  # dB at octaves from 50 Hz
    waveform = filtered(waveform, 10 ** (gain / 20))
    if rng.random() < 0.25:
        length = int(rng.uniform(0.1, 0.3) * SAMPLE_RATE)
        echo = rng.normal(size=length) * np.exp(-6.0 * np.arange(length) / length)
        echo *= rng.uniform(0.1, 0.5) / np.linalg.norm(echo)
        echo[0] = 1.0
        size = len(waveform) + length
        waveform = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(echo, size), size)[: len(waveform)]
    return waveform.astype(np.float32)


def telephone(waveform: NDArray[np.floating], rng: np.random.Generator) -> Array:
    """A telephone's band, in its 256 logarithmic steps."""
    frequency = np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE)
    low, high = PHONE[0] * rng.uniform(0.5, 1.0), PHONE[1] * rng.uniform(0.9, 1.2)
    waveform = filtered(waveform, 1 / (1 + (low / np.maximum(frequency, 1)) ** 8 + (frequency / high) ** 16))
    peak = max(float(np.abs(waveform).max()), 1e-9)
    x = waveform / peak
    steps = np.round(127 * np.sign(x) * np.log1p(MU * np.abs(x)) / np.log1p(MU)) / 127
    result: Array = (peak * np.sign(steps) * np.expm1(np.abs(steps) * np.log1p(MU)) / MU).astype(np.float32)
    return result


def compressed(waveform: NDArray[np.floating], rng: np.random.Generator) -> Array:
    """The sound of a codec at a low bit rate: only the strongest lines of each short-time spectrum."""
    seen = spectra(waveform)
    size = np.abs(seen)
    least = np.quantile(size, rng.uniform(0.5, 0.85), axis=1, keepdims=True)
    top = int(rng.uniform(0.4, 1.0) * seen.shape[1])
    seen = np.where(size >= least, seen, 0)
    seen[:, top:] = 0
    return from_spectra(seen, len(waveform))


# --- what is not speech ------------------------------------------------------------------------------------


def music(samples: int, rng: np.random.Generator) -> Array:
    """Chords of plucked or bowed tones over a beat, of peak about 1."""
    sound = np.zeros(samples)
    beat = int(rng.uniform(0.2, 0.6) * SAMPLE_RATE)
    root, plucked, drums = rng.uniform(80, 300), rng.random() < 0.5, rng.random() < 0.6
    scale = (
        np.array([0, 2, 4, 5, 7, 9, 11, 12]) if rng.random() < 0.5 else np.array([0, 2, 3, 5, 7, 8, 10, 12])
    )
    for start in range(0, samples, beat):
        length = min(int(beat * rng.choice([1, 1, 2, 4])), samples - start)
        t = np.arange(length) / SAMPLE_RATE
        envelope = np.minimum(1, t / 0.01) * (np.exp(-t * rng.uniform(2, 8)) if plucked else 1.0)
        envelope = envelope * np.minimum(1, t[::-1] / 0.02)
        for step in rng.choice(scale, size=int(rng.integers(1, 4)), replace=False):
            pitch = root * 2 ** ((step + 12 * rng.integers(0, 3)) / 12)
            for harmonic in range(1, int(rng.integers(2, 9))):
                if harmonic * pitch < SAMPLE_RATE / 2:
                    phase = rng.uniform(0, 2 * np.pi)
                    tone = np.sin(2 * np.pi * harmonic * pitch * t + phase) / harmonic ** rng.uniform(0.7, 2)
                    sound[start : start + length] += envelope * tone
        if drums:
            hit = np.exp(-t * rng.uniform(15, 60)) * coloured(length, rng) if length else 0.0
            sound[start : start + length] += rng.uniform(0.5, 2) * hit
    result: Array = (sound / max(np.abs(sound).max(), 1e-9)).astype(np.float32)
    return result


def beeps(samples: int, rng: np.random.Generator) -> Array:
    """Tones that go on and off, of peak about 1."""
    t = np.arange(samples) / SAMPLE_RATE
    tone = sum(np.sin(2 * np.pi * rng.uniform(200, 3000) * t) for _ in range(int(rng.integers(1, 3))))
    period = rng.uniform(0.1, 2.0)
    share = rng.uniform(0.3, 1.0)
    heard = ((t + rng.uniform(0, period)) % period) < share * period
    return (0.5 * tone * heard).astype(np.float32)


def applause(samples: int, rng: np.random.Generator) -> Array:
    """Many claps, each a short burst of noise, of peak about 1."""
    clap = int(0.012 * SAMPLE_RATE)
    times = rng.integers(0, max(samples - clap, 1), size=int(samples / SAMPLE_RATE * rng.uniform(20, 300)))
    bursts = np.zeros(samples)
    bursts[times] = rng.uniform(0.3, 1, size=len(times)) * rng.choice([-1, 1], size=len(times))
    shape = rng.normal(size=clap) * np.exp(-np.arange(clap) / (clap / 5))
    size = samples + clap
    sound = np.fft.irfft(np.fft.rfft(bursts, size) * np.fft.rfft(shape, size), size)[:samples]
    swell = 0.2 + np.interp(np.arange(samples), np.linspace(0, samples, 8), rng.random(8))
    sound = sound * swell
    result: Array = (sound / max(np.abs(sound).max(), 1e-9)).astype(np.float32)
    return result


def no_speech(samples: int, rng: np.random.Generator) -> Array:
    """Nothing, noise, music, beeps or applause, at any loudness."""
    kind = rng.integers(0, 5)
    if kind == 0:
        return np.zeros(samples, np.float32)
    sound = coloured(samples, rng) / 4 if kind == 1 else (music, beeps, applause)[kind - 2](samples, rng)
    return (sound * 10 ** (rng.uniform(-40, 0) / 20)).astype(np.float32)


def behind(waveform: NDArray[np.floating], sound: NDArray[np.floating], decibels: float) -> Array:
    """Speech with another sound (N,) behind it, which is softer by ``decibels``."""
    loud, soft = level(waveform), level(sound)
    return (waveform + sound * (loud / max(soft, 1e-9) * 10 ** (-decibels / 20))).astype(np.float32)
