"""Figures of sets of videos: Fréchet distances between features of generated and of real videos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moditalker.evaluate.observe import FACE, Observed
from moditalker.metrics.fid import CLIP, i3d_features, inception_features

Features = NDArray[np.float32]
SPARSE = 5  # one frame in so many counts as a picture


@dataclass(frozen=True)
class SetMeasure:
    """A figure of two sets of videos: squared Fréchet distance of `features`, (n, D) per video."""

    title: str
    about: str
    weights: str
    features: Callable[[Observed], Features]


def _alexnet_video(clip: Observed) -> Features:
    """Mean and deviation over each piece of 16 frames, for appearance and motion, (pieces, 512)."""
    frames = clip.appearance
    pieces = [frames[i : i + CLIP] for i in range(0, len(frames) - CLIP + 1, CLIP)]
    moments = [np.concatenate([piece.mean(0), piece.std(0)]) for piece in pieces]
    return np.stack(moments) if moments else np.zeros((0, 2 * frames.shape[1]), np.float32)


def _faces(clip: Observed, step: int) -> NDArray[np.uint8]:
    return clip.aligned(FACE, np.flatnonzero(clip.seen)[::step])


SETS: dict[str, SetMeasure] = {
    "fid": SetMeasure(
        "FID",
        f"Inception on aligned faces of 256x256, every {SPARSE}th frame",
        "inception",
        lambda clip: inception_features(_faces(clip, SPARSE)),
    ),
    "fvd": SetMeasure(
        "FVD",
        f"I3D on aligned faces of 256x256, pieces of {CLIP} frames",
        "i3d",
        lambda clip: i3d_features(_faces(clip, 1)),
    ),
    "frechet_alexnet": SetMeasure(
        "Fréchet distance, AlexNet",
        f"over AlexNet's last activation on aligned faces, every {SPARSE}th frame; not comparable with FID",
        "lpips-alex",
        lambda clip: clip.appearance[::SPARSE],
    ),
    "frechet_alexnet_video": SetMeasure(
        "Fréchet distance, AlexNet, video",
        f"the same over mean and deviation in pieces of {CLIP} frames; not comparable with FVD",
        "lpips-alex",
        _alexnet_video,
    ),
}
