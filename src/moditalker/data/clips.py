"""Samples of a dataset -> batches for the video stage."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moditalker.config import AugmentationConfig, AutoencoderConfig, CropConfig
from moditalker.data.shards import Sample
from moditalker.errors import UserError
from moditalker.geometry.points import MIRROR, lip_opening
from moditalker.video.model import pose_frames

SHUT_SHARE = 0.5  # of the x_id have the mouth shut most, as the one that is chosen for a video; the rest: any


@dataclass(frozen=True)
class VideoClip:
    """One prepared clip: crops (S, size, size, 3) uint8, landmarks (S, 68, 2) float32 in crop pixels."""

    name: str
    speaker: str
    crops: np.ndarray
    landmarks: np.ndarray
    speech: np.ndarray | None = None  # (2S, D) features, for `mtov.conditions` with audio

    @cached_property
    def shut(self) -> np.ndarray:
        """Numbers of the frames whose mouth is shut most, a tenth of all."""
        order: np.ndarray = np.argsort(lip_opening(self.landmarks))
        return order[: max(1, len(order) // 10)]


@dataclass(frozen=True)
class VideoBatch:
    """A batch of the video stage; videos (B, 3, S, H, W) in [-1, 1], landmarks in pixels of the
    region.
    """

    video: Tensor  # the generated region
    pose: Tensor  # pose frames X_P: rows from the top of the crop, as high as the region
    identity_pose: Tensor  # (B, 3, 1, H, W) the pose frame of x_id
    identity: Tensor  # (B, 3, H, W) x_id, the region of another frame of the same clip
    landmarks: Tensor  # (B, S, 68, 2)
    identity_landmarks: Tensor  # (B, 68, 2)
    speech: Tensor  # (B, 2S, D) features; D is 0 where there are none

    @property
    def conditions(self) -> tuple[Tensor, Tensor, Tensor]:
        """Arguments of the ``warp`` decoder besides the planes."""
        return self.identity, self.landmarks, self.identity_landmarks


def read_clip(sample: Sample) -> VideoClip:
    """The arrays of a sample that the video stage uses; its crops stay on the disk.

    Raises:
        UserError: the sample lacks it.
    """
    landmarks = np.array(sample["landmarks"][..., :2])
    return VideoClip(sample.name, sample.speaker, sample["crops"], landmarks)


class VideoClips:
    """Clips in memory, sampled evenly over speakers and augmented clip by clip.

    Args:
        clips: what to sample from; clips shorter than ``frames`` are left out.
        crop, autoencoder: the geometry of crop, region and clip.
        augmentation: how random batches vary them.
    """

    def __init__(
        self,
        clips: list[VideoClip],
        crop: CropConfig,
        autoencoder: AutoencoderConfig,
        augmentation: AugmentationConfig,
    ) -> None:
        self.crop, self.frames, self.augmentation = crop, autoencoder.frames, augmentation
        self.height = autoencoder.height
        self.clips = [clip for clip in clips if len(clip.crops) >= self.frames]
        if not self.clips:
            raise UserError(f"no clip has {self.frames} frames or more; prepare longer videos")
        counts: dict[str, int] = {}
        for clip in self.clips:
            counts[clip.speaker] = counts.get(clip.speaker, 0) + 1
        weight = np.array([1 / counts[clip.speaker] for clip in self.clips])
        self.probability = weight / weight.sum()

    def batch(self, size: int, rng: np.random.Generator) -> VideoBatch:
        """A random batch, augmented; the same ``rng`` state gives the same batch."""
        items = []
        for index in rng.choice(len(self.clips), size=size, p=self.probability):
            clip = self.clips[index]
            start = int(rng.integers(0, len(clip.crops) - self.frames + 1))
            known = self._another(clip, rng)
            frame = int(
                rng.choice(known.shut) if rng.random() < SHUT_SHARE else rng.integers(len(known.crops))
            )
            items.append(self.item(clip, start, frame, known, rng))
        return collate(items)

    def _another(self, clip: VideoClip, rng: np.random.Generator) -> VideoClip:
        """The clip that x_id comes from: this one, or another of the same speaker."""
        share = self.augmentation.other_clip
        if not share or rng.random() >= share:
            return clip
        same = [other for other in self.clips if other.speaker == clip.speaker]
        return same[rng.integers(len(same))]

    def item(
        self,
        clip: VideoClip,
        start: int,
        identity: int,
        known: VideoClip | None = None,
        rng: np.random.Generator | None = None,
    ) -> VideoBatch:
        """Frames ``start .. start + S`` of a clip with frame ``identity`` as x_id: a batch of one.

        Args:
            known: the clip that x_id is from, if it is another. rng: of the augmentation; None: none.
        """
        known = known or clip
        shown = slice(start, start + self.frames)
        frames = np.concatenate([clip.crops[shown], known.crops[identity : identity + 1]])
        crops = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
        points = torch.from_numpy(
            np.concatenate([clip.landmarks[shown], known.landmarks[identity : identity + 1]])
        ).float()
        if rng is not None:
            crops, points = augment_clip(crops, points, rng, self.augmentation)
        region = crops[:, :, self.crop.region_top :]
        pose = pose_frames(crops[None].transpose(1, 2), self.height, self.crop.pose_rows)
        points = points - torch.tensor([0.0, self.crop.region_top])
        speech = torch.zeros(2 * self.frames, 0)
        if clip.speech is not None:
            speech = torch.from_numpy(clip.speech[2 * start : 2 * (start + self.frames)]).float()
        return VideoBatch(
            video=region[None, :-1].transpose(1, 2),
            pose=pose[:, :, :-1],
            identity_pose=pose[:, :, -1:],
            identity=region[None, -1],
            landmarks=points[None, :-1],
            identity_landmarks=points[None, -1],
            speech=speech[None],
        )


def collate(items: list[VideoBatch]) -> VideoBatch:
    """Batches of one -> one batch."""
    return VideoBatch(
        *(
            torch.cat([getattr(item, name) for item in items]).contiguous()
            for name in VideoBatch.__dataclass_fields__
        )
    )


def augment_clip(
    crops: Tensor, points: Tensor, rng: np.random.Generator, how: AugmentationConfig
) -> tuple[Tensor, Tensor]:
    """Colour, contrast, flip and a small similarity with shear, the same for the whole clip and its
    landmarks.

    crops (S, 3, H, W) in [-1, 1]; points (S, 68, 2) crop pixels.
    """
    size = crops.shape[-1]
    if rng.random() < how.flip:
        crops = crops.flip(-1)
        points = points[:, torch.from_numpy(np.asarray(MIRROR))]
        points = torch.stack([size - 1 - points[..., 0], points[..., 1]], dim=-1)
    angle, scale = rng.normal(0, 0.05 * how.geometry), np.exp(rng.normal(0, 0.05 * how.geometry, size=2))
    shear, shift = rng.normal(0, 0.03 * how.geometry), rng.normal(0, 2.0 * how.geometry, size=2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.array([[1, shear], [0, 1]]) @ np.diag(scale)  # output -> input, about the centre
    theta = torch.tensor(np.concatenate([linear, shift[:, None] * 2 / size], axis=1), dtype=torch.float32)
    grid = F.affine_grid(theta.expand(len(crops), -1, -1), list(crops.shape), align_corners=False)
    crops = F.grid_sample(crops, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    centre = (size - 1) / 2
    inverse = torch.tensor(np.linalg.inv(linear), dtype=torch.float32)
    points = (points - centre - torch.tensor(shift, dtype=torch.float32)) @ inverse.T + centre
    offset = rng.normal(0, 0.05 * how.colour, size=(3, 1, 1)) + rng.normal(0, 0.05 * how.colour)
    contrast = float(np.exp(rng.normal(0, 0.15 * how.colour)))
    gain = np.exp(rng.normal(0, 0.05 * how.colour, size=(3, 1, 1)))
    colour, tint = (torch.tensor(value, dtype=torch.float32) for value in (offset, gain))
    return (crops * contrast * tint + colour).clamp(-1, 1), points
