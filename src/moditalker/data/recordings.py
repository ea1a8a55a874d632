"""AToM's training data: clips of one speaker become long, varied recordings.

Clips of a corpus like GRID all begin and end in silence, at one loudness, in one room. Trained on them
alone, AToM would learn where in a window speech stands, and how that room sounds. So pieces of a speaker's
clips are joined with pauses in which the mouth closes. They get another tempo, voice, room, channel and
loudness, and other sounds behind them. Some recordings hold no speech. The speech features of all are
computed once, before training.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moditalker.config import RecordingsConfig
from moditalker.config.limits import RATE
from moditalker.data import sounds
from moditalker.data.shards import Sample
from moditalker.errors import UserError
from moditalker.features.face.shape import frontalize
from moditalker.features.speech.encoders import FRAME, SpeechEncoder
from moditalker.geometry.points import lip_opening, smooth_step

Array = NDArray[np.float32]

FAVOUR = 3.0  # times that a favoured person is drawn as often as another
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
    plain: bool = False  # a clip unchanged, not varied


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
    """The clip of a sample that AToM uses.

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
    """The speaker's face at rest, (68, 3): the mean of quiet frames with a shut mouth."""
    faces = []
    for clip in clips:
        level = np.abs(clip.waveform[: len(clip.landmarks) * FRAME])
        level = np.pad(level, (0, len(clip.landmarks) * FRAME - len(level))).reshape(-1, FRAME).max(1)
        faces.append(clip.landmarks[level <= np.quantile(level, 0.25)])
    quiet = np.concatenate(faces)
    opening = lip_opening(quiet)
    result: Array = quiet[opening <= np.quantile(opening, 0.25)].mean(0)
    return result


def faces(clips: Iterable[MotionClip]) -> tuple[Array, Array]:
    """All frames of a speaker, and those with the mouth shut most: (n, 68, 3) each."""
    every, shut = [], []
    for clip in clips:
        for frames in (clip.landmarks, clip.faces):
            opening = lip_opening(frames)
            every.append(frames)
            shut.append(frames[opening <= np.quantile(opening, 0.1)])
    return np.concatenate(every), np.concatenate(shut)


def closed_pause(frames: int, before: Array, after: Array, rest: Array) -> Array:
    """Landmarks of a pause, (frames, 68, 3): from ``before`` to rest, and in the end to ``after``."""
    step = np.arange(frames, dtype=np.float32)

    opened = smooth_step((step - (frames - CLOSING)) / CLOSING)[:, None, None]
    closed = smooth_step((step + 1) / CLOSING)[:, None, None]
    result: Array = (before + closed * (rest - before) + opened * (after - rest)).astype(np.float32)
    return result


def piece(clip: MotionClip, frames: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """A stretch of a clip, at most ``frames`` long -> landmarks (n, 68, 3), waveform (640 n,).

    Of a longer clip, a random part; else nearly all of it.
    """
    length = len(clip.landmarks)
    if length > frames:
        begin = int(rng.integers(0, length - frames + 1))
        end = begin + frames
    else:
        spare = max(0, min(12, (length - 2) // 2))
        begin, end = int(rng.integers(0, spare + 1)), length - int(rng.integers(0, spare + 1))
    track = clip.landmarks[begin:end]
    wave = clip.waveform[begin * FRAME : end * FRAME]
    wave = np.pad(wave, (0, len(track) * FRAME - len(wave)))
    ramp = np.minimum(1.0, np.arange(len(wave)) / 320.0)  # no clicks
    return track, (wave * ramp * ramp[::-1]).astype(np.float32)


def join(pieces: list[tuple[Array, Array]], rest: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Pieces of one speaker one after the other, with pauses -> landmarks (S, 68, 3), waveform (640 S,)."""
    landmarks: list[Array] = []
    sound: list[Array] = []
    for number, (track, wave) in enumerate(pieces):
        pause = max(CLOSING, int(rng.integers(0, 40))) if rng.random() < 0.6 else CLOSING
        last = landmarks[-1][-1] if number else rest
        landmarks += [closed_pause(pause, last, track[0], rest), track]
        sound += [np.zeros(pause * FRAME, np.float32), wave]
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


def varied(
    landmarks: Array, waveform: Array, config: RecordingsConfig, other: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Landmarks (S, 68, 3) and waveform (640 S,) in another tempo, voice, room and channel.

    other: (N,) another recording, part of which may be heard behind it.
    """
    factor = math.exp(np.clip(rng.normal(0, 0.1), -0.25, 0.25))
    landmarks, waveform = change_speed(landmarks, waveform, factor)
    if rng.random() < config.voice:
        waveform = sounds.other_voice(waveform, math.exp(rng.uniform(-0.3, 0.3)))
    if rng.random() < config.room:
        waveform = sounds.other_room(waveform, rng)
    if rng.random() < config.behind:
        size = len(waveform)
        kind = int(rng.integers(0, 3))
        if kind == 0:
            back = sounds.music(size, rng)
        elif kind == 1:
            back = sounds.coloured(size, rng)
        else:
            back = np.resize(np.roll(other, int(rng.integers(0, len(other)))), size)
        waveform = sounds.behind(waveform, back, rng.uniform(3, 25))
    if rng.random() < config.channel:
        waveform = (sounds.telephone, sounds.compressed)[int(rng.integers(0, 2))](waveform, rng)
    return landmarks, waveform * np.float32(10 ** (rng.uniform(-20, 3) / 20))


def weight_of(speaker: str, frames: int, config: RecordingsConfig) -> float:
    """Relative weight with which a person of this many frames is drawn."""
    return float((frames / RATE) ** config.imbalance) * (FAVOUR if speaker in config.favoured else 1.0)


def chances(recordings: list[Recording], config: RecordingsConfig) -> NDArray[np.float64]:
    """The chance of each recording to be drawn in training, (n,), 1 in all.

    People are drawn as `weight_of` says. Of a person's windows the share ``config.plain`` is from plain
    recordings, by their length; all varied ones are alike.
    """
    size = np.array([len(r.landmarks) if r.plain else 1 for r in recordings], float)
    speakers, who = np.unique([r.speaker for r in recordings], return_inverse=True)
    plain = np.array([r.plain for r in recordings])
    frames = np.bincount(who, [len(r.landmarks) for r in recordings])
    known = np.bincount(who[plain], size[plain], minlength=len(speakers))
    frames = np.where(known > 0, known, frames)
    chance = np.zeros(len(recordings))
    for kind, share in ((plain, config.plain), (~plain, 1 - config.plain)):
        total = np.bincount(who[kind], size[kind], minlength=len(speakers))
        chance[kind] = share * size[kind] / total[who[kind]]
    people = np.array([weight_of(s, int(n), config) for s, n in zip(speakers, frames, strict=True)])
    chance = chance * people[who]
    result: NDArray[np.float64] = chance / chance.sum()
    return result


def make_recording(
    by_speaker: dict[str, list[MotionClip]],
    rest: dict[str, Array],
    encoder: SpeechEncoder,
    config: RecordingsConfig,
    rng: np.random.Generator,
) -> Recording:
    """One recording: draws a speaker, whether there is speech, and which.

    rest: of each speaker, the face (68, 3) with a shut mouth.
    """
    speakers = sorted(by_speaker)
    weight = np.array([weight_of(s, sum(len(c.landmarks) for c in by_speaker[s]), config) for s in speakers])
    speaker, stranger = (speakers[rng.choice(len(speakers), p=weight / weight.sum())] for _ in range(2))
    frames = max(2, round(config.seconds * RATE))
    if rng.random() < config.silent:
        landmarks = np.repeat(rest[speaker][None], frames, axis=0)
        waveform = sounds.no_speech(frames * FRAME, rng)
    else:
        pieces: list[tuple[Array, Array]] = []
        while sum(len(track) for track, _ in pieces) < 0.7 * frames:
            clip = by_speaker[speaker][rng.integers(0, len(by_speaker[speaker]))]
            pieces.append(piece(clip, frames, rng))
        landmarks, waveform = join(pieces, rest[speaker], rng)
        other = by_speaker[stranger][rng.integers(0, len(by_speaker[stranger]))].waveform
        landmarks, waveform = varied(landmarks, waveform, config, other, rng)
    if rng.random() < 0.7:  # else digital silence in the pauses
        hiss = 10 ** (rng.uniform(-85, -35) / 20) * sounds.coloured(len(waveform), rng)
        waveform = waveform + hiss
    speech = encoder(np.clip(waveform, -1, 1).astype(np.float32))
    return Recording(speaker, landmarks, speech.astype(np.float16))


def count_recordings(clips: Iterable[MotionClip], config: RecordingsConfig) -> int:
    """Number of recordings to make of these clips."""
    seconds = sum(len(clip.landmarks) for clip in clips) / RATE
    return max(1, min(config.most, math.ceil(seconds * config.repeats / config.seconds)))


def make_recordings(
    clips: list[MotionClip],
    encoder: SpeechEncoder,
    config: RecordingsConfig,
    seed: int = 0,
    numbers: Iterable[int] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Recording]:
    """Varied recordings of the clips' speakers; the same arguments give the same ones.

    Args:
        numbers: of the recordings to make, each of which has chance of its own; None: all.
        progress: called with how many of them are made.
    """
    by_speaker = defaultdict(list)
    for clip in clips:
        by_speaker[clip.speaker].append(clip)
    rest = {speaker: rest_mouth(own) for speaker, own in by_speaker.items()}
    recordings = []
    for number in range(count_recordings(clips, config)) if numbers is None else numbers:
        rng = np.random.default_rng((seed, number))
        recordings.append(make_recording(by_speaker, rest, encoder, config, rng))
        progress(len(recordings))
    return recordings


def plain_recording(clip: MotionClip, encoder: SpeechEncoder) -> Recording:
    """A clip unchanged."""
    speech = encoder(clip.waveform)
    frames = min(len(clip.landmarks), len(speech) // 2)
    return Recording(clip.speaker, clip.landmarks[:frames], speech[: 2 * frames].astype(np.float16), True)
