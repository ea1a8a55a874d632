"""AToM as a training task: windows of `recordings`, each with an l_id; Eq. 4 and terms on the lips."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moditalker.config import AtomLossConfig, Config
from moditalker.data.recordings import MotionClip, Recording, chances, faces, rest_mouth
from moditalker.diffusion.process import Diffusion
from moditalker.errors import UserError
from moditalker.features.speech.encoders import SAMPLE_RATE, SpeechEncoder
from moditalker.geometry.points import (
    INNER_LOWER,
    INNER_UPPER,
    JAW,
    LIP_RELATED,
    MIRROR,
    MOUTH,
    lip_opening,
    mouth_width,
    shut_mouth,
)
from moditalker.geometry.raster import draw
from moditalker.metrics.lips import amplitude_ratio, correlation
from moditalker.metrics.silence import stillness
from moditalker.motion.atom import NUMBERS, SPEECH_PER_FRAME, Atom, FirstEstimate, from_x0, to_x0
from moditalker.motion.sample import sample_motion

Array = NDArray[np.float32]

FEATURE_NOISE = 0.5  # on speech features, in units of their deviation
EDGE_SHARE = 0.1  # share of windows at a recording's start or end, like a video's first and last
ESTIMATE_WINDOWS = 1600  # windows that the first estimate is fitted to before training
ESTIMATE_PENALTY = 1e-3  # ridge penalty, in units of its inputs' mean variance
LEAST_RANGE = 0.01  # eye distances: lips that move less do not speak
STILL = 0.2  # in units of x0: smaller deviations of opening and width count as no motion
TOUCHING = 0.02  # canonical units: lips less open than the landmarks' error touch
SHUT_SHARE = 0.6  # share of l_id with a shut mouth, like a chosen source frame; the rest are any frame


@dataclass(frozen=True)
class MotionBatch:
    """A batch of windows."""

    x0: Tensor  # (B, S, 204)
    speech: Tensor  # (B, 2S, D)
    l_id: Tensor  # (B, 204)
    estimate: Tensor | None = None  # (B, S, 204), estimate of x0 that AToM adds to; None: its own


class AtomTask:
    """AToM for `training.loop.fit`.

    Args:
        recordings: those to learn from, made by `make_recordings`.
        clips: clips of the speakers, for l_id and faces at rest.
        validation: clips to validate on, in named groups.
        encoder: encodes the validation's sound.
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
        self.probability = chances(self.recordings, config.atom_recordings)
        self.faces = {s: faces(c for c in clips if c.speaker == s) for s in {c.speaker for c in clips}}
        rests = {s: rest_mouth(c for c in clips if c.speaker == s) for s in sorted(self.faces)}
        self.rest = np.stack(list(rests.values()))
        ranges = {s: speaking_range(c for c in clips if c.speaker == s) for s in rests}
        usual = float(np.exp(np.mean(np.log(list(ranges.values())))))
        self.styles = {s: (rests[s], usual / ranges[s]) for s in rests}
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
        self.weight = point_weights(config.atom_loss)
        rng = np.random.default_rng(0)
        heard = [r.speech[rng.integers(0, len(r.speech), size=20)] for r in self.recordings]
        seen = [
            self.augment(every[i : i + 1], every[i], rng)[1]
            for every, _ in self.faces.values()
            for i in range(0, len(every), 7)
        ]
        whiten(self.model.speech_encoder.project, np.concatenate(heard))
        self.feature_scale = float(np.concatenate(heard).astype(np.float32).std(0).mean())
        if self.model.landmark_encoder is not None:
            whiten(self.model.landmark_encoder.project, np.stack(seen).reshape(len(seen), -1))
        nn.init.zeros_(self.model.out.weight)
        nn.init.zeros_(self.model.out.bias)
        # For each recording, the x0 (S, 204) of an estimate that never heard its speaker.
        self.estimates: list[Array] = []
        if self.model.first_estimate is not None:
            self.start_estimate(self.model.first_estimate)

    def batch(self, rng: np.random.Generator, size: int | None = None) -> MotionBatch:
        """Draw ``size`` random windows, augmented; by default as many as the task's."""
        frames = self.config.atom.frames
        x0, speech, identity, estimates = [], [], [], []
        for index in rng.choice(len(self.recordings), size=size or self.batch_size, p=self.probability):
            recording = self.recordings[index]
            last = len(recording.landmarks) - frames
            start = (
                int(rng.integers(0, last + 1))
                if rng.random() >= EDGE_SHARE
                else int(rng.choice([0, 0, last]))
            )
            landmarks = recording.landmarks[start : start + frames]
            candidates = self.faces[recording.speaker][int(rng.random() < SHUT_SHARE)]
            l_id = candidates[rng.integers(0, len(candidates))]
            landmarks, l_id = (self.of_usual_range(x, recording.speaker) for x in (landmarks, l_id))
            if self.estimates:
                moved = self.estimates[index][start : start + frames].reshape(frames, -1, 3)
                track = shut_mouth(l_id) + moved / self.config.atom.scale
                landmarks = np.concatenate([landmarks, track])
            landmarks, l_id = self.augment(landmarks, l_id, rng)
            target, l_id = (
                torch.from_numpy(x.reshape(*x.shape[:-2], NUMBERS)).float() for x in (landmarks, l_id)
            )
            x0.append(to_x0(target[:frames], l_id, self.config.atom))
            estimates.append(to_x0(target[frames:], l_id, self.config.atom))
            identity.append(l_id)
            heard = recording.speech[SPEECH_PER_FRAME * start : SPEECH_PER_FRAME * (start + frames)]
            heard = heard + FEATURE_NOISE * self.feature_scale * rng.standard_normal(heard.shape, np.float32)
            speech.append(torch.from_numpy(heard))
        estimate = torch.stack(estimates) if self.estimates else None
        return MotionBatch(torch.stack(x0), torch.stack(speech), torch.stack(identity), estimate)

    @torch.no_grad()
    def start_estimate(self, estimate: FirstEstimate) -> None:
        """Start a linear estimate as a regression, one with layers on the principal components of speech."""
        if not self.config.atom.estimate_layers:
            self.fit_estimate(estimate)
            return
        every = [torch.from_numpy(r.speech[: 2 * len(r.landmarks)])[None] for r in self.recordings]
        heard = [estimate.by_frame(speech)[0, :: max(1, speech.shape[1] // 40)].numpy() for speech in every]
        whiten(estimate.project, np.concatenate(heard))
        nn.init.zeros_(estimate.map.weight)

    @torch.no_grad()
    def fit_estimate(self, estimate: FirstEstimate) -> None:
        """Start the first estimate as the ridge regression of x0 on speech, over training windows."""
        rng = np.random.default_rng((self.config.atom_training.seed, 1))
        batches = [self.batch(rng) for _ in range(ESTIMATE_WINDOWS // self.batch_size)]
        heard = [estimate.by_frame(batch.speech).flatten(0, 1).numpy() for batch in batches[:20]]
        whiten(estimate.project, np.concatenate(heard))
        shape = estimate.map.weight.shape  # 204 C K
        size = shape[1] * shape[2] + 1
        gram, moment = torch.zeros(size, size), torch.zeros(size, shape[0])
        for batch in batches:
            x = estimate.components(batch.speech).unfold(2, shape[2], 1)  # B C S K
            x = x.transpose(1, 2).flatten(2).flatten(0, 1)  # BS CK
            x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
            gram += x.T @ x
            moment += x.T @ batch.x0.flatten(0, 1)
        penalty = torch.full((size,), ESTIMATE_PENALTY * gram.diagonal()[:-1].mean().item())
        penalty[-1] = 0
        solution = torch.linalg.solve(gram + penalty.diag(), moment)  # CK+1 204
        estimate.map.weight.copy_(solution[:-1].T.unflatten(1, shape[1:]))
        assert estimate.map.bias is not None
        estimate.map.bias.copy_(solution[-1])

    def of_usual_range(self, landmarks: Array, speaker: str) -> Array:
        """Scale a person's landmarks (..., 68, 3) to the average size of people's lip motion.

        The size of lip motion is a person's style, which cannot be predicted from speech.
        """
        rest, factor = self.styles[speaker]
        moved = landmarks.copy()
        lips = landmarks[..., LIP_RELATED, :]
        moved[..., LIP_RELATED, :] = rest[LIP_RELATED] + factor * (lips - rest[LIP_RELATED])
        result: Array = moved
        return result

    def augment(self, landmarks: Array, l_id: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Make another face: mirrored, of other proportions, mixed with other faces; l_id has an error."""
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
        """Eq. 4, weighted by point; terms on frame differences [released], and on the lips [ours]."""
        size, weights = len(batch.x0), self.config.atom_loss
        t = self.diffusion.draw_timesteps(size, generator, weights.last_step)
        noise = torch.randn(batch.x0.shape, generator=generator).to(batch.x0)
        drop = (torch.rand(size, generator=generator) < self.config.atom.condition_dropout).to(noise.device)
        xt = self.diffusion.add_noise(batch.x0, noise, t)
        made = self.model(xt, t, batch.speech, batch.l_id, drop, batch.estimate)
        terms = self.terms(made, batch)
        return self.weighted(terms), {name: value.item() for name, value in terms.items()}

    def weighted(self, terms: dict[str, Tensor]) -> Tensor:
        """Add up the terms, each with its weight of ``atom_loss``."""
        return torch.stack(
            [getattr(self.config.atom_loss, name) * value for name, value in terms.items()]
        ).sum()

    def terms(self, x0: Tensor, batch: MotionBatch) -> dict[str, Tensor]:
        """Compute the terms of the error of x0 (B, S, 204), by the names of their weights."""
        real = batch.x0
        error = x0 - real
        weight = self.weight.to(error.device)
        gap, spread = lips(error)  # b S each
        terms = {
            "points": (weight * error.square()).mean(),
            "velocity": (weight * error.diff(dim=1).square()).mean(),
            "gap": gap.square().mean(),
            "spread": spread.square().mean(),
        }
        if self.config.atom_loss.amplitude:
            terms["amplitude"] = torch.stack(
                [
                    torch.log((ours.std(dim=1) + STILL) / (theirs.std(dim=1) + STILL)).square().mean()
                    for ours, theirs in zip(lips(x0), lips(real), strict=True)
                ]
            ).mean()
        if self.config.atom_loss.closure:
            opening = lips(from_x0(real, batch.l_id, self.config.atom))[0]
            shut = torch.exp(-0.5 * (opening / TOUCHING).square())
            terms["closure"] = (shut * gap.square()).mean()
        return terms

    def score(self, figures: dict[str, float]) -> float:
        """Mean over groups of the lips' correlation."""
        return float(np.mean([value for name, value in figures.items() if name.endswith(".open")]))

    def validate(self) -> dict[str, float]:
        """Per group, medians over clips: correlation of lip opening and mouth width, and amplitude ratios.

        l_id is the frame of another clip (if there is one) with the most shut mouth.
        ``still``: range of the opening in silence over the speaking range; ``shut``: where its mean lies.
        """
        figures: dict[str, float] = {}
        for group, members in self.validation.items():
            rows = []
            for number, (clip, speech) in enumerate(members):
                others = [c for c, _ in members if c.speaker == clip.speaker and c is not clip] or [clip]
                source = others[number % len(others)].faces
                l_id = most_shut(source)
                made = self.motion(speech, l_id, number)
                row = []
                for measure in (lip_opening, mouth_width):
                    ours, real = measure(made), measure(clip.landmarks)
                    row += [correlation(ours, real), amplitude_ratio(ours, real)]
                if number < 4:
                    real = lip_opening(clip.landmarks)
                    low, high = np.percentile(real, [5, 95])
                    for sound in self.silence.values():
                        opening = lip_opening(self.motion(sound, l_id))
                        row += [stillness(opening, real), (opening.mean() - low) / (high - low)]
                rows.append(row)
            names = ["open", "open_amp", "width", "width_amp"]
            for i, name in enumerate(names):
                figures[f"{group}.{name}"] = float(np.median([row[i] for row in rows]))
            for i, name in enumerate(["zeros_still", "zeros_shut", "noise_still", "noise_shut"]):
                figures[f"{group}.{name}"] = float(np.max([row[4 + i] for row in rows[:4]]))
        return figures

    def preview(self) -> NDArray[np.uint8] | None:
        """Draw the first validation clip's landmarks, real above made, every eighth frame, if any."""
        if not self.validation:
            return None
        clip, speech = next(iter(self.validation.values()))[0]
        made = self.motion(speech, most_shut(clip.faces))
        rows = [
            np.concatenate(list(draw(track[::8, :, :2] * [32, -32] + [64, 48], 128, 128)), axis=1)
            for track in (clip.landmarks, made)
        ]
        return np.repeat((255 * np.concatenate(rows)).astype(np.uint8)[..., None], 3, axis=-1)

    def motion(self, speech: Array, l_id: Array, seed: int = 0) -> Array:
        """Speech features (2S, D) -> landmarks (S, 68, 3)."""
        return np.concatenate(list(sample_motion(self.model, self.diffusion, [speech], l_id, seed)))


class EstimateTask:
    """The first estimate alone, for `training.loop.fit`; AToM then learns the remainder with it fixed.

    It shares data, loss and validation with AToM's task.
    """

    name = "estimate"

    def __init__(self, task: AtomTask, estimate: FirstEstimate) -> None:
        self.task, self.model, self.config = task, estimate, task.config

    def batch(self, rng: np.random.Generator) -> MotionBatch:
        return self.task.batch(rng, self.config.estimate_training.batch)

    def loss(self, batch: MotionBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Compute AToM's loss."""
        l_id = batch.l_id[:, None].expand_as(batch.x0)
        terms = self.task.terms(self.model(batch.speech, l_id), batch)
        return self.task.weighted(terms), {name: value.item() for name, value in terms.items()}

    def validate(self) -> dict[str, float]:
        """Evaluate AToM, whose own output is still zero."""
        self.task.model.eval()
        return self.task.validate()

    def score(self, figures: dict[str, float]) -> float:
        return self.task.score(figures)

    def preview(self) -> NDArray[np.uint8] | None:
        return self.task.preview()


def lips(landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean gap of the inner lips and width of the mouth, (..., 204) -> (...) each, in the same units."""
    points = landmarks.unflatten(-1, (-1, 3))
    y, x = points[..., 1], points[..., 0]
    gap = (y[..., INNER_UPPER] - y[..., INNER_LOWER]).mean(-1)
    return gap, (x[..., [54, 64]] - x[..., [48, 60]]).mean(-1)


def speaking_range(clips: Iterable[MotionClip]) -> float:
    """Deviation of a person's lip opening, eye distances."""
    return max(float(np.concatenate([lip_opening(clip.landmarks) for clip in clips]).std()), LEAST_RANGE)


def most_shut(faces: Array) -> Array:
    """Return the face of (n, 68, 3) with the most shut mouth."""
    face: Array = faces[lip_opening(faces).argmin()]
    return face


@torch.no_grad()
def whiten(linear: nn.Linear, samples: NDArray[np.floating]) -> None:
    """Initialise a linear layer with the principal components of its inputs (N, D), at unit variance.

    A few directions dominate speech features, and faces differ by little of their size: a short training
    would be spent on that after a random start. Components below 3 % of the largest stay small.
    """
    x = torch.from_numpy(samples.astype(np.float32))
    mean = x.mean(0)
    variance, directions = torch.linalg.eigh(torch.cov((x - mean).T))
    kept = min(linear.out_features, linear.in_features)
    deviation = variance[-kept:].clamp(min=0).sqrt()
    deviation = deviation.maximum(0.03 * deviation.max())
    linear.weight[:kept] = (directions[:, -kept:] / deviation).T
    linear.bias[:kept] = -linear.weight[:kept] @ mean


def point_weights(config: AtomLossConfig) -> Tensor:
    """Weight of each of the 204 numbers' errors; mean 1."""
    weight = np.ones((NUMBERS // 3, 3), np.float32)
    weight[MOUTH] *= config.lips
    weight[JAW] *= config.jaw
    weight[:, 2] *= config.depth
    return torch.from_numpy((weight / weight.mean()).reshape(-1))
