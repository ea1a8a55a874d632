"""The video stage, fine-tuned to one person from a clip of theirs: on a CPU, within the minutes given."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moditalker.config import Config
from moditalker.data import VideoClip, VideoClips, collate
from moditalker.errors import UserError
from moditalker.features.identity import FaceFrame
from moditalker.landmarks import lip_opening, transform
from moditalker.training.autoencoder import face_psnr
from moditalker.training.loop import fit
from moditalker.training.mtov import MToVTask

HELD_OUT = 6  # every so many frames, in one piece at the end, judge
FEWEST = 75  # frames that can be learnt from
MOST = 7500  # frames that are learnt from; 49 kB each
TRIAL = 4  # steps that tell the pace
CHECKS = 5  # validations on the way
OVERHEAD = 0.85  # share of the time that steps may take
NAME = "held_out"


@dataclass(frozen=True)
class Adapted:
    """What became of the model: its state, PSNR (dB) on the held-out seconds before and after, steps made.

    ``state`` is the one given where learning did not better it.
    """

    state: dict[str, Tensor]
    before: float
    after: float
    steps: int


class AdaptationTask(MToVTask):
    """Task ``mtov`` on one person, judged by their own held-out frames."""

    name = "adapt"

    def __init__(self, config: Config, train: VideoClips, ends: list[VideoClip]) -> None:
        super().__init__(config, train, train)
        frames = config.autoencoder.frames
        items = [
            train.item(end, start, 0)
            for end in ends
            for start in range(1, len(end.crops) - frames + 1, frames)
        ]
        self.held_out = {NAME: collate(items)}

    def validate(self) -> dict[str, float]:
        """PSNR of the face on the held-out frames."""
        batch = self.held_out[NAME]
        return {NAME: float(face_psnr(self.made(batch), batch))}

    def score(self, figures: dict[str, float]) -> float:
        return figures[NAME]


def person_clips(frames: Iterable[FaceFrame], size: int, most: int = MOST) -> list[VideoClip]:
    """Usable frames of a followed face, as clips without gaps or cuts; no more than ``most`` frames."""
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
    """What is learnt from, and the end (a share 1 / HELD_OUT of all), with the x_id in front of each piece.

    The x_id, frame 0 of a piece, is the frame that is learnt from whose mouth is shut most: as when a video
    is made. Pieces shorter than ``frames`` are left out.

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
    shut = min(learnt, key=lambda clip: float(lip_opening(clip.landmarks).min()))
    x_id = _part(shut, [int(lip_opening(shut.landmarks).argmin())])
    return learnt, [
        replace(
            end,
            crops=np.concatenate([x_id.crops, end.crops]),
            landmarks=np.concatenate([x_id.landmarks, end.landmarks]),
        )
        for end in ends
    ]


def _part(clip: VideoClip, which: slice | list[int]) -> VideoClip:
    return replace(clip, crops=clip.crops[which], landmarks=clip.landmarks[which])


def adapt(
    config: Config,
    state: dict[str, Tensor],
    clips: list[VideoClip],
    run: Path,
    minutes: float = 10.0,
    log: Callable[[str], None] = print,
) -> Adapted:
    """Fine-tune a video model to one person.

    Args:
        config, state: of the video model that is started from.
        clips: of the person, made by :func:`person_clips`.
        run: an empty folder for the run.
        minutes: that it may take, by this machine's clock; the number of steps follows from it.

    Raises:
        UserError: too few frames.
    """
    begun = time.monotonic()
    learnt, ends = split(clips, config.autoencoder.frames)
    config = replace(config, mtov_loss=config.adaptation_loss)
    train = VideoClips(learnt, config.crop, config.autoencoder, config.adaptation_augmentation)

    def task() -> AdaptationTask:
        made = AdaptationTask(config, train, ends)
        made.model.load_state_dict(state)
        return made

    before = held_out_psnr(task())
    log(f"adapt: {before:.2f} dB on {sum(len(end.crops) - 1 for end in ends)} frames held out, before")
    training = replace(config.adaptation_training, steps=TRIAL, validate_every=TRIAL, keep="last")
    trial = time.monotonic()
    fit(task(), training, run / "trial", lambda line: None)
    pace = (time.monotonic() - trial) / (TRIAL + 1)
    left = OVERHEAD * (60 * minutes - (time.monotonic() - begun))
    steps = min(config.adaptation_training.steps, max(TRIAL, math.floor(left / pace)))
    log(f"adapt: {steps} steps at {pace:.2f} s")
    after = task()
    training = replace(
        config.adaptation_training, steps=steps, validate_every=max(1, steps // CHECKS), keep="best"
    )
    figures = fit(after, training, run / "adapt", log)
    bettered = after.score(figures)
    if bettered <= before:
        log("adapt: the weights of before were better, and are kept")
        return Adapted(state, before, before, steps)
    return Adapted(after.model.state_dict(), before, bettered, steps)


def held_out_psnr(task: AdaptationTask) -> float:
    """PSNR (dB) on the held-out frames, of the model as it is."""
    task.model.eval()
    with torch.no_grad():
        return task.score(task.validate())
