"""The loop, the batches, and that the video tasks learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moditalker.config import Config, TrainingConfig, load
from moditalker.data import VideoClip, VideoClips, augment_clip
from moditalker.training.autoencoder import AutoencoderTask
from moditalker.training.loop import fit, learning_rate
from moditalker.training.mtov import MToVTask


class Line:
    """Fits y = 3 x by two noisy numbers a step; dropout makes chance part of the step."""

    name = "line"

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.2), nn.Linear(8, 1))

    def batch(self, rng: np.random.Generator) -> Tensor:
        return torch.from_numpy(rng.normal(size=(4, 1))).float()

    def loss(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        noise = torch.randn(batch.shape, generator=generator)
        return (self.model(batch) - 3 * batch - 0.01 * noise).square().mean(), {}

    def validate(self) -> dict[str, float]:
        x = torch.linspace(-1, 1, 9)[:, None]
        return {"error": float((self.model(x) - 3 * x).square().mean())}

    def preview(self) -> None:
        return None


def quiet(_: str) -> None:
    pass


def test_ten_steps_are_five_and_five_resumed(tmp_path: Path) -> None:
    config = TrainingConfig(steps=10, learning_rate=0.01, warmup=1, validate_every=5, ema=0.9)
    whole, halves = Line(), Line()
    fit(whole, config, tmp_path / "whole", quiet)
    fit(halves, replace(config, steps=5), tmp_path / "halves", quiet)
    halves = Line()
    fit(halves, config, tmp_path / "halves", quiet)
    for a, b in zip(whole.model.parameters(), halves.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_loop_learns_and_leaves_a_log(tmp_path: Path) -> None:
    config = TrainingConfig(
        steps=400, learning_rate=0.02, schedule="cosine", warmup=10, validate_every=100, ema=0.95
    )
    lines: list[str] = []
    figures = fit(Line(), config, tmp_path, lines.append)
    assert figures["error"] < 0.1
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 400
    assert len(lines) == 4
    assert not list(tmp_path.glob("*.part"))


def test_schedules() -> None:
    config = TrainingConfig(steps=1000, learning_rate=1.0, warmup=100, schedule="cosine")
    assert learning_rate(config, 0) == pytest.approx(0.01)
    assert learning_rate(config, 1000) == pytest.approx(0.02)
    assert learning_rate(replace(config, schedule="constant"), 900) == 1.0


def clips(config: Config, count: int = 2) -> VideoClips:
    """Moving gradients with landmarks on them."""
    made = []
    y, x = np.mgrid[:128, :128]
    for i in range(count):
        phase = np.arange(20)[:, None, None]
        grey = 127 + 60 * np.sin((x + y) / 20 + phase / 3 + i) + 40 * np.cos(y / 9 - i)
        crops = np.repeat(grey[..., None], 3, axis=-1).clip(0, 255).astype(np.uint8)
        angle = np.linspace(0, 2 * np.pi, 68)
        points = np.stack([64 + 30 * np.cos(angle), 90 + 20 * np.sin(angle)], axis=-1)
        made.append(
            VideoClip(f"p{i}_c", f"p{i}", crops, np.repeat(points[None], 20, axis=0).astype(np.float32))
        )
    return VideoClips(made, config.crop, config.autoencoder)


def small() -> Config:
    config = load("tiny")
    training = replace(config.mtov_training, steps=6, batch=1, warmup=1, validate_every=6)
    return replace(
        config,
        autoencoder=replace(config.autoencoder, dim=32, head_dim=8, encoder_layers=1, decoder_layers=1),
        mtov=replace(config.mtov, channels=32, blocks=1),
        autoencoder_training=training,
        mtov_training=training,
    )


def test_video_tasks_run_one_after_the_other(tmp_path: Path) -> None:
    config = small()
    data = clips(config)
    first = AutoencoderTask(config, data, data)
    figures = fit(first, config.autoencoder_training, tmp_path / "autoencoder", quiet)
    assert {"p0", "p0_still", "p0_copy"} <= figures.keys()
    task = MToVTask(config, data, data, tmp_path / "autoencoder")
    frozen = [p.clone() for p in task.model.autoencoder.encoder.parameters()]
    figures = fit(task, config.mtov_training, tmp_path / "mtov", quiet)
    assert {"p0", "p0_still", "p0_true"} <= figures.keys()
    assert all(np.isfinite(value) for value in figures.values())
    assert all(
        torch.equal(a, b) for a, b in zip(frozen, task.model.autoencoder.encoder.parameters(), strict=True)
    )


def test_batches_are_a_function_of_the_seed() -> None:
    config = small()
    data = clips(config)
    a, b, c = (data.batch(2, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(a.video, b.video)
    assert torch.equal(a.landmarks, b.landmarks)
    assert not torch.equal(a.video, c.video)
    assert a.video.shape == (2, 3, 16, 72, 128)
    assert a.pose.shape == a.video.shape


def test_augmentation_moves_landmarks_with_the_picture() -> None:
    """White squares at landmarks are still under them afterwards."""
    rng = np.random.default_rng(5)
    points = torch.from_numpy(rng.uniform(40, 88, size=(1, 68, 2))).float().round()
    crops = torch.full((1, 3, 128, 128), -1.0)
    for x, y in points[0].int().tolist():
        crops[0, :, y - 1 : y + 2, x - 1 : x + 2] = 1
    for seed in range(4):
        moved, where = augment_clip(crops, points, np.random.default_rng(seed))
        x, y = where[0].round().int().unbind(-1)
        inside = (x >= 0) & (x < 128) & (y >= 0) & (y < 128)
        assert moved[0, 0, y[inside], x[inside]].mean() > moved[0, 0].mean() + 0.5
