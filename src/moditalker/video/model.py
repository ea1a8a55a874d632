"""The video stage as one module: autoencoder, condition encoders and UNet (paper section 3, Fig. 1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from moditalker.config import Config
from moditalker.video.autoencoder import Autoencoder, Encoder, plane_shape
from moditalker.video.mtov import MToV
from moditalker.video.texture import SHAPE
from moditalker.video.warp import landmark_frames


@dataclass(frozen=True)
class Stills:
    """The identity's codes: planes Z_I (B, C, L), and the planes that ``residual`` subtracts from
    landmark and pose planes, as the autoencoder does.
    """

    identity: Tensor
    landmark: Tensor | None = None
    pose: Tensor | None = None


@dataclass(frozen=True)
class Conditions:
    """Conditions of a clip: planes Z_L, Z_P, Z_I (B, C, L), and other inputs of the ``warp`` decoder."""

    landmark: Tensor
    pose: Tensor
    identity: Tensor
    decoder: tuple[Tensor, ...]
    speech: Tensor | None = None  # (B, 2S, D) features, if ``mtov.conditions`` has audio


class VideoModel(nn.Module):
    """E_I, E_L, E_P, the UNet and the decoder of Fig. 1.

    Diffusion runs on the planes themselves [paper], or with ``mtov.normalise`` on planes scaled to unit
    variance by ``plane_scale`` (C, L).
    """

    plane_scale: Tensor
    texture_slopes: Tensor  # one person's, if ``mtov.known_texture``: see `video.texture.Texture`
    texture_landmarks: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        shape = plane_shape(config.autoencoder)
        layers = config.mtov.condition_layers or config.autoencoder.encoder_layers
        conditions = replace(config.autoencoder, encoder_layers=layers)
        self.autoencoder = Autoencoder(config.autoencoder)
        self.landmark_encoder = Encoder(conditions)
        self.pose_encoder = Encoder(conditions)
        speech_width = config.speech.width if "audio" in config.mtov.conditions else 0
        self.unet = MToV(config.mtov, shape, config.autoencoder.plane_channels, speech_width)
        self.register_buffer("plane_scale", torch.ones(config.autoencoder.plane_channels, shape.cells))
        if config.mtov.known_texture:
            size = config.autoencoder.height, config.autoencoder.width
            self.register_buffer("texture_slopes", torch.zeros(SHAPE, 3, *size))
            self.register_buffer("texture_landmarks", torch.zeros(1, 68, 2))

    def conditions(
        self,
        pose: Tensor,
        identity_pose: Tensor,
        identity: Tensor,
        landmarks: Tensor,
        identity_landmarks: Tensor,
        speech: Tensor | None = None,
        stills: Stills | None = None,
    ) -> Conditions:
        """Encode the conditions of a clip.

        Args:
            pose: (B, 3, S, H, W) pose frames X_P in [-1, 1].
            identity_pose: (B, 3, 1, H, W) the pose frame of x_id.
            identity: (B, 3, H, W) x_id.
            landmarks: (B, S, 68, 2) in pixels of the region.
            identity_landmarks: (B, 68, 2).
            speech: (B, 2S, D) features; unused unless ``mtov.conditions`` has audio.
            stills: `stills` of the identity, if they are known already.

        What ``mtov.conditions`` does not name becomes planes of zeros.
        """
        if stills is None:
            stills = self.stills(identity, identity_pose, identity_landmarks)
        drawn = self._drawn(landmarks)
        warp = self.config.autoencoder.decoder == "warp"
        known = self.config.mtov.conditions
        nothing = torch.zeros_like(stills.identity)
        return Conditions(
            landmark=self.landmark_encoder(drawn, stills.landmark) if "landmarks" in known else nothing,
            pose=self.pose_encoder(pose, stills.pose) if "pose" in known else nothing,
            identity=stills.identity if "identity" in known else nothing,
            decoder=(identity, landmarks, identity_landmarks) if warp else (),
            speech=speech if "audio" in known else None,
        )

    def stills(self, identity: Tensor, identity_pose: Tensor, identity_landmarks: Tensor) -> Stills:
        """Encode the identity alone; arguments as of :meth:`conditions`."""
        with torch.no_grad():
            planes = self.autoencoder.encode_still(identity)
        if not self.config.autoencoder.residual:
            return Stills(planes)
        known, frames = self.config.mtov.conditions, self.config.autoencoder.frames
        drawn = self._drawn(identity_landmarks[:, None])
        return Stills(
            planes,
            self.landmark_encoder.raw_still(drawn[:, :, 0], frames) if "landmarks" in known else None,
            self.pose_encoder.raw_still(identity_pose[:, :, 0], frames) if "pose" in known else None,
        )

    def _drawn(self, landmarks: Tensor) -> Tensor:
        """(B, S, 68, 2) -> inputs of the landmark encoder, (B, 3, S, H, W)."""
        size = self.config.autoencoder.height, self.config.autoencoder.width
        return landmark_frames(landmarks, *size, self.config.mtov.landmark_frames)

    def predict(self, zt: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """F_MToV of Eq. 6: noised normalised planes (B, C, L) -> clean ones, or the noise (config)."""
        predicted = self.unet(
            zt, t, conditions.landmark, conditions.pose, conditions.identity, conditions.speech
        )
        if self.config.mtov.first_estimate:
            predicted = predicted + self.normalise(conditions.landmark + conditions.pose)
        return predicted

    def normalise(self, z: Tensor) -> Tensor:
        """Planes -> normalised planes, on which diffusion runs."""
        return z / self.plane_scale

    def restore(self, z0: Tensor) -> Tensor:
        """Inverse of :meth:`normalise`."""
        return z0 * self.plane_scale

    def decode(self, z: Tensor, conditions: Conditions) -> Tensor:
        """Planes (B, C, L) -> (B, 3, S, H, W)."""
        return self.autoencoder.decode(z, *conditions.decoder)


def pose_frames(crops: Tensor, height: int, rows: int) -> Tensor:
    """X_P: the top of the crops, black from row ``rows`` on; (B, 3, S, size, W) -> (B, 3, S, height, W)."""
    frames = crops[..., :height, :].clone()
    frames[..., rows:, :] = -1
    return frames
