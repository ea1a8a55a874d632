"""Video clip by clip: any number of frames through a model of S frames, in constant memory (paper section 3).

Every clip is anchored to the same identity frame and starts from the same noise, so that nothing drifts
(``mtov.anchor: previous`` takes the last frame that was generated instead [paper]); neighbouring clips share
``mtov.overlap`` frames, across which one fades into the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moditalker.checkpoint import load_weights
from moditalker.config import from_dict
from moditalker.diffusion import Diffusion, draw_noise, generators
from moditalker.errors import UserError
from moditalker.video.model import VideoModel, pose_frames

Frame = tuple[
    NDArray[np.uint8], NDArray[np.float32]
]  # crop (size, size, 3), landmarks (68, 2) in crop pixels


class VideoSampler:
    """Aligned crops and the landmarks wanted in them -> generated regions.

    Args:
        model: in eval mode, on the device that is to be used.
    """

    def __init__(self, model: VideoModel) -> None:
        self.model = model.eval()
        self.config = model.config
        self.diffusion = Diffusion(model.config.mtov_diffusion)

    @torch.inference_mode()
    def __call__(
        self,
        frames: Iterable[Frame],
        identity: Frame,
        seed: int = 0,
        steps: int | None = None,
    ) -> Iterator[Tensor]:
        """Generate the region of each frame.

        Args:
            frames: (crop, landmarks): of the crop only the pose rows are looked at; landmarks say what to
            make. identity: crop and landmarks of x_id.
            seed: of the noise.
            steps: DDIM steps, by default the config's.

        Yields:
            (3, H, W) float32 on the CPU in [-1, 1], one for each frame, in order; memory does not grow.
        """
        crop, config = self.config.crop, self.config.autoencoder
        device = self.model.plane_scale.device
        top = torch.tensor([0.0, crop.region_top], device=device)
        crop_id = _pixels(identity[0][None]).to(device)
        x_id = crop_id[:, :, crop.region_top :]
        pose_id = pose_frames(crop_id[:, :, None], config.height, crop.pose_rows)
        l_id = torch.from_numpy(np.ascontiguousarray(identity[1])).float().to(device)[None] - top
        z_id = self.model.autoencoder.encode_still(x_id)
        chance = generators(seed)
        noise = draw_noise(z_id.shape, chance, device)
        start = self.config.mtov_diffusion.start

        def clip(part: list[Frame]) -> Tensor:
            nonlocal x_id, pose_id, l_id, z_id
            part = part + [part[-1]] * (config.frames - len(part))
            crops = _pixels(np.stack([frame for frame, _ in part])).to(device)
            points = torch.from_numpy(np.stack([points for _, points in part])).float().to(device) - top
            pose = pose_frames(crops.transpose(0, 1)[None], config.height, crop.pose_rows)
            conditions = self.model.conditions(pose, pose_id, x_id, points[None], l_id, z_id)
            z0 = self.diffusion.sample(
                lambda zt, t: self.model.predict(zt, t, conditions),
                noise,
                steps,
                generator=chance,
                start_from=self.model.normalise(z_id) if start else None,
            )
            video = self.model.decode(self.model.restore(z0), conditions)
            video = video[0].transpose(0, 1).clamp(-1, 1)  # S 3 H W
            if self.config.mtov.anchor == "previous":
                x_id, l_id, pose_id = video[-1:], points[-1:], pose[:, :, -1:]
                z_id = self.model.autoencoder.encode_still(x_id)
            return video.cpu()

        yield from overlapped(frames, clip, config.frames, self.config.mtov.overlap)


def load_sampler(path: Path, device: torch.device | str = "cpu") -> VideoSampler:
    """The sampler of a file of weights of the video stage.

    Raises:
        UserError: no such file, or a damaged one.
    """
    state, description = load_weights(path)
    model = VideoModel(from_dict(description["config"]))
    model.load_state_dict(state)
    return VideoSampler(model.to(device).requires_grad_(False))


class MissingSampler:
    """In place of the video stage of a folder that has none: motion can be made with it, videos cannot."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(
        self, frames: Iterable[Frame], identity: Frame, seed: int = 0, steps: int | None = None
    ) -> Iterator[Tensor]:
        """Raises UserError."""
        raise UserError(
            f"{self.path} does not exist, so there is no video stage; train one, or convert the diffusion too"
        )


def overlapped(
    frames: Iterable[Frame], clip: Callable[[list[Frame]], Tensor], length: int, overlap: int
) -> Iterator[Tensor]:
    """Windows of ``length`` frames through ``clip``, each fading into the next over ``overlap`` frames."""
    fade = (torch.arange(overlap) + 1.0) / (overlap + 1)
    waiting: list[Frame] = []
    tail: Tensor | None = None  # the previous window's last frames, to be faded out

    def emit(window: list[Frame], keep: int) -> Iterator[Tensor]:
        nonlocal tail
        video = clip(window)
        for i in range(keep):
            if tail is not None and i < len(tail):
                yield torch.lerp(tail[i], video[i], fade[i])
            else:
                yield video[i]
        tail = video[keep:length]

    for frame in frames:
        waiting.append(frame)
        if len(waiting) == length:
            yield from emit(waiting, length - overlap)
            waiting = waiting[length - overlap :]
    fresh = len(waiting) if tail is None else len(waiting) - overlap
    if fresh > 0:
        yield from emit(waiting, len(waiting))
    elif tail is not None:
        yield from tail[:overlap]


def _pixels(images: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
