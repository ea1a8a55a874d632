"""Task ``distillation``: the video stage in fewer sampling steps (Salimans and Ho, 2022).

The student starts as its teacher and learns to make two of its steps in one. Only the UNet is trained;
encoders and decoder stay the teacher's.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from moditalker.config import Config, TrainingConfig
from moditalker.data.clips import VideoBatch, VideoClips
from moditalker.training.tasks.mtov import MToVTask
from moditalker.video.model import VideoModel
from moditalker.weights.files import fill


class DistillationTask(MToVTask):
    """Distil a video model, given by its state, to ``distillation.steps`` sampling steps.

    Raises:
        UserError: the state is another network's.
    """

    name = "distillation"

    def __init__(
        self, config: Config, train: VideoClips, held_out: VideoClips, teacher: dict[str, Tensor]
    ) -> None:
        few = replace(config.mtov_diffusion, sampling_steps=config.distillation.steps, eta=0.0)
        super().__init__(replace(config, mtov_diffusion=few), train, held_out)
        fill(self.model, teacher, "the model to distil")
        for part in (self.model.autoencoder, self.model.landmark_encoder, self.model.pose_encoder):
            part.requires_grad_(False)
        self.teacher: VideoModel = copy.deepcopy(self.model).eval().requires_grad_(False)

    @property
    def training(self) -> TrainingConfig:
        return self.config.distillation_training

    def loss(self, batch: VideoBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        weights, size = self.config.distillation, len(batch.video)
        teacher = self.teacher.to(batch.video.device)
        with torch.no_grad():
            z0 = teacher.normalise(teacher.autoencoder.encode(batch.video, batch.identity))
            conditions = self.conditions(batch)
        times = self.diffusion.timesteps(weights.steps)
        middles = self.diffusion.timesteps(2 * weights.steps)[1::2]
        chosen = int(torch.randint(weights.steps, (), generator=generator))
        time, middle = times[chosen], middles[chosen]
        following = times[chosen + 1] if chosen + 1 < len(times) else -1
        t = torch.full((size,), time)
        zt = self.diffusion.add_noise(z0, torch.randn(z0.shape, generator=generator).to(z0), t)
        target = self.diffusion.two_steps_in_one(
            partial(teacher.predict, conditions=conditions), zt, time, middle, following
        )
        predicted = self.model.predict(zt, t, conditions)
        predicted = self.diffusion.predicted_x0(predicted, zt, t)
        planes = (predicted - target).square().mean()
        loss, terms = weights.planes * planes, {"planes": planes.item()}
        if weights.pixels:
            shown, meant = (teacher.decode(teacher.restore(z), conditions) for z in (predicted, target))
            pixels = self.pixel_loss(shown, meant, batch.landmarks, generator)
            loss, terms = loss + weights.pixels * pixels, terms | {"pixels": pixels.item()}
        return loss, terms
