"""In place of trained weights: real networks at small size, and a video stage that is no network."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch

from moditalker import config as configuration
from moditalker.features.face.tracker import FaceTracker
from moditalker.features.speech.encoders import SpeechEncoder, load_speech_encoder
from moditalker.geometry.looks import Identity
from moditalker.motion.atom import Atom
from moditalker.talker.talker import MoDiTalker
from moditalker.video.model import VideoModel
from moditalker.weights.files import save_weights

ASTRONAUT = Path(skimage.__file__).parent / "data" / "astronaut.png"
SHARED = Path(os.environ.get("MODITALKER_SHARED", Path(__file__).parents[2] / "shared"))
needs_grid = pytest.mark.skipif(
    not (SHARED / "data" / "grid").is_dir(), reason="the GRID clips are not here (MODITALKER_SHARED)"
)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def grid_clip(name: str = "s1/bbaf2n") -> Path:
    return SHARED / "data" / "grid" / f"{name}.mpg"


class PaintedMouth:
    """A video stage without weights: the identity's region, its brightness telling the mouth's opening."""

    def __init__(self, region_top: int, ahead: int = 16) -> None:
        self.region_top, self.ahead = region_top, ahead
        self.identities: list[np.ndarray] = []

    def __call__(
        self,
        frames: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
        identity: Identity,
        seed: int = 0,
        steps: int | None = None,
    ) -> Iterator[torch.Tensor]:
        self.identities.append(identity.crop)
        waiting: list[np.ndarray] = []
        for crop, landmarks, own in frames:
            assert crop.shape == identity.crop.shape
            assert landmarks.shape == own.shape == identity.landmarks.shape == (68, 2)
            waiting.append(landmarks)
            if len(waiting) == self.ahead:
                yield from (self.region(identity.crop, points, seed) for points in waiting)
                waiting = []
        yield from (self.region(identity.crop, points, seed) for points in waiting)

    def region(self, crop: np.ndarray, landmarks: np.ndarray, seed: int) -> torch.Tensor:
        picture = torch.from_numpy(crop[self.region_top :].copy()).permute(2, 0, 1) / 127.5 - 1
        gap = float(np.linalg.norm(landmarks[62] - landmarks[66]))
        return (picture + 0.05 * gap + 0.01 * seed).clamp(-1, 1)


def small_config() -> configuration.Config:
    """The preset `tiny` with networks that are smaller still."""
    config = configuration.load("tiny", overrides=["compose.enabled=false"])
    return configuration.check(
        replace(
            config,
            atom=replace(config.atom, width=32, layers=1, heads=2, feed_forward=32, frames=32, overlap=8),
            atom_diffusion=replace(config.atom_diffusion, sampling_steps=2, clip=0.3),
            autoencoder=replace(
                config.autoencoder, dim=32, heads=2, head_dim=16, encoder_layers=1, decoder_layers=1
            ),
            mtov=replace(config.mtov, channels=32, multipliers=(1,), blocks=1, attention=(1,)),
            mtov_diffusion=replace(config.mtov_diffusion, sampling_steps=1),
        )
    )


def live_config() -> configuration.Config:
    """The preset `live` with a smaller AToM."""
    settings = (
        "width=32",
        "layers=1",
        "heads=2",
        "feed_forward=32",
        "first_estimate=16",
        "estimate_layers=2",
    )
    return configuration.load("live", overrides=[f"atom.{setting}" for setting in settings])


def untrained_atom(config: configuration.Config) -> Atom:
    torch.manual_seed(0)
    return Atom(config.atom, config.speech.width).eval().requires_grad_(False)


def save_untrained(folder: Path) -> Path:
    """Whole weights of `small_config`, as a folder."""
    config = small_config()
    tree = configuration.to_dict(config)
    atom = untrained_atom(config)
    save_weights(folder / "atom.safetensors", atom.state_dict(), tree)
    save_weights(folder / "mtov.safetensors", VideoModel(config).state_dict(), tree)
    return folder


@cache
def _parts() -> tuple[configuration.Config, SpeechEncoder, FaceTracker, Atom]:
    config = small_config()
    return config, load_speech_encoder(config.speech), FaceTracker(), untrained_atom(config)


def talker() -> MoDiTalker:
    """Real features and an untrained small AToM, with a painted mouth."""
    config, speech, tracker, atom = _parts()
    return MoDiTalker(config, speech, tracker, atom, PaintedMouth(config.crop.region_top), "untrained")


def live_talker() -> MoDiTalker:
    """Real features with little look-ahead, a small AToM that moves the lips by chance, real composing."""
    config = live_config()
    atom = untrained_atom(config)
    assert atom.first_estimate is not None
    with torch.no_grad():
        torch.nn.init.normal_(atom.first_estimate.map.weight, std=0.5)
    sampler = PaintedMouth(config.crop.region_top)
    return MoDiTalker(config, load_speech_encoder(config.speech), FaceTracker(), atom, sampler, "untrained")
