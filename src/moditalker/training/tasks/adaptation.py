"""Fine-tunes the video stage to one person from a clip of them, on a CPU, within given minutes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moditalker.config import Config, TrainingConfig
from moditalker.data.clips import VideoClip, VideoClips
from moditalker.diffusion.process import Diffusion
from moditalker.errors import UserError
from moditalker.features.face.identity import FaceFrame
from moditalker.geometry.align import transform
from moditalker.geometry.looks import Identity, Look
from moditalker.geometry.points import lip_opening
from moditalker.training.loop import fit
from moditalker.training.tasks.autoencoder import FACE, face_weight
from moditalker.training.tasks.mtov import MToVTask
from moditalker.video.autoencoder import psnr
from moditalker.video.model import VideoModel
from moditalker.video.stage import Shot, Still, VideoSampler
from moditalker.video.texture import Texture, centred, slopes

HELD_OUT = 6  # one frame in so many is held out, in one piece at the end
FEWEST = 75  # least frames to learn from
MOST = 7500  # most frames to learn from; 49 kB each
SEEN = 25  # frames of the first half from which the texture is learnt
LEARNING = 1.0  # least minutes of learning
AFTERWARDS = 10  # time after the last step, in units of the first validation's
NAME = "held_out"


@dataclass(frozen=True)
class Adapted:
    """The adapted model: configuration and state, PSNR (dB) on the held-out seconds before and after, steps.

    If training did not improve them, ``config`` and ``state`` are the original ones.
    """

    config: Config
    state: dict[str, Tensor]
    before: float
    after: float
    steps: int


class AdaptationTask(MToVTask):
    """Task ``mtov`` on one person, judged by their own held-out frames."""

    name = "adapt"

    def __init__(self, config: Config, train: VideoClips, ends: list[VideoClip]) -> None:
        super().__init__(config, train, train)
        self.ends = ends

    @property
    def training(self) -> TrainingConfig:
        return self.config.adaptation_training

    def validate(self) -> dict[str, float]:
        """PSNR of the face on the held-out frames."""
        return {NAME: judge(self.model, self.ends)}

    def score(self, figures: dict[str, float]) -> float:
        return figures[NAME]


def judge(model: VideoModel, ends: list[VideoClip]) -> float:
    """PSNR (dB) of the face on the second half of each clip. It is made with x_id and texture of the first
    half, as a video is made.
    """
    sampler, top = VideoSampler(model), model.config.crop.region_top
    parts: list[tuple[Tensor, Tensor, Tensor]] = []  # made, real, face weights
    for end in ends:
        half = len(end.crops) // 2
        seen = tuple(
            Look(crop, np.eye(2, 3), crop, points)
            for crop, points in _stills(end)[: half : math.ceil(half / SEEN)]
        )
        shut = int(lip_opening(end.landmarks[:half]).argmin())
        asked = [(crop, points, points) for crop, points in _stills(end)[half:]]
        made = torch.stack(list(sampler(asked, Identity(*_stills(end)[shut], looks=seen))))
        real = torch.from_numpy(np.array(end.crops[half:, top:])).permute(0, 3, 1, 2) / 127.5 - 1
        points = torch.from_numpy(end.landmarks[half:]).float() - torch.tensor([0.0, top])
        weight = face_weight(points[None], real.shape[-2], real.shape[-1], FACE)
        parts.append((made, real, (weight[0].transpose(0, 1) > 0.5).float()))
    made, real, face = (torch.cat(part) for part in zip(*parts, strict=True))
    return float(psnr(made, real, face))


def _stills(clip: VideoClip) -> list[Still]:
    return list(zip(clip.crops, clip.landmarks, strict=True))


@torch.inference_mode()
def known_texture(model: VideoModel, clips: list[VideoClip]) -> tuple[Tensor, Tensor]:
    """Learn how this person's texture follows the lips, over all their clips: slopes (SHAPE, 3, H, W) and the
    landmarks (1, 68, 2) of their face. The texture at rest comes from each video.
    """
    length, landmarks = model.config.autoencoder.frames, None
    sums: list[tuple[Tensor, Tensor]] = []
    for clip in clips:
        stills = _stills(clip)
        shut = stills[int(lip_opening(clip.landmarks).argmin())]
        shot = Shot(model.eval(), Diffusion(model.config.mtov_diffusion), Identity(*shut))
        landmarks = shot.l_id if landmarks is None else landmarks
        texture = Texture(landmarks, memory=math.inf)
        for start in range(0, len(stills), length):
            shot.learn_texture(texture, stills[start : start + length])
        assert texture.sums is not None
        sums.append(centred(*texture.sums)[2:])
    spread, change = (torch.stack(parts).sum(dim=0) for parts in zip(*sums, strict=True))
    assert landmarks is not None
    return slopes(spread, change), landmarks


def person_clips(frames: Iterable[FaceFrame], size: int, most: int = MOST) -> list[VideoClip]:
    """Collect usable frames of a tracked face, as clips without gaps or cuts; ``most`` frames at most."""
    return list(_clips(frames, size, most))


def _clips(frames: Iterable[FaceFrame], size: int, most: int) -> Iterator[VideoClip]:
    crops: list[np.ndarray] = []
    points: list[np.ndarray] = []
    number = total = 0

    def clip() -> VideoClip:
        return VideoClip(f"person_{number}", "person", np.stack(crops), np.stack(points))

    for frame in frames:
        if crops and (frame.cut or not frame.usable):
            yield clip()
            crops, points, number = [], [], number + 1
        if frame.usable and frame.landmarks is not None:
            crops.append(frame.crop(size))
            points.append(transform(frame.landmarks[None], frame.matrix[None])[0][:, :2].astype(np.float32))
            total += 1
        if total == most:
            break
    if crops:
        yield clip()


def split(clips: list[VideoClip], frames: int) -> tuple[list[VideoClip], list[VideoClip]]:
    """Return the clips to train on, and the held-out end (a share 1 / HELD_OUT of all).

    Pieces of fewer than ``frames`` are left out.

    Raises:
        UserError: too few frames.
    """
    pieces = [clip for clip in clips if len(clip.crops) >= frames]
    total = sum(len(clip.crops) for clip in pieces)
    if total < FEWEST:
        raise UserError(
            f"{total} usable frames in pieces of {frames} or more: at least {FEWEST} are needed to adapt "
            "to a person; give a longer video of one face, seen from the front"
        )
    wanted = max(frames, total // HELD_OUT)
    learnt, ends = list(pieces), []
    while wanted >= frames:
        last = learnt.pop()
        start = max(0, len(last.crops) - wanted)
        if start < frames:
            start = 0  # too little would be left to learn from
        ends.append(_part(last, slice(start, None)))
        wanted -= len(last.crops) - start
        if start:
            learnt.append(_part(last, slice(0, start)))
    return learnt, ends


def _part(clip: VideoClip, which: slice) -> VideoClip:
    return replace(clip, crops=clip.crops[which], landmarks=clip.landmarks[which])


def adapt(
    config: Config,
    state: dict[str, Tensor],
    clips: list[VideoClip],
    run: Path,
    minutes: float = 10.0,
    log: Callable[[str], None] = print,
    begun: float | None = None,
) -> Adapted:
    """Fine-tune a video model to one person.

    Args:
        config, state: the video model to start from.
        clips: clips of the person, from :func:`person_clips`.
        run: an empty folder for the run.
        minutes: time for it all; as many steps are made as fit.
        begun: `time.monotonic()` when the minutes began; by default now.

    Raises:
        UserError: too few frames, or too few minutes.
    """
    begun = time.monotonic() if begun is None else begun
    learnt, ends = split(clips, config.autoencoder.frames)
    original = config
    # LPIPS needs weights that do not come with the package.
    without = replace(config.pixel_loss, lpips=0.0)
    config = replace(config, mtov_loss=config.adaptation_loss, pixel_loss=without)
    train = VideoClips(learnt, config.crop, config.autoencoder, config.adaptation_augmentation)

    def task() -> AdaptationTask:
        made = AdaptationTask(config, train, ends)
        made.model.load_state_dict(state)
        return made

    checked = time.monotonic()
    before = judge(task().model, ends)
    checked = time.monotonic() - checked
    log(f"adapt: {before:.2f} dB on frames held out, before")
    after = task()
    training = replace(after.training, keep="best")
    left = 60 * minutes - (time.monotonic() - begun) - AFTERWARDS * checked
    if left <= 0:
        needed = minutes - left / 60
        raise UserError(
            f"{minutes:g} minutes are too few: reading the video and judging take {needed:.1f} here; "
            f"give {math.ceil(needed + LEARNING):g} or more"
        )
    figures = fit(after, training, run, log, seconds=left)
    figures = figures or after.validate()  # none if it was stopped
    steps = len((run / "log.jsonl").read_text().splitlines())
    choices = [(before, original, state), (after.score(figures), original, after.model.state_dict())]
    if config.mtov.texture:
        # Show MToV's region if no frame of the source shows the inside of the mouth.
        seen = replace(original.compose, inside="mtov")
        knowing = replace(original, mtov=replace(original.mtov, known_texture=True), compose=seen)
        model = VideoModel(knowing)
        learnt_slopes, landmarks = known_texture(after.model, learnt)
        known = {"texture_slopes": learnt_slopes, "texture_landmarks": landmarks}
        model.load_state_dict(after.model.state_dict() | known)
        choices.append((judge(model, ends), knowing, model.state_dict()))
        log(f"adapt: {choices[1][0]:.2f} dB, {choices[2][0]:.2f} dB with the learnt texture")
    best = max(choices, key=lambda choice: choice[0])
    if best is choices[0]:
        log("adapt: the weights of before were better, and are kept")
    return Adapted(best[1], best[2], before, best[0], steps)
