"""Task ``autoencoder``: the tri-plane autoencoder (Eq. 5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from moditalker.config import Config, PixelLossConfig
from moditalker.data.clips import VideoBatch, VideoClips, collate
from moditalker.geometry.points import LIP_RELATED, MOUTH
from moditalker.metrics.lpips import load_lpips
from moditalker.training.loop import to_device
from moditalker.video.autoencoder import Autoencoder, psnr, reconstruction_loss, still_clip
from moditalker.video.warp import affinity, landmark_frames, mouth_interior

WEIGHT_STEP = 4  # pixels between the nodes at which weights are computed


def face_weight(landmarks: Tensor, height: int, width: int, config: PixelLossConfig) -> Tensor:
    """Loss weights of the pixels of clips: (B, S, 68, 2) -> (B, 1, S, height, width)."""
    rows, columns = height // WEIGHT_STEP, width // WEIGHT_STEP
    scale = width / 128  # lengths below are pixels of a crop of 128

    def near(points: NDArray[np.int_], reach: float) -> Tensor:
        return affinity(landmarks[..., list(points), :], (rows, columns), WEIGHT_STEP, reach * scale).amax(-1)

    face, mouth = near(LIP_RELATED, 7.0), near(MOUTH, 5.0)
    weight = config.outside + (1 - config.outside) * face + (config.mouth - 1) * mouth
    b, s = landmarks.shape[:2]
    weight = weight.reshape(b * s, 1, rows, columns)
    weight = F.interpolate(weight, size=(height, width), mode="bilinear", align_corners=False)
    weight = weight + config.interior * mouth_interior(landmarks.flatten(0, 1), height, width)
    return weight.reshape(b, 1, s, height, width)


def validation_items(clips: VideoClips, per_speaker: int, offset: int = 24) -> dict[str, list[VideoBatch]]:
    """Return the same few clips each time, by speaker; x_id is the first frame, far from the clip's start."""
    items: dict[str, list[VideoBatch]] = {}
    for clip in clips.clips:
        group = items.setdefault(clip.speaker, [])
        if len(group) < per_speaker:
            group.append(clips.item(clip, min(offset, len(clip.crops) - clips.frames), 0))
    return items


FACE = PixelLossConfig(mouth=3.0, interior=4.0, outside=0.08)  # weights of the face in figures


def face_psnr(output: Tensor, batch: VideoBatch) -> Tensor:
    """PSNR over the pixels of the face."""
    height, width = output.shape[-2:]
    weight = face_weight(batch.landmarks, height, width, FACE)
    return psnr(output, batch.video, (weight > 0.5).float())


class PixelLoss:
    """Eq. 5 with the config's weights: decoded clips against real ones.

    Raises:
        UserError: LPIPS is in the loss, but its weights are missing.
    """

    def __init__(self, config: PixelLossConfig) -> None:
        self.config = config
        self.perceptual = load_lpips() if config.lpips else None

    def __call__(
        self, output: Tensor, target: Tensor, landmarks: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """(B, 3, S, H, W) each, landmarks (B, S, 68, 2) in pixels or None for weights of one -> a scalar."""
        weight = None
        if landmarks is not None:
            height, width = output.shape[-2:]
            weight = face_weight(landmarks, height, width, self.config)
        loss = self.config.l1 * reconstruction_loss(output, target, weight, self.config.gradient)
        if self.perceptual is None:
            return loss
        if weight is not None:  # ignore what paste-back does not show
            output = torch.lerp(target, output, weight.clamp(max=1))
        frames = torch.arange(output.shape[2])
        if self.config.lpips_frames:
            frames = torch.randperm(len(frames), generator=generator)[: self.config.lpips_frames]
        pictures = (clip[:, :, frames].transpose(1, 2).flatten(0, 1) for clip in (output, target))
        result: Tensor = loss + self.config.lpips * self.perceptual.to(output.device)(*pictures).mean()
        return result


def sheet(output: Tensor, batch: VideoBatch, frames: int = 6) -> NDArray[np.uint8]:
    """Draw the first clip: x_id and some frames, real above made, (2 H, (1 + frames) W, 3)."""
    shown = np.linspace(0, output.shape[2] - 1, frames).round().astype(int)
    rows = [
        torch.cat([batch.identity[0], *clip[0][:, shown].unbind(1)], dim=-1) for clip in (batch.video, output)
    ]
    picture = (torch.cat(rows, dim=1).clamp(-1, 1) + 1) * 127.5
    return picture.permute(1, 2, 0).round().byte().cpu().numpy()


def beside(model: nn.Module, batch: VideoBatch) -> VideoBatch:
    """Move a batch to the model's device."""
    moved: VideoBatch = to_device(batch, next(model.parameters()).device)
    return moved


def mean_psnr(figures: dict[str, float], speakers: Iterable[str]) -> float:
    """Average the speakers' figures without a suffix."""
    return float(np.mean([figures[name] for name in speakers]))


class AutoencoderTask:
    """Reconstruct clips through their planes; noise on the planes makes the decoder robust."""

    name = "autoencoder"

    def __init__(self, config: Config, train: VideoClips, held_out: VideoClips) -> None:
        self.config, self.train = config, train
        self.model = Autoencoder(config.autoencoder)
        self.pixel_loss = PixelLoss(config.pixel_loss)
        self.held_out = {name: collate(items) for name, items in validation_items(held_out, 4).items()}

    def batch(self, rng: np.random.Generator) -> VideoBatch:
        return self.train.batch(self.config.autoencoder_training.batch, rng)

    def loss(self, batch: VideoBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        z = self._noisy(batch, generator)
        output = self.model.decode(z, *self._conditions(self._hide_landmarks(batch, generator)))
        return self.pixel_loss(output, batch.video, batch.landmarks, generator), {}

    def score(self, figures: dict[str, float]) -> float:
        return mean_psnr(figures, self.held_out)

    def _noisy(self, batch: VideoBatch, generator: torch.Generator) -> Tensor:
        z = self.model.encode(batch.video, batch.identity)
        return z + self.config.pixel_loss.plane_noise * torch.randn(z.shape, generator=generator).to(z)

    def _hide_landmarks(self, batch: VideoBatch, generator: torch.Generator) -> VideoBatch:
        """Give some clips the identity's landmarks on every frame, so their planes must carry the motion."""
        share = self.config.pixel_loss.hidden_landmarks
        hidden = (torch.rand(len(batch.video), 1, 1, 1, generator=generator) < share).to(batch.video.device)
        return replace(
            batch, landmarks=torch.where(hidden, batch.identity_landmarks[:, None], batch.landmarks)
        )

    def validate(self) -> dict[str, float]:
        figures = {}
        for name, batch in self.held_out.items():
            batch = beside(self.model, batch)
            still = still_clip(batch.identity, batch.video.shape[2])
            z, z_still = (self.model.encode(video, batch.identity) for video in (batch.video, still))
            figures[name] = float(face_psnr(self.model.decode(z, *self._conditions(batch)), batch))
            figures[f"{name}_still"] = float(
                face_psnr(self.model.decode(z_still, *self._conditions(batch)), batch)
            )
            figures[f"{name}_copy"] = float(face_psnr(still, batch))
        return figures

    def preview(self) -> NDArray[np.uint8]:
        batch = beside(self.model, next(iter(self.held_out.values())))
        z = self.model.encode(batch.video, batch.identity)
        return sheet(self.model.decode(z, *self._conditions(batch)), batch)

    def _conditions(self, batch: VideoBatch) -> tuple[Tensor, ...]:
        return batch.conditions if self.config.autoencoder.decoder == "warp" else ()


class LandmarkAutoencoderTask(AutoencoderTask):
    """The same for landmark frames, whose encoder E_L can start MToV's [paper, released code]."""

    name = "landmark-autoencoder"

    def __init__(self, config: Config, train: VideoClips, held_out: VideoClips) -> None:
        self.style = config.mtov.landmark_frames
        plain = replace(config.autoencoder, decoder="pixels")
        super().__init__(replace(config, autoencoder=plain), train, held_out)
        self.held_out = {name: self._drawn(batch) for name, batch in self.held_out.items()}

    def batch(self, rng: np.random.Generator) -> VideoBatch:
        return self._drawn(super().batch(rng))

    def loss(self, batch: VideoBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        output = self.model.decode(self._noisy(batch, generator))
        return self.pixel_loss(output, batch.video, None, generator), {}

    def _drawn(self, batch: VideoBatch) -> VideoBatch:
        every = torch.cat([batch.landmarks, batch.identity_landmarks[:, None]], dim=1)
        height, width = batch.video.shape[-2:]
        drawn = landmark_frames(every, height, width, self.style)
        return replace(batch, video=drawn[:, :, :-1], identity=drawn[:, :, -1])
