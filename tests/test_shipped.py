"""The shipped weights say and show what they are given; random numbers in their place are noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_wav
from standins import ASTRONAUT
from torch import nn

from moditalker import MoDiTalker
from moditalker.media import AudioReader
from moditalker.metrics.psnr import psnr
from moditalker.metrics.sync_expert import load_expert
from moditalker.weights.named import ASSETS, MODELS

pytestmark = pytest.mark.skipif(
    not (MODELS / "tiny" / "atom.safetensors").is_file(), reason="this checkout has no weights"
)
SECONDS = 2.4


@pytest.fixture
def talker() -> MoDiTalker:
    """With MToV's own picture: nothing that the source knows is put over it."""
    plain = ["compose.enabled=false", "mtov.texture=false", "mtov.teeth=0"]
    return MoDiTalker.from_pretrained("tiny", overrides=plain)


@pytest.fixture(scope="module")
def sentence() -> np.ndarray:
    return AudioReader(ASSETS / "demo_speech.flac").read(SECONDS)


def randomise(model: nn.Module) -> None:
    """Random numbers as large as the weights were."""
    generator = torch.Generator().manual_seed(0)
    for weights in model.parameters():
        spread = weights.std() if weights.numel() > 1 else weights.abs()
        weights.data = torch.randn(weights.shape, generator=generator) * spread


def lips_follow(talker: MoDiTalker, sentence: np.ndarray, folder: Path) -> bool:
    """Whether the judge of lip sync prefers the sentence that was given to another one, by far."""
    face = talker.face(ASTRONAUT, SECONDS, head="still", blink=0.0)
    motion = talker.motion(talker.speech(write_wav(folder / "speech.wav", sentence)), face)
    frames = np.stack([image for _, image in talker.video(face, motion)])
    landmarks = np.stack([item.landmarks for item in face if item.landmarks is not None])
    given = load_expert().match(frames, landmarks, sentence)
    other = load_expert().match(frames, landmarks, np.roll(sentence, len(sentence) // 2))
    return given.match > 0.9 > 0.1 > other.match


def likeness(talker: MoDiTalker) -> float:
    """PSNR of the portrait's own lower face as MToV makes it, alone."""
    anchor = talker.face(ASTRONAUT, 0.8, head="still", blink=0.0).anchor
    frame = anchor.crop, anchor.landmarks, anchor.landmarks
    made = torch.stack(list(talker.sampler([frame] * 8, anchor)))
    shown = (127.5 * (made.clamp(-1, 1) + 1)).permute(0, 2, 3, 1).numpy()
    return psnr(shown, np.stack([anchor.crop[talker.config.crop.region_top :]] * 8))


def test_lips_follow_the_shipped_motion_and_no_random_one(talker, sentence, tmp_path) -> None:
    assert lips_follow(talker, sentence, tmp_path)
    randomise(talker.atom)
    assert not lips_follow(talker, sentence, tmp_path)


def test_the_shipped_picture_is_the_persons_and_no_random_one(talker) -> None:
    assert likeness(talker) > 32
    randomise(talker.sampler.model)
    assert likeness(talker) < 29
