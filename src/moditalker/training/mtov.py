"""Task ``mtov``: diffusion over the planes (Eq. 6), with the condition encoders and, for ``warp``, the
decoder.

Beside Eq. 6 the predicted planes are decoded and compared in pixels [ours]: planes made only to reconstruct
have directions that cannot be predicted and others that decide the picture, and pixels tell which.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moditalker.config import Config
from moditalker.data import VideoBatch, VideoClips, collate
from moditalker.diffusion import Diffusion, draw_noise, generators
from moditalker.errors import UserError
from moditalker.training.autoencoder import face_psnr, face_weight, sheet, validation_items
from moditalker.video.autoencoder import reconstruction_loss, still_clip
from moditalker.video.model import Conditions, VideoModel

PIXELS = 1.0  # weight of the pixel loss
PLANES = 0.05  # weight of Eq. 6 beside it
FIRST_STEP = 0.6  # share of samples trained at t = T - 1, where sampling starts
LANDMARK_NOISE = 0.35  # pixels: detected and generated landmarks are not exact


class MToVTask:
    """Predict the planes of clips from landmarks, pose frames and the identity frame.

    Args:
        autoencoder: run folder of task ``autoencoder`` (its averaged weights are taken).
        landmark_autoencoder: run folder of task ``landmark-autoencoder``, from which E_L starts; it
            needs as many layers as E_L.
    """

    name = "mtov"

    def __init__(
        self,
        config: Config,
        train: VideoClips,
        held_out: VideoClips,
        autoencoder: Path,
        landmark_autoencoder: Path | None = None,
    ) -> None:
        self.config, self.train = config, train
        self.diffusion = Diffusion(config.mtov_diffusion)
        self.model = VideoModel(config)
        self.model.autoencoder.load_state_dict(averaged(autoencoder))
        if landmark_autoencoder is not None:
            encoder = {
                name.removeprefix("encoder."): value
                for name, value in averaged(landmark_autoencoder).items()
                if name.startswith("encoder.")
            }
            self.model.landmark_encoder.load_state_dict(encoder)
        self.model.autoencoder.encoder.requires_grad_(False)
        if config.autoencoder.decoder == "pixels":
            self.model.autoencoder.requires_grad_(False)
        self.held_out = {name: collate(items) for name, items in validation_items(held_out, 4).items()}
        if config.mtov.normalise:
            self.model.plane_scale.copy_(self._plane_scale())

    @torch.no_grad()
    def _plane_scale(self, batches: int = 12) -> Tensor:
        """Root mean square of the planes, a number per channel and plane, spread over the cells: (C, L)."""
        squares = []
        for i in range(batches):
            batch = self.train.batch(4, np.random.default_rng((self.config.mtov_training.seed, i)))
            squares.append(
                self.model.autoencoder.encode(batch.video, batch.identity).square().mean(0, keepdim=True)
            )
        shape = self.model.unet.shape
        planes = shape.split(torch.stack(squares).mean(0))
        return shape.join(plane.mean(dim=(-1, -2), keepdim=True).expand_as(plane) for plane in planes)[
            0
        ].sqrt()

    def batch(self, rng: np.random.Generator) -> VideoBatch:
        batch = self.train.batch(self.config.mtov_training.batch, rng)
        shape = batch.landmarks.shape
        steady, free = rng.normal(size=(shape[0], 1, *shape[2:])), rng.normal(size=shape)
        noise = torch.from_numpy(LANDMARK_NOISE * (0.8 * steady + 0.6 * free)).float()
        return replace(batch, landmarks=batch.landmarks + noise)

    def loss(self, batch: VideoBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            z = self.model.autoencoder.encode(batch.video, batch.identity)
        conditions = self._conditions(batch)
        z0 = self.model.normalise(z)
        t = self.diffusion.draw_timesteps(len(z), generator, FIRST_STEP)
        noise = torch.randn(z.shape, generator=generator).to(z)
        zt = self.diffusion.add_noise(z0, noise, t)
        predicted = self.model.predict(zt, t, conditions)
        planes = (predicted - z0).square().mean()  # Eq. 6
        output = self.model.decode(self.model.restore(predicted), conditions)
        pixels = reconstruction_loss(output, batch.video, face_weight(batch.landmarks, *output.shape[-2:]))
        return PIXELS * pixels + PLANES * planes, {"planes": planes.item(), "pixels": pixels.item()}

    def preview(self) -> NDArray[np.uint8]:
        batch = next(iter(self.held_out.values()))
        conditions = self._conditions(batch)
        return sheet(self.model.decode(self.model.restore(self._sampled(conditions)), conditions), batch)

    def _conditions(self, batch: VideoBatch) -> Conditions:
        return self.model.conditions(batch.pose, batch.identity_pose, *batch.conditions)

    def _sampled(self, conditions: Conditions) -> Tensor:
        noise = draw_noise(conditions.identity.shape, generators(0, len(conditions.identity)))
        return self.diffusion.sample(
            partial(self.model.predict, conditions=conditions), noise.to(conditions.identity.device)
        )

    def validate(self) -> dict[str, float]:
        """PSNR of the face by speaker: planes from diffusion, of the identity alone, of the true clip."""
        figures = {}
        for name, batch in self.held_out.items():
            conditions = self._conditions(batch)
            z = self.model.autoencoder.encode(batch.video, batch.identity)
            sampled = self._sampled(conditions)
            still = self.model.autoencoder.encode(
                still_clip(batch.identity, batch.video.shape[2]), batch.identity
            )
            planes = {"": self.model.restore(sampled), "_still": still, "_true": z}
            for kind, value in planes.items():
                figures[name + kind] = float(face_psnr(self.model.decode(value, conditions), batch))
        return figures


def averaged(run: Path) -> dict[str, Tensor]:
    """The averaged weights of a run folder.

    Raises:
        UserError: it holds no run, or a damaged one.
    """
    try:
        state: dict[str, Tensor] = torch.load(run / "last.pt", weights_only=True, map_location="cpu")[
            "average"
        ]
    except (OSError, EOFError, RuntimeError, KeyError, UnpicklingError) as error:
        raise UserError(f"{run}: holds no checkpoint of a run ({error}); train that part first") from error
    return state
