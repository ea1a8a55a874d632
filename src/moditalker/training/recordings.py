"""What AToM learns from: clips of one speaker become long, varied recordings.

Clips of a corpus like GRID all begin and end in silence, at one loudness, in one room. Trained on them as
they are, AToM would learn where in a window speech stands, and how that room sounds. So clips of a
speaker are joined with pauses in which the mouth closes, made faster and slower, louder and softer, in other
rooms and other noise, and the speech features of what comes out are computed once, before training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from moditalker.errors import UserError
from moditalker.features.face_model import frontalize
from moditalker.features.speech import FRAME, SAMPLE_RATE, SpeechEncoder
from moditalker.landmarks import lip_opening
from moditalker.shards import Sample

Array = NDArray[np.float32]

CLOSING = 6  # frames in which a mouth closes before a pause, and opens after it


@dataclass(frozen=True)
class MotionClip:
    """A clip as AToM sees it."""

    name: str
    speaker: str
    landmarks: Array  # (S, 68, 3) frontal, canonical units, 25 Hz
    waveform: Array  # (N,) in [-1, 1], 16 kHz
    faces: Array  # (n, 68, 3) frames frontalised one by one, as a picture is: what l_id can also look like


@dataclass(frozen=True)
class Recording:
    """Landmarks and speech features of some seconds of one speaker."""

    speaker: str
    landmarks: Array  # (S, 68, 3)
    speech: NDArray[np.float16]  # (2S, D)


def motion_clip(name: str, speaker: str, points: Array, waveform: Array) -> MotionClip:
    """A clip out of its image landmarks (S, 68, 3), NaN without a face, and its sound (N,) at 16 kHz.

    Raises:
        UserError: no frame has a face.
    """
    found = np.isfinite(points).all((1, 2))
    if not found.any():
        raise UserError(f"{name}: no frame has a face; leave it out")
    landmarks = np.full(points.shape, np.nan, np.float32)
    landmarks[found] = frontalize(points[found])[0]
    shut = np.argsort(lip_opening(points[found]))[:8]
    single = points[found][np.union1d(np.arange(0, found.sum(), 6), shut)]
    faces = np.concatenate([frontalize(frame[None])[0] for frame in single])
    return MotionClip(name, speaker, fill_gaps(landmarks), waveform, faces)


def read_motion_clip(sample: Sample) -> MotionClip:
    """What AToM wants of a sample.

    Raises:
        UserError: it has no sound.
    """
    return motion_clip(sample.name, sample.speaker, sample["points"], sample["audio"])


def fill_gaps(landmarks: Array) -> Array:
    """Frames without a face (NaN) are interpolated from their neighbours: (S, 68, 3)."""
    good = np.isfinite(landmarks).all((1, 2))
    flat, frames = landmarks.reshape(len(landmarks), -1), np.arange(len(landmarks))
    filled = [np.interp(frames, frames[good], flat[good, i]) for i in range(flat.shape[1])]
    return np.stack(filled, axis=1).reshape(landmarks.shape).astype(np.float32)


def rest_mouth(clips: Iterable[MotionClip]) -> Array:
    """The speaker's face at rest, (68, 3): the mean of the frames that are quiet and have the mouth shut."""
    faces = []
    for clip in clips:
        level = np.abs(clip.waveform[: len(clip.landmarks) * FRAME])
        level = np.pad(level, (0, len(clip.landmarks) * FRAME - len(level))).reshape(-1, FRAME).max(1)
        faces.append(clip.landmarks[level <= np.quantile(level, 0.25)])
    quiet = np.concatenate(faces)
    opening = lip_opening(quiet)
    return quiet[opening <= np.quantile(opening, 0.25)].mean(0)


def faces(clips: Iterable[MotionClip]) -> tuple[Array, Array]:
    """All frames of a speaker, and those in which the mouth is shut as far as it gets: (n, 68, 3) each."""
    every, shut = [], []
    for clip in clips:
        for frames in (clip.landmarks, clip.faces):
            opening = lip_opening(frames)
            every.append(frames)
            shut.append(frames[opening <= np.quantile(opening, 0.1)])
    return np.concatenate(every), np.concatenate(shut)


def coloured(samples: int, rng: np.random.Generator) -> Array:
    """Noise between white and brown, of deviation 1."""
    spectrum = np.fft.rfft(rng.normal(size=samples))
    spectrum = spectrum / np.maximum(np.fft.rfftfreq(samples) * samples, 1.0) ** rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum, samples)
    return (noise / max(noise.std(), 1e-9)).astype(np.float32)


def other_room(waveform: NDArray[np.floating], rng: np.random.Generator) -> Array:
    """The sound through a random equaliser, sometimes with an echo."""
    spectrum = np.fft.rfft(waveform)
    octave = np.log2(np.maximum(np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE), 50.0) / 50.0)
    gain = np.interp(octave, np.arange(8), rng.normal(0, 4, size=8))  # dB at octaves from 50 Hz
    waveform = np.fft.irfft(spectrum * 10 ** (gain / 20), len(waveform))
    if rng.random() < 0.25:
        length = int(rng.uniform(0.1, 0.3) * SAMPLE_RATE)
        echo = rng.normal(size=length) * np.exp(-6.0 * np.arange(length) / length)
        echo *= rng.uniform(0.1, 0.5) / np.linalg.norm(echo)
        echo[0] = 1.0
        size = len(waveform) + length
        waveform = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(echo, size), size)[: len(waveform)]
    return waveform.astype(np.float32)


def closed_pause(frames: int, before: Array, after: Array, rest: Array) -> Array:
    """Landmarks of a pause, (frames, 68, 3): from ``before`` to rest, and in the end to ``after``."""
    step = np.arange(frames, dtype=np.float32)

    def ease(x: NDArray[np.floating]) -> NDArray[np.floating]:
        x = np.clip(x, 0, 1)
        return (x * x * (3 - 2 * x))[:, None, None]

    opened = ease((step - (frames - CLOSING)) / CLOSING)
    closed = ease((step + 1) / CLOSING)
    return (before + closed * (rest - before) + opened * (after - rest)).astype(np.float32)


def join(clips: list[MotionClip], rest: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Clips of one speaker one after the other, with pauses -> landmarks (S, 68, 3), waveform (640 S,)."""
    landmarks: list[Array] = []
    sound: list[Array] = []
    for number, clip in enumerate(clips):
        begin = int(rng.integers(0, 12))
        end = len(clip.landmarks) - int(rng.integers(0, 12))
        track = clip.landmarks[begin:end]
        wave = clip.waveform[begin * FRAME : end * FRAME]
        wave = np.pad(wave, (0, len(track) * FRAME - len(wave)))
        ramp = np.minimum(1.0, np.arange(len(wave)) / 320.0)  # no clicks
        pause = int(rng.integers(0, 40)) if rng.random() < 0.6 else CLOSING
        last = landmarks[-1][-1] if number else rest
        landmarks += [closed_pause(max(pause, CLOSING), last, track[0], rest), track]
        sound += [np.zeros(max(pause, CLOSING) * FRAME, np.float32), wave * ramp * ramp[::-1]]
    return np.concatenate(landmarks), np.concatenate(sound).astype(np.float32)


def change_speed(landmarks: Array, waveform: Array, factor: float) -> tuple[Array, Array]:
    """Both ``factor`` times as fast (pitch changes too)."""
    frames = int(len(landmarks) / factor)
    places = np.minimum(np.arange(frames) * factor, len(landmarks) - 1)
    low = np.minimum(places.astype(int), len(landmarks) - 2)
    weight = (places - low).astype(np.float32)[:, None, None]
    track = landmarks[low] + weight * (landmarks[low + 1] - landmarks[low])
    sound = np.interp(np.arange(frames * FRAME) * factor, np.arange(len(waveform)), waveform)
    return track, sound.astype(np.float32)


def record(
    clips: list[MotionClip], rest: Array, encoder: SpeechEncoder, rng: np.random.Generator
) -> Recording:
    """One varied recording out of clips of one speaker; without clips, of silence or faint noise."""
    if clips:
        landmarks, waveform = join(clips, rest, rng)
        factor = np.exp(np.clip(rng.normal(0, 0.1), -0.25, 0.25))
        landmarks, waveform = change_speed(landmarks, waveform, float(factor))
        waveform = other_room(waveform, rng) if rng.random() < 0.7 else waveform
        waveform = waveform * 10 ** (rng.uniform(-12, 3) / 20)
    else:
        landmarks, waveform = np.repeat(rest[None], 200, axis=0), np.zeros(200 * FRAME, np.float32)
    if rng.random() < 0.7:  # else digital silence in the pauses
        waveform = waveform + 10 ** (rng.uniform(-85, -35) / 20) * coloured(len(waveform), rng)
    speech = encoder(np.clip(waveform, -1, 1).astype(np.float32))
    return Recording(clips[0].speaker if clips else "", landmarks, speech.astype(np.float16))


def make_recordings(
    clips: list[MotionClip], encoder: SpeechEncoder, count: int, seed: int = 0, silent: float = 0.08
) -> list[Recording]:
    """``count`` recordings of about ten seconds. A speaker of n clips has weight n^0.35.

    The share ``silent`` of them has no speech. The same arguments give the same recordings.
    """
    by_speaker = defaultdict(list)
    for clip in clips:
        by_speaker[clip.speaker].append(clip)
    speakers = sorted(by_speaker)
    weight = np.array([len(by_speaker[s]) ** 0.35 for s in speakers])
    rest = {s: rest_mouth(by_speaker[s]) for s in speakers}
    recordings = []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        speaker = speakers[rng.choice(len(speakers), p=weight / weight.sum())]
        drawn = [by_speaker[speaker][i] for i in rng.integers(0, len(by_speaker[speaker]), size=3)]
        made = record([] if rng.random() < silent else drawn, rest[speaker], encoder, rng)
        recordings.append(Recording(speaker, made.landmarks, made.speech))
    return recordings


def save_recordings(recordings: list[Recording], path: Path, origin: str = "") -> None:
    """To one safetensors file, whose metadata says what they were made of."""
    tensors: dict[str, NDArray[np.floating]] = {}
    for number, recording in enumerate(recordings):
        tensors[f"{number:05d}.{recording.speaker}.landmarks"] = np.ascontiguousarray(recording.landmarks)
        tensors[f"{number:05d}.{recording.speaker}.speech"] = recording.speech
    part = path.with_suffix(".part")
    save_file(tensors, part, {"origin": origin})
    part.replace(path)


def recordings_origin(path: Path) -> str:
    """What a file says that its recordings were made of; "" where it does not, or cannot be read."""
    try:
        with safe_open(path, "numpy") as file:
            return (file.metadata() or {}).get("origin", "")
    except (OSError, SafetensorError):
        return ""


def load_recordings(path: Path) -> list[Recording]:
    """What :func:`save_recordings` wrote."""
    tensors = load_file(path)
    names = sorted({name.rsplit(".", 1)[0] for name in tensors})
    return [
        Recording(name.split(".", 1)[1], tensors[f"{name}.landmarks"], tensors[f"{name}.speech"])
        for name in names
    ]
