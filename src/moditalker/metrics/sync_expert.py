"""Mouth-audio match: judges whether the pixels of a mouth go with the sound. The package's own judge.

Two small networks, trained against each other on GRID by `moditalker train sync-expert`: one sees the lower
face and never its landmarks, one hears Whisper's features. It is not SyncNet, and its figures are not LSE-D
and LSE-C.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from moditalker import config as configuration
from moditalker.config import Config, CropConfig, SyncExpertConfig
from moditalker.errors import UserError
from moditalker.features.speech.encoders import FRAME, SAMPLE_RATE, SpeechEncoder, load_speech_encoder
from moditalker.geometry.align import align
from moditalker.geometry.raster import warp
from moditalker.metrics.sync import FPS, MOST, at_25_fps
from moditalker.weights import named
from moditalker.weights.files import load_weights

LEAST = 40  # least frames, so that the largest offset leaves a second to compare
# What counts as related, and how sharply: chosen on people who were left out of training for it.
RELATED, SHARPNESS = 0.35, 100.0
LUMA = np.array([0.299, 0.587, 0.114], np.float32) / 255
AROUND = 3  # frames to either side that an embedding of the lips sees

# --------------------------------------------------------------------------------------------- networks


class LipStream(nn.Module):
    """The lower face over time -> embeddings, one a frame."""

    def __init__(self, config: SyncExpertConfig) -> None:
        super().__init__()
        widths = [1, *(config.channels * factor for factor in (1, 2, 4))]
        self.look = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 5 if a == 1 else 3, 2, 2 if a == 1 else 1), nn.GroupNorm(8, b), nn.ReLU()
            )
            for a, b in pairwise(widths)
        )
        self.project = nn.Linear(widths[-1] * (config.side // 8) ** 2, config.width)
        self.time = Time(config, nn.Conv1d(config.width, config.width, 5, padding=2))

    def forward(self, mouths: Tensor) -> Tensor:
        """(B, S, side, side) grey -> (B, S, E) of length 1."""
        # What does not move is not speech: subtract it, and with it person, light and camera.
        x = mouths - mouths.mean(1, keepdim=True)
        x = x / mouths.std((1, 2, 3), keepdim=True).clamp(min=1e-3)
        x = x.flatten(0, 1)[:, None]  # BS 1 H W
        for layer in self.look:
            x = layer(x)
        x = F.relu(self.project(x.flatten(1))).unflatten(0, mouths.shape[:2])  # B S D
        embeddings: Tensor = self.time(x)
        return embeddings


class SoundStream(nn.Module):
    """Speech features -> embeddings, one a frame."""

    def __init__(self, config: SyncExpertConfig, features: int) -> None:
        super().__init__()
        self.project = nn.Linear(features, config.width)
        halve = nn.Conv1d(config.width, config.width, 4, stride=2, padding=1)  # 50 Hz -> 25 Hz
        self.time = Time(config, halve)

    def forward(self, speech: Tensor) -> Tensor:
        """(B, 2S, D_speech) -> (B, S, E) of length 1."""
        embeddings: Tensor = self.time(self.project(speech))
        return embeddings


class Time(nn.Module):
    """Joins neighbours in time and embeds them: (B, L, D) -> (B, S, E) of length 1."""

    def __init__(self, config: SyncExpertConfig, join: nn.Conv1d) -> None:
        super().__init__()
        self.join = join
        self.mix = nn.Conv1d(config.width, config.width, 3, padding=1)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(config.width, config.embedding)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.join(self.dropout(x).transpose(1, 2)))  # B D S
        x = x + self.dropout(F.relu(self.mix(x)))
        return F.normalize(self.out(x.transpose(1, 2)), dim=-1)


class SyncExpert(nn.Module):
    """Both streams, and the scales of their contrasts in training."""

    def __init__(self, config: SyncExpertConfig, features: int) -> None:
        super().__init__()
        self.lips, self.sound = LipStream(config), SoundStream(config, features)
        self.frame_scale = nn.Parameter(torch.tensor(2.3))  # logarithm, of frames
        self.clip_scale = nn.Parameter(torch.tensor(3.0))  # logarithm, of offsets
        self.unrelated = nn.Parameter(torch.tensor(0.3))  # similarity of what belongs together at no offset


def compare(lips: Tensor, sound: Tensor, most: int = MOST, counted: Tensor | None = None) -> Tensor:
    """Mean similarity of each lips (B, S, E) with each sound (C, S, E) at each offset: (B, C, 2 most + 1).

    Offsets are -most, ..., most frames by which the lips come late; only what overlaps is compared.
    counted: (B, S), 0 for frames that do not count.
    """
    frames = lips.shape[1]
    weight = lips.new_ones(lips.shape[:2]) if counted is None else counted.to(lips)
    lips = lips * weight[..., None]
    rows = []
    for offset in range(-most, most + 1):
        late, early = max(offset, 0), max(-offset, 0)
        seen, heard = slice(late, frames - early), slice(early, frames - late)
        products = torch.einsum("bse,cse->bc", lips[:, seen], sound[:, heard])
        rows.append(products / weight[:, seen].sum(1, keepdim=True).clamp(min=1))
    return torch.stack(rows, dim=-1)


# ----------------------------------------------------------------------------------------------- figures


@dataclass(frozen=True)
class Match:
    """The expert's judgement of one face and its sound.

    similarities: (2 MOST + 1,) mean cosines for lips that come late by -MOST, ..., MOST frames of 1/25 s.
    """

    similarities: NDArray[np.float64]

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """(2 MOST + 2,): of each offset, and last of none, at which mouth and sound belong together.

        The evidence of an offset is its similarity minus the median of all.
        """
        logits = SHARPNESS * np.append(self.similarities - np.median(self.similarities), RELATED)
        likely = np.exp(logits - logits.max())
        return np.asarray(likely / likely.sum())

    @property
    def match(self) -> float:
        """The score, 0 to 1: mean credit of the offsets by probability; credit is 1 at 0, 0 beyond MOST."""
        credit = 1 - np.abs(np.arange(-MOST, MOST + 1)) / (MOST + 1)
        return float(self.probabilities[:-1] @ credit)

    @property
    def offset(self) -> int:
        """Frames of 1/25 s by which the lips most probably come late; negative: early."""
        return int(self.probabilities[:-1].argmax()) - MOST

    @property
    def confidence(self) -> float:
        """Probability, 0 to 1, that mouth and sound belong together at some offset."""
        return 1 - float(self.probabilities[-1])

    @property
    def contrast(self) -> float:
        """Similarity as timed, above the median of all offsets, -2 to 2: tells good from very good."""
        return float(self.similarities[MOST] - np.median(self.similarities))


@dataclass(frozen=True)
class Expert:
    """Prepares the input of the trained networks and runs them."""

    config: Config
    model: SyncExpert
    encoder: SpeechEncoder

    def match(
        self, frames: NDArray[np.uint8], landmarks: ArrayLike, audio: ArrayLike, fps: float = FPS
    ) -> Match:
        """Judge whether a face in a video goes with the sound.

        Args:
            frames: (S, H, W, 3) uint8 RGB.
            landmarks: (S, 68, 2 or 3) pixels, NaN without a face; they only place the crop.
            audio: (N,) in [-1, 1] at 16 kHz, from the same moment on.

        Raises UserError if both last less than LEAST / 25 s, or too few frames show a face; ValueError if a
        shape is wrong.
        """
        points = np.asarray(landmarks, np.float32)
        if frames.ndim != 4 or points.ndim != 3 or len(points) != len(frames):
            raise ValueError(
                f"frames must be (S, H, W, 3), landmarks (S, 68, 2 or 3), not {frames.shape}, {points.shape}"
            )
        shown = at_25_fps(len(frames), fps)
        frames, points = frames[shown], points[shown]
        matrices = align(points, self.config.crop, FPS, frames.shape[1:3])
        found = np.isfinite(points).all((1, 2)) & np.isfinite(matrices).all((1, 2))
        return self.match_crops(
            np.asarray(warp(frames, matrices, self.config.crop.size), np.uint8), audio, found
        )

    def match_crops(self, crops: ArrayLike, audio: ArrayLike, found: ArrayLike | None = None) -> Match:
        """Judge aligned crops at 25 frames a second, (S, size, size, 3) uint8, as in prepared clips.

        found: (S,) bool, the crop shows a face; by default all do.
        """
        size, pictures = self.config.crop.size, np.asarray(crops)
        samples = np.asarray(audio, np.float32)
        if pictures.ndim != 4 or pictures.shape[1:] != (size, size, 3) or samples.ndim != 1:
            raise ValueError(
                f"crops must be (S, {size}, {size}, 3) and audio (N,), not {pictures.shape}, {samples.shape}"
            )
        frames = min(len(pictures), len(samples) // FRAME)
        if frames < LEAST:
            raise UserError(
                f"{len(pictures) / FPS:.2f} s of video with {len(samples) / SAMPLE_RATE:.2f} s of sound; "
                f"mouth-audio match needs {LEAST / FPS:.2f} s of both"
            )
        usable = np.ones(frames, bool) if found is None else np.asarray(found, bool)[:frames]
        counted = np.array([usable[max(0, i - AROUND) : i + AROUND + 1].all() for i in range(frames)])
        if counted[MOST : frames - MOST].sum() < LEAST - 2 * MOST:
            raise UserError(
                f"{usable.sum()} of {frames} frames show a face; mouth-audio match needs {LEAST / FPS:.2f} s"
                " on end"
            )
        shown = np.maximum.accumulate(np.where(usable, np.arange(frames), usable.argmax()))
        lips = self.embed_lips(pictures[:frames][shown])
        return compare_embeddings(lips, self.embed_sound(self.encoder(samples[: frames * FRAME])), counted)

    @torch.inference_mode()
    def embed_lips(self, crops: NDArray[np.uint8]) -> Tensor:
        """Aligned crops (S, size, size, 3) -> embeddings (S, E)."""
        lips: Tensor = self.model.lips(lower_faces(crops, self.config.crop, self.config.sync_expert)[None])
        return lips[0]

    @torch.inference_mode()
    def embed_sound(self, speech: NDArray[np.float32]) -> Tensor:
        """Speech features (2S, D_speech) of `encoder` -> embeddings (S, E)."""
        sound: Tensor = self.model.sound(torch.from_numpy(speech)[None])
        return sound[0]


def compare_embeddings(lips: Tensor, sound: Tensor, counted: ArrayLike | None = None) -> Match:
    """Compare embeddings (S, E) of one face and one sound; counted: (S,) frames that count."""
    weight = None if counted is None else torch.from_numpy(np.asarray(counted))[None]
    return Match(compare(lips[None], sound[None], counted=weight)[0, 0].double().numpy())


@cache
def load_expert(path: Path | None = None) -> Expert:
    """Load the expert in the package, or one that `moditalker train sync-expert` wrote.

    Raises UserError if the file is missing, damaged or holds something else.
    """
    path = path or named.find("sync-expert")
    state, description = load_weights(path)
    config = configuration.from_dict(description["config"])
    model = SyncExpert(config.sync_expert, config.speech.width)
    try:
        model.load_state_dict(state)
    except RuntimeError:
        raise UserError(f"{path} does not hold a sync expert; give sync-expert.safetensors") from None
    return Expert(config, model.float().eval().requires_grad_(False), load_speech_encoder(config.speech))


def lower_faces(crops: NDArray[np.uint8], crop: CropConfig, config: SyncExpertConfig) -> Tensor:
    """Cut the expert's input from aligned crops (S, size, size, 3): (S, side, side) grey, 0 to 1."""
    left = (crop.size - config.extent) // 2
    part = crops[:, config.top : config.top + config.extent, left : left + config.extent]
    return F.adaptive_avg_pool2d(grey(part), config.side)


def grey(pictures: NDArray[np.uint8]) -> Tensor:
    """Luma of pictures (S, H, W, 3) uint8: (S, H, W), 0 to 1."""
    return torch.from_numpy(pictures.astype(np.float32) @ LUMA)
