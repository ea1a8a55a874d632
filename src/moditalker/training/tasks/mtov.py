"""Task ``mtov``: diffusion over the planes (Eq. 6), with the condition encoders and, for ``warp``, decoder.

Besides Eq. 6, predicted planes are decoded and compared in pixels [ours]. Some directions of planes cannot
be predicted, and others decide the picture; a loss on pixels tells them apart.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moditalker.config import Config, TrainingConfig
from moditalker.data.clips import VideoBatch, VideoClips, collate
from moditalker.diffusion.process import Diffusion, draw_noise, generators
from moditalker.training.run import trained_weights
from moditalker.training.tasks.autoencoder import (
    PixelLoss,
    beside,
    face_psnr,
    mean_psnr,
    sheet,
    validation_items,
)
from moditalker.video.autoencoder import still_clip
from moditalker.video.model import Conditions, VideoModel
from moditalker.weights.files import fill


class MToVTask:
    """Predict the planes of clips from landmarks, pose frames and the identity frame.

    Args:
        autoencoder: run folder of task ``autoencoder``, whose weights are used; without one, give the model
            weights before it trains.
        landmark_autoencoder: run folder of task ``landmark-autoencoder``, from which E_L starts; both need
            equally many layers.
    Raises:
        UserError: a run folder holds no whole checkpoint, or one of another size.
    """

    name = "mtov"

    def __init__(
        self,
        config: Config,
        train: VideoClips,
        held_out: VideoClips,
        autoencoder: Path | None = None,
        landmark_autoencoder: Path | None = None,
    ) -> None:
        self.config, self.train = config, train
        self.pixel_loss = PixelLoss(config.pixel_loss)
        self.diffusion = Diffusion(config.mtov_diffusion)
        self.model = VideoModel(config)
        if autoencoder is not None:
            fill(self.model.autoencoder, trained_weights(autoencoder), autoencoder)
        if landmark_autoencoder is not None:
            encoder = {
                name.removeprefix("encoder."): value
                for name, value in trained_weights(landmark_autoencoder).items()
                if name.startswith("encoder.")
            }
            fill(self.model.landmark_encoder, encoder, landmark_autoencoder)
        self.model.autoencoder.encoder.requires_grad_(False)
        if config.autoencoder.decoder == "pixels":
            self.model.autoencoder.requires_grad_(False)
        self.held_out = {name: collate(items) for name, items in validation_items(held_out, 4).items()}
        if config.mtov.normalise and autoencoder is not None:
            self.model.plane_scale.copy_(self._plane_scale())

    @torch.no_grad()
    def _plane_scale(self, batches: int = 12) -> Tensor:
        """Root mean square of each channel and plane, repeated over its cells: (C, L)."""
        squares = []
        for i in range(batches):
            batch = self.train.batch(4, np.random.default_rng((self.training.seed, i)))
            squares.append(
                self.model.autoencoder.encode(batch.video, batch.identity).square().mean(0, keepdim=True)
            )
        shape = self.model.unet.shape
        planes = shape.split(torch.stack(squares).mean(0))
        return shape.join(plane.mean(dim=(-1, -2), keepdim=True).expand_as(plane) for plane in planes)[
            0
        ].sqrt()

    @property
    def training(self) -> TrainingConfig:
        """The section of the config for its training."""
        return self.config.mtov_training

    def batch(self, rng: np.random.Generator) -> VideoBatch:
        batch = self.train.batch(self.training.batch, rng)
        shape = batch.landmarks.shape
        steady, free = rng.normal(size=(shape[0], 1, *shape[2:])), rng.normal(size=shape)
        noise = self.config.mtov_loss.landmark_noise * (0.8 * steady + 0.6 * free)
        return replace(batch, landmarks=batch.landmarks + torch.from_numpy(noise).float())

    def loss(self, batch: VideoBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        weights, conditions = self.config.mtov_loss, self.conditions(batch)
        z = torch.zeros_like(conditions.identity)
        if weights.planes or weights.last_step < 1:  # else all is noise, as at the start of sampling
            with torch.no_grad():
                z = self.model.autoencoder.encode(batch.video, batch.identity)
        z0 = self.model.normalise(z)
        t = self.diffusion.draw_timesteps(len(z), generator, weights.last_step)
        noise = torch.randn(z.shape, generator=generator).to(z)
        zt = self.diffusion.add_noise(z0, noise, t)
        predicted = self.model.predict(zt, t, conditions)
        planes = self.diffusion.loss(predicted, z0, noise)  # Eq. 6
        loss, terms = weights.planes * planes, {"planes": planes.item()} if weights.planes else {}
        if weights.pixels:
            clean = self.model.restore(self.diffusion.predicted_x0(predicted, zt, t))
            output = self.model.decode(clean, conditions)
            pixels = self.pixel_loss(output, batch.video, batch.landmarks, generator)
            loss, terms = loss + weights.pixels * pixels, terms | {"pixels": pixels.item()}
        return loss, terms

    def score(self, figures: dict[str, float]) -> float:
        return mean_psnr(figures, self.held_out)

    def preview(self) -> NDArray[np.uint8]:
        batch = beside(self.model, next(iter(self.held_out.values())))
        return sheet(self.made(batch), batch)

    def made(self, batch: VideoBatch) -> Tensor:
        """Make clips (B, 3, S, H, W) from a batch's conditions."""
        conditions = self.conditions(batch)
        return self.model.decode(self.model.restore(self.sampled(conditions)), conditions)

    def conditions(self, batch: VideoBatch) -> Conditions:
        return self.model.conditions(batch.pose, batch.identity_pose, *batch.conditions, speech=batch.speech)

    def sampled(self, conditions: Conditions) -> Tensor:
        noise = draw_noise(conditions.identity.shape, generators(0, len(conditions.identity)))
        return self.diffusion.sample(
            partial(self.model.predict, conditions=conditions), noise.to(conditions.identity.device)
        )

    def validate(self) -> dict[str, float]:
        """PSNR of the face by speaker; planes from diffusion, from the identity alone, from the true clip."""
        figures = {}
        for name, batch in self.held_out.items():
            batch = beside(self.model, batch)
            conditions = self.conditions(batch)
            z = self.model.autoencoder.encode(batch.video, batch.identity)
            sampled = self.sampled(conditions)
            still = self.model.autoencoder.encode(
                still_clip(batch.identity, batch.video.shape[2]), batch.identity
            )
            planes = {"": self.model.restore(sampled), "_still": still, "_true": z}
            for kind, value in planes.items():
                figures[name + kind] = float(face_psnr(self.model.decode(value, conditions), batch))
        return figures
