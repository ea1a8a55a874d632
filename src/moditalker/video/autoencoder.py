"""The tri-plane autoencoder (paper section 3, Eq. 5): clips <-> planes.

Videos are (B, 3, S, H, W) in [-1, 1], planes (B, C, L) in (-1, 1). Two decoders share everything up to the
last step: ``pixels`` [paper] turns tokens into RGB; ``warp`` [ours] also sees the identity frame and the
landmarks, and returns a warp of that frame plus a residual, so texture is copied, not remembered.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moditalker.config import AutoencoderConfig
from moditalker.video.timesformer import TimeSformer
from moditalker.video.triplane import FromPlanes, PlaneShape, ToPlanes
from moditalker.video.warp import LandmarkTokens, WarpHead


def plane_shape(config: AutoencoderConfig) -> PlaneShape:
    """Cells of the planes of one clip."""
    return PlaneShape(config.frames, config.height // config.patch, config.width // config.patch)


def _transformer(config: AutoencoderConfig, layers: int) -> TimeSformer:
    shape = plane_shape(config)
    return TimeSformer(
        shape.frames,
        shape.height,
        shape.width,
        config.dim,
        layers,
        config.heads,
        config.head_dim,
        config.feed_forward,
    )


def to_patches(video: Tensor, patch: int) -> Tensor:
    """(B, 3, S, H, W) -> (B, S, H/p, W/p, p p 3), each patch flattened as (row, column, channel)."""
    b, c, s, h, w = video.shape
    x = video.reshape(b, c, s, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 3, 5, 4, 6, 1).flatten(4)


RESIDUAL_GAIN = 10.0  # start value: differences to the identity are about a tenth of the planes


class Encoder(nn.Module):
    """E of the paper: a clip -> its planes.

    With ``residual`` on [ours], planes can also be taken against an identity frame: they then carry the
    difference alone, at full scale. Planes of the picture itself differ from the identity's by a few
    hundredths, and a decoder that sees the identity anyway learns to ignore them.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.embed = nn.Linear(3 * config.patch**2, config.dim)
        self.transformer = _transformer(config, config.encoder_layers)
        self.to_planes = ToPlanes(
            plane_shape(config),
            config.dim,
            config.plane_channels,
            config.collapse,
            config.collapse_layers,
            config.collapse_heads,
            config.collapse_feed_forward,
        )
        self.gain = (
            nn.Parameter(torch.full((config.plane_channels, 1), RESIDUAL_GAIN)) if config.residual else None
        )

    def raw(self, video: Tensor) -> Tensor:
        """(B, 3, S, H, W) in [-1, 1] -> (B, C, L), unbounded."""
        x = self.embed(to_patches(video, self.patch))  # B S H' W' D
        return self.to_planes(self.transformer(x))

    def raw_still(self, frame: Tensor, frames: int) -> Tensor:
        """``raw(still_clip(frame, frames))`` at the cost of one frame: equal frames have equal values."""
        x = self.transformer(self.embed(to_patches(frame[:, :, None], self.patch)))  # B 1 H' W' D
        return self.to_planes(x.expand(-1, frames, -1, -1, -1))

    def forward(self, video: Tensor, raw_identity: Tensor | None = None) -> Tensor:
        """(B, 3, S, H, W) in [-1, 1] -> (B, C, L) in (-1, 1); minus the identity's ``raw`` planes, if any."""
        planes = self.raw(video)
        if raw_identity is not None and self.gain is not None:
            planes = self.gain * (planes - raw_identity)
        return planes.tanh()


class PixelDecoder(nn.Module):
    """D of the paper: planes -> a clip."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.from_planes = FromPlanes(plane_shape(config), config.plane_channels, config.dim)
        self.transformer = _transformer(config, config.decoder_layers)
        self.to_pixels = nn.ConvTranspose2d(config.dim, 3, config.patch, stride=config.patch)

    def forward(self, z: Tensor) -> Tensor:
        """(B, C, L) -> (B, 3, S, H, W) in (-1, 1)."""
        x = self.transformer(self.from_planes(z))  # B S H' W' D
        b = x.shape[0]
        pixels = self.to_pixels(x.flatten(0, 1).permute(0, 3, 1, 2))
        return (2 * pixels.sigmoid() - 1).unflatten(0, (b, -1)).transpose(1, 2)


class WarpDecoder(nn.Module):
    """Planes, identity frame, landmarks -> a clip: a warp of the identity frame plus a residual [ours]."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.from_planes = FromPlanes(plane_shape(config), config.plane_channels, config.dim)
        self.embed_identity = nn.Linear(3 * config.patch**2, config.dim)
        self.embed_landmarks = LandmarkTokens(plane_shape(config), config.patch, config.dim)
        self.transformer = _transformer(config, config.decoder_layers)
        self.head = WarpHead(config.dim, config.patch)

    def forward(self, z: Tensor, identity: Tensor, landmarks: Tensor, identity_landmarks: Tensor) -> Tensor:
        """Decode a clip.

        Args:
            z: (B, C, L) planes.
            identity: (B, 3, H, W) the identity frame, in [-1, 1].
            landmarks: (B, S, 68, 2) x, y of the clip to make, in pixels of the region.
            identity_landmarks: (B, 68, 2) of the identity frame.

        Returns:
            (B, 3, S, H, W), about [-1, 1] (not clamped, so that gradients survive).
        """
        x = self.from_planes(z)  # B S H' W' D
        x = x + self.embed_identity(to_patches(identity[:, :, None], self.patch))
        x = x + self.embed_landmarks(landmarks, identity_landmarks)
        return self.head(self.transformer(x), identity, landmarks, identity_landmarks)


class Autoencoder(nn.Module):
    """Encoder and decoder together, as they are trained (Eq. 5)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder: nn.Module = (WarpDecoder if config.decoder == "warp" else PixelDecoder)(config)

    def encode(self, video: Tensor, identity: Tensor | None = None) -> Tensor:
        """(B, 3, S, H, W) in [-1, 1], and for ``residual`` x_id (B, 3, H, W) -> (B, C, L)."""
        if not self.config.residual or identity is None:
            return self.encoder(video)
        return self.encoder(video, self.encoder.raw_still(identity, video.shape[2]))

    def encode_still(self, frame: Tensor) -> Tensor:
        """Z_I: planes (B, C, L) of one frame (B, 3, H, W) repeated (paper: the stacked x_id)."""
        return self.encoder.raw_still(frame, self.config.frames).tanh()

    def decode(self, z: Tensor, *conditions: Tensor) -> Tensor:
        """(B, C, L), and for ``warp`` what :class:`WarpDecoder` takes -> (B, 3, S, H, W)."""
        return self.decoder(z, *conditions)

    def forward(self, video: Tensor, *conditions: Tensor) -> Tensor:
        return self.decode(self.encode(video, *conditions[:1]), *conditions)


def still_clip(frame: Tensor, frames: int) -> Tensor:
    """(B, 3, H, W) -> (B, 3, S, H, W): the identity frames X_I, one frame repeated (paper section 3)."""
    return frame[:, :, None].expand(-1, -1, frames, -1, -1)


def reconstruction_loss(
    output: Tensor, target: Tensor, weight: Tensor | None = None, gradient: float = 1.0
) -> Tensor:
    """L1 of pixels (B, 3, S, H, W) and of their differences right and down; weight broadcastable."""

    def mean(difference: Tensor, w: Tensor | None) -> Tensor:
        return difference.abs().mean() if w is None else (difference.abs() * w).mean()

    error = output - target
    loss = mean(error, weight)
    if gradient:
        dx, dy = error.diff(dim=-1), error.diff(dim=-2)
        loss = loss + gradient * mean(dx, None if weight is None else weight[..., 1:])
        loss = loss + gradient * mean(dy, None if weight is None else weight[..., 1:, :])
    return loss


def psnr(output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Peak signal to noise ratio in dB of clips in [-1, 1], over the weighted pixels."""
    squared = (output.clamp(-1, 1) - target).square()
    if weight is not None:
        weight = weight.expand_as(squared)
        return 10 * torch.log10(4 / ((squared * weight).sum() / weight.sum()))
    return 10 * torch.log10(4 / F.mse_loss(output.clamp(-1, 1), target))
