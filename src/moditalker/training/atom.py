"""AToM as a training task: clips of one speaker become long, varied recordings; windows of them are learnt.

Clips of a corpus like GRID all begin and end in silence, at one loudness, in one room. Trained on them as
they are, AToM would learn where in a window speech stands, and what that room sounds like. So clips are
joined with pauses in which the mouth closes, played faster and slower, louder and softer, in other rooms and
other noise, and the speech features of what comes out are computed once, before training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from moditalker.config import Config
from moditalker.diffusion import Diffusion
from moditalker.errors import UserError
from moditalker.features.speech import FRAME, SAMPLE_RATE, SpeechEncoder
from moditalker.landmarks import JAW, MIRROR, MOUTH, lip_opening, mouth_width
from moditalker.metrics.lips import amplitude_ratio, correlation, stillness
from moditalker.motion.atom import NUMBERS, SPEECH_PER_FRAME, Atom, to_x0
from moditalker.motion.sample import sample_motion

Array = NDArray[np.float32]

LIP_WEIGHT, JAW_WEIGHT, DEPTH_WEIGHT = 3.0, 1.5, 0.3  # of an error, against 1 for the upper face's x and y
VELOCITY_WEIGHT, GAP_WEIGHT = 2.0, 0.3  # of errors of frame differences, and of the inner lips' gap
SHUT_SHARE = 0.6  # of the l_id have the mouth shut, as a chosen source frame has; the rest are any frame
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


def fill_gaps(landmarks: Array) -> Array:
    """Frames without a face (NaN) are interpolated from their neighbours: (S, 68, 3)."""
    good = np.isfinite(landmarks).all((1, 2))
    if not good.any():
        raise UserError("a clip has no frame with a face: leave it out")
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


# --- recordings out of clips -------------------------------------------------------------------------


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
        landmarks, waveform = change_speed(landmarks, waveform, float(np.exp(rng.normal(0, 0.06))))
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


def save_recordings(recordings: list[Recording], path: Path) -> None:
    """To one safetensors file."""
    tensors: dict[str, NDArray[np.floating]] = {}
    for number, recording in enumerate(recordings):
        tensors[f"{number:05d}.{recording.speaker}.landmarks"] = np.ascontiguousarray(recording.landmarks)
        tensors[f"{number:05d}.{recording.speaker}.speech"] = recording.speech
    part = path.with_suffix(".part")
    save_file(tensors, part)
    part.replace(path)


def load_recordings(path: Path) -> list[Recording]:
    """What :func:`save_recordings` wrote."""
    tensors = load_file(path)
    names = sorted({name.rsplit(".", 1)[0] for name in tensors})
    return [
        Recording(name.split(".", 1)[1], tensors[f"{name}.landmarks"], tensors[f"{name}.speech"])
        for name in names
    ]


# --- the task ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MotionBatch:
    """What AToM learns from."""

    x0: Tensor  # (B, S, 204)
    speech: Tensor  # (B, 2S, D)
    l_id: Tensor  # (B, 204)


class AtomTask:
    """AToM for `training.loop.fit`.

    Args:
        recordings: to learn from, made by :func:`make_recordings`.
        clips: the speakers' own clips, from which l_id and rest faces are taken.
        validation: clips to judge by, in named groups.
        encoder: for the validation's sound.
        batch_size: windows a step.
    """

    name = "atom"

    def __init__(
        self,
        config: Config,
        recordings: list[Recording],
        clips: list[MotionClip],
        validation: dict[str, list[MotionClip]],
        encoder: SpeechEncoder,
        batch_size: int = 8,
    ) -> None:
        self.config = config
        self.model = Atom(config.atom, config.speech.width)
        self.diffusion = Diffusion(config.atom_diffusion)
        self.batch_size = batch_size
        frames = config.atom.frames
        self.recordings = [r for r in recordings if len(r.landmarks) >= frames]
        if not self.recordings:
            raise UserError(f"no recording has {frames} frames or more: give longer or more clips")
        self.faces = {s: faces(c for c in clips if c.speaker == s) for s in {c.speaker for c in clips}}
        self.rest = np.stack([rest_mouth(c for c in clips if c.speaker == s) for s in sorted(self.faces)])
        self.validation = {
            group: [
                (clip, encoder(clip.waveform)[: SPEECH_PER_FRAME * len(clip.landmarks)]) for clip in members
            ]
            for group, members in validation.items()
        }
        rng = np.random.default_rng(0)
        self.silence = {
            "zeros": encoder(np.zeros(3 * SAMPLE_RATE, np.float32)),
            "noise": encoder(0.001 * rng.normal(size=3 * SAMPLE_RATE).astype(np.float32)),
        }
        self.weight = point_weights()
        rng = np.random.default_rng(0)
        heard = [r.speech[rng.integers(0, len(r.speech), size=20)] for r in self.recordings]
        seen = [
            self.augment(every[i : i + 1], every[i], rng)[1]
            for every, _ in self.faces.values()
            for i in range(0, len(every), 7)
        ]
        whiten(self.model.speech_encoder.project, np.concatenate(heard))
        if self.model.landmark_encoder is not None:
            whiten(self.model.landmark_encoder.project, np.stack(seen).reshape(len(seen), -1))
        nn.init.zeros_(self.model.out.weight)
        nn.init.zeros_(self.model.out.bias)

    def batch(self, rng: np.random.Generator) -> MotionBatch:
        """Random windows, augmented."""
        frames = self.config.atom.frames
        x0, speech, identity = [], [], []
        for index in rng.integers(0, len(self.recordings), size=self.batch_size):
            recording = self.recordings[index]
            start = int(rng.integers(0, len(recording.landmarks) - frames + 1))
            landmarks = recording.landmarks[start : start + frames]
            candidates = self.faces[recording.speaker][int(rng.random() < SHUT_SHARE)]
            l_id = candidates[rng.integers(0, len(candidates))]
            landmarks, l_id = self.augment(landmarks, l_id, rng)
            target, l_id = (
                torch.from_numpy(x.reshape(*x.shape[:-2], NUMBERS)).float() for x in (landmarks, l_id)
            )
            x0.append(to_x0(target, l_id, self.config.atom))
            identity.append(l_id)
            heard = recording.speech[SPEECH_PER_FRAME * start : SPEECH_PER_FRAME * (start + frames)]
            speech.append(torch.from_numpy(heard.astype(np.float32)))
        return MotionBatch(torch.stack(x0), torch.stack(speech), torch.stack(identity))

    def augment(self, landmarks: Array, l_id: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Another face: mirrored, of other proportions, mixed with other rest faces; l_id has an error."""
        if rng.random() < 0.5:
            flip = np.array([-1, 1, 1], np.float32)
            landmarks, l_id = landmarks[:, MIRROR] * flip, l_id[MIRROR] * flip
        a, b = self.rest[rng.integers(0, len(self.rest), size=2)]
        other = rng.normal(0, 0.7) * (a - b)
        stretch = np.exp(rng.normal(0, 0.04, size=3))
        jitter = rng.normal(0, 0.003, size=l_id.shape)
        return (
            ((landmarks + other) * stretch).astype(np.float32),
            ((l_id + other) * stretch + jitter).astype(np.float32),
        )

    def loss(self, batch: MotionBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Eq. 4, weighted by point; terms on frame differences [released] and on the lips' gap [ours]."""
        size = len(batch.x0)
        t = torch.randint(0, self.diffusion.config.timesteps, (size,), generator=generator)
        noise = torch.randn(batch.x0.shape, generator=generator)
        drop = torch.rand(size, generator=generator) < self.config.atom.condition_dropout
        xt = self.diffusion.add_noise(batch.x0, noise, t)
        error = self.model(xt, t, batch.speech, batch.l_id, drop) - batch.x0
        points = (self.weight * error.square()).mean()
        velocity = (self.weight * error.diff(dim=1).square()).mean()
        y = error.unflatten(-1, (-1, 3))[..., 1]
        gap = (y[..., [61, 62, 63]] - y[..., [67, 66, 65]]).mean(-1).square().mean()
        loss = points + VELOCITY_WEIGHT * velocity + GAP_WEIGHT * gap
        return loss, {"points": points.item(), "velocity": velocity.item(), "gap": gap.item()}

    def validate(self) -> dict[str, float]:
        """Per group, medians over clips: correlation of lip opening and mouth width, and amplitude ratios.

        l_id is the frame of another clip (where there is one) whose mouth is shut most.
        ``still``: range of the opening in silence over the speaking range; ``shut``: where its mean lies.
        """
        figures: dict[str, float] = {}
        for group, members in self.validation.items():
            rows = []
            for number, (clip, speech) in enumerate(members):
                others = [c for c, _ in members if c.speaker == clip.speaker and c is not clip] or [clip]
                source = others[number % len(others)].faces
                l_id = source[lip_opening(source).argmin()]
                made = np.concatenate(list(sample_motion(self.model, self.diffusion, [speech], l_id, number)))
                row = []
                for measure in (lip_opening, mouth_width):
                    ours, real = measure(made), measure(clip.landmarks)
                    row += [correlation(ours, real), amplitude_ratio(ours, real)]
                if number < 4:
                    real = lip_opening(clip.landmarks)
                    low, high = np.percentile(real, [5, 95])
                    for sound in self.silence.values():
                        still = np.concatenate(list(sample_motion(self.model, self.diffusion, [sound], l_id)))
                        opening = lip_opening(still)
                        row += [stillness(opening, real), (opening.mean() - low) / (high - low)]
                rows.append(row)
            names = ["open", "open_amp", "width", "width_amp"]
            for i, name in enumerate(names):
                figures[f"{group}.{name}"] = float(np.median([row[i] for row in rows]))
            for i, name in enumerate(["zeros_still", "zeros_shut", "noise_still", "noise_shut"]):
                figures[f"{group}.{name}"] = float(np.max([row[4 + i] for row in rows[:4]]))
        return figures


@torch.no_grad()
def whiten(linear: nn.Linear, samples: NDArray[np.floating]) -> None:
    """Start a linear layer as the principal components of what it will see, (N, D), at unit variance.

    Speech features have a few directions that outweigh all others, and faces differ by little of their size:
    a random start would spend a short training on that. Components below 3 % of the largest stay small.
    """
    x = torch.from_numpy(samples.astype(np.float32))
    mean = x.mean(0)
    variance, directions = torch.linalg.eigh(torch.cov((x - mean).T))
    kept = min(linear.out_features, linear.in_features)
    deviation = variance[-kept:].clamp(min=0).sqrt()
    deviation = deviation.maximum(0.03 * deviation.max())
    linear.weight[:kept] = (directions[:, -kept:] / deviation).T
    linear.bias[:kept] = -linear.weight[:kept] @ mean


def point_weights() -> Tensor:
    """Weight of each of the 204 numbers' errors; mean 1."""
    weight = np.ones((NUMBERS // 3, 3), np.float32)
    weight[MOUTH] *= LIP_WEIGHT
    weight[JAW] *= JAW_WEIGHT
    weight[:, 2] *= DEPTH_WEIGHT
    return torch.from_numpy((weight / weight.mean()).reshape(-1))
