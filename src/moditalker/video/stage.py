"""Video clip by clip: any number of frames through a model of S frames, in constant memory (paper section 3).

Every clip is anchored to the same identity frame and starts from the same noise, so that nothing drifts
(``mtov.anchor: previous`` takes the last frame that was generated instead [paper]); neighbouring clips share
``mtov.overlap`` frames, across which one fades into the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moditalker.config import from_dict, override
from moditalker.diffusion.process import Diffusion, draw_noise, generators
from moditalker.errors import UserError
from moditalker.geometry.looks import Identity
from moditalker.video.light import LEAST, gains, level, lit
from moditalker.video.model import VideoModel, pose_frames
from moditalker.video.texture import Texture, with_teeth
from moditalker.weights.files import fill, load_weights

# crop (size, size, 3), the landmarks (68, 2) wanted in it, and its own ones; both in its pixels
Frame = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]
Still = tuple[NDArray[np.uint8], NDArray[np.float32]]  # a crop and its own landmarks
T = TypeVar("T")


class VideoStage(Protocol):
    """Takes, per frame, a crop (size, size, 3) uint8, the wanted landmarks (68, 2) and the crop's own
    landmarks. Yields one region (3, h, w) in [-1, 1] per frame.
    """

    def __call__(
        self, frames: Iterable[Frame], identity: Identity, seed: int = 0, steps: int | None = None
    ) -> Iterator[Tensor]: ...


class VideoSampler:
    """Makes regions from aligned crops and the landmarks wanted in them, on the model's device."""

    def __init__(self, model: VideoModel) -> None:
        self.model = model.eval()
        self.config = model.config
        self.diffusion = Diffusion(model.config.mtov_diffusion)

    @torch.inference_mode()
    def __call__(
        self,
        frames: Iterable[Frame],
        identity: Identity,
        seed: int = 0,
        steps: int | None = None,
    ) -> Iterator[Tensor]:
        """Generate the region of each frame.

        Args:
            frames: crops, the landmarks wanted in them and their own ones. The pose rows of a crop
                show the head's pose; with ``mtov.texture`` the whole crop shows this person's skin.
            identity: x_id; ``mtov.teeth`` uses its open mouths, ``mtov.texture`` its looks. If it has no
                looks, the texture is learnt from the first clip.
            seed: seed of the noise. steps: DDIM steps, by default the config's.

        Yields:
            (3, H, W) float32 on the CPU in [-1, 1], one for each frame, in order.
        """
        shot = Shot(self.model, self.diffusion, identity, seed, steps)
        yield from overlapped(frames, shot.clip, self.config.autoencoder.frames, self.config.mtov.overlap)


class Shot:
    """Makes the clips of one person in one piece of video: holds the identity and the texture."""

    def __init__(
        self,
        model: VideoModel,
        diffusion: Diffusion,
        identity: Identity,
        seed: int = 0,
        steps: int | None = None,
    ) -> None:
        self.model, self.diffusion, self.steps = model, diffusion, steps
        self.config = model.config
        self.device = model.plane_scale.device
        self.light = max(LEAST, float(level(identity.crop[None])[0]))
        pixels = self._pixels([identity.crop])
        self._from(self._region(pixels), self._points([identity.landmarks]), pixels)
        self.mouths: tuple[Tensor, Tensor] | None = None
        if (mouths := identity.mouths) and self.config.mtov.teeth:
            crops, points = [look.crop for look in mouths], [look.landmarks for look in mouths]
            self.mouths = self._region(self._pixels(crops)), self._points(points)
        self.chance = generators(seed)
        self.noise = draw_noise(self.stills.identity.shape, self.chance, self.device)
        known = (model.texture_slopes, model.texture_landmarks) if self.config.mtov.known_texture else None
        self.texture = Texture(self.l_id, known) if self.config.mtov.texture else None
        self.seen = [(look.crop, look.landmarks) for look in identity.looks]  # to learn the texture from
        self.count = 0

    def clip(self, part: list[Frame]) -> Tensor:
        """Up to S frames -> (S, 3, H, W) on the CPU. If there are fewer, the last one is repeated."""
        if self.texture is not None:
            self._look(self.texture, part)
        part = _filled(part, self.config.autoencoder.frames)
        pixels, gain = self._lit([frame[0] for frame in part])
        wanted = self._points([frame[1] for frame in part])
        video = self._made(pixels, wanted)
        if self.texture is not None:
            video = self.texture.put_back(video, wanted).clamp(-1, 1)
        if self.mouths is not None:
            video = with_teeth(video, wanted, *self.mouths, self.config.mtov.teeth)
        if self.config.mtov.anchor == "previous":
            self._from(video[-1:], wanted[-1:], pixels[-1:])
        return lit(video, 1 / gain).cpu()

    def _from(self, x_id: Tensor, l_id: Tensor, pixels: Tensor) -> None:
        """Set the identity of the next clips: a region (1, 3, H, W), its landmarks, the crop it is from."""
        self.x_id, self.l_id, self.pose_id = x_id, l_id, self._pose(pixels)
        self.stills = self.model.stills(x_id, self.pose_id, l_id)

    def _made(self, pixels: Tensor, points: Tensor) -> Tensor:
        """Crops (S, 3, size, size) and landmarks (S, 68, 2) of the region -> (S, 3, H, W)."""
        model, start = self.model, self.config.mtov_diffusion.start
        conditions = model.conditions(
            self._pose(pixels), self.pose_id, self.x_id, points[None], self.l_id, stills=self.stills
        )
        z0 = self.diffusion.sample(
            lambda zt, t: model.predict(zt, t, conditions),
            self.noise,
            self.steps,
            generator=self.chance,
            start_from=model.normalise(self.stills.identity) if start else None,
        )
        return model.decode(model.restore(z0), conditions)[0].transpose(0, 1).clamp(-1, 1)

    def _look(self, texture: Texture, part: list[Frame]) -> None:
        """Learn the texture: first from looks and the first clip, then from each S frames collected."""
        frames, stride = self.config.autoencoder.frames, self.config.mtov.texture_stride
        fresh = part[self.config.mtov.overlap :] if self.count else part
        first = texture.sums is None
        every = 1 if first and not self.seen else stride
        self.seen += [(crop, own) for n, (crop, _, own) in enumerate(fresh, self.count) if n % every == 0]
        self.count += len(fresh)
        while len(self.seen) >= frames or (first and self.seen):
            looked, self.seen = self.seen[:frames], self.seen[frames:]
            self.learn_texture(texture, looked)

    def learn_texture(self, texture: Texture, stills: list[Still]) -> None:
        """Learn from 1 to S frames."""
        crops, points = zip(*_filled(stills, self.config.autoencoder.frames), strict=True)
        pixels, own, count = self._pixels(crops), self._points(points), len(stills)
        made, real = self._made(pixels, own)[:count], self._region(pixels)[:count]
        texture.learn(made, real, own[:count])

    def _lit(self, crops: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, Tensor]:
        """Crops (N, 3, H, W) in [-1, 1] at the identity's brightness, and the factor of each."""
        images = np.stack(crops)
        gain = gains(images, self.light) if self.config.rules.light else torch.ones(len(images), 1, 1, 1)
        gain = gain.to(self.device)
        return lit(_pixels(images).to(self.device), gain), gain

    def _pixels(self, crops: Sequence[NDArray[np.uint8]]) -> Tensor:
        return self._lit(crops)[0]

    def _region(self, pixels: Tensor) -> Tensor:
        return pixels[:, :, self.config.crop.region_top :]

    def _points(self, points: Sequence[NDArray[np.float32]]) -> Tensor:
        """Crop pixels -> pixels of the region, (S, 68, 2)."""
        top = torch.tensor([0.0, self.config.crop.region_top])
        return (torch.from_numpy(np.stack(points)).float() - top).to(self.device)

    def _pose(self, pixels: Tensor) -> Tensor:
        crop, height = self.config.crop, self.config.autoencoder.height
        return pose_frames(pixels.transpose(0, 1)[None], height, crop.pose_rows)


def load_sampler(
    path: Path, device: torch.device | str = "cpu", settings: Iterable[str] = ()
) -> VideoSampler:
    """Load the sampler from the weights of a video stage.

    Args:
        settings: settings, as "section.key=value", that override the trained ones.

    Raises:
        UserError: the file is missing, damaged or for another part; or a setting changes the network.
    """
    state, description = load_weights(path)
    model = VideoModel(override(from_dict(description["config"]), settings))
    fill(model, state, path)
    return VideoSampler(model.to(device).requires_grad_(False))


class MissingSampler:
    """Placeholder if a folder has no video stage. Its weights make motion but no video."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(
        self, frames: Iterable[Frame], identity: Identity, seed: int = 0, steps: int | None = None
    ) -> Iterator[Tensor]:
        """Raise UserError."""
        raise UserError(
            f"{self.path} does not exist, so there is no video stage; train one, or convert the diffusion too"
        )


def overlapped(
    frames: Iterable[Frame], clip: Callable[[list[Frame]], Tensor], length: int, overlap: int
) -> Iterator[Tensor]:
    """Make windows of ``length`` frames by ``clip``; each fades into the next over ``overlap`` frames."""
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


def _filled(part: list[T], length: int) -> list[T]:
    return part + [part[-1]] * (length - len(part))


def _pixels(images: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
