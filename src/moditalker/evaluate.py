"""Figures about generated videos: two files in, a dictionary of numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moditalker.config import CropConfig
from moditalker.errors import UserError
from moditalker.features.face import FaceTracker
from moditalker.landmarks import MOUTH, align, eye_distance, lip_opening, transform, warp
from moditalker.media import read_clip
from moditalker.metrics import image, lips
from moditalker.video.blend import Blender

# Every model is measured in the same region, whatever its own crop: that of a crop with these measures.
MEASURED = CropConfig(size=128, region_top=56, pose_rows=72, eye_distance=42.0, eye_row=26.0)


@dataclass(frozen=True)
class Observed:
    """A clip and the face in it: frames (S, H, W, 3) uint8, landmarks (S, 68, 3), NaN without a face."""

    frames: NDArray[np.uint8]
    fps: float
    landmarks: NDArray[np.floating]

    @property
    def opening(self) -> NDArray[np.floating]:
        """Lip opening over eye distance, (S,)."""
        return lip_opening(self.landmarks)


def observe(path: Path | str, tracker: FaceTracker | None = None) -> Observed:
    """Read a short video into memory and track the largest face in it."""
    clip = read_clip(path)
    faces = (tracker or FaceTracker()).track(iter(clip.frames), float(clip.fps))
    landmarks = [np.full((68, 3), np.nan, np.float32) if face is None else face.landmarks for face in faces]
    return Observed(clip.frames, float(clip.fps), np.stack(landmarks))


def paste_first(reference: Observed, other: NDArray[np.floating]) -> tuple[Observed, NDArray[np.float32]]:
    """The baseline that shows the first frame's lower face on every frame, and masks (S, H, W) of the region.

    The region is what paste-back would replace for the landmarks `other` (S, 68, 3), frame pixels; the frames
    without a face in either stay as they are, outside any mask. Raises UserError where that is all of them.
    """
    matrices = align(reference.landmarks, MEASURED, reference.fps)
    here, there = (transform(points, matrices) for points in (reference.landmarks, other))
    usable = np.all([np.isfinite(values).all((1, 2)) for values in (matrices, here, there)], axis=0)
    if not usable.any():
        raise UserError("no frame shows a face in both videos; give videos of one person speaking")
    first = int(np.flatnonzero(usable)[0])
    to_region = matrices[[first]] - np.array([[0, 0, 0], [0, 0, MEASURED.region_top]])
    size = (MEASURED.size - MEASURED.region_top, MEASURED.size)
    region = warp(reference.frames[[first]].astype(np.float32), to_region, size)[0] / 127.5 - 1
    count, height, width = reference.frames.shape[:3]
    frames, masks = reference.frames.copy(), np.zeros((count, height, width), np.float32)
    blender = Blender(MEASURED, reference.fps)
    for t in np.flatnonzero(usable):
        frames[t] = blender.paste(reference.frames[t], region, matrices[t], here[t], here[first]).frame
        masks[t] = blender.native_mask((height, width), matrices[t], here[t], there[t])
    return Observed(frames, reference.fps, reference.landmarks), masks


def compare(reference: Observed, generated: Observed) -> dict[str, float]:
    """How a generated video differs from the real one it should equal (self-driven).

    Lips: correlation of lip opening, the lag in frames at which it is best and its value there, the ratio of
    amplitudes, the mouth points' mean distance in eye distances. Picture, where paste-back replaces it: psnr
    (dB), ssim, the strength of edges at the border over the real video's, flicker over the real video's.
    `first_psnr` is the baseline that shows the first frame's mouth throughout.

    Raises UserError where the videos' sizes differ or no face is found.
    """
    frames = min(len(reference.frames), len(generated.frames))
    if reference.frames.shape[1:] != generated.frames.shape[1:]:
        raise UserError(
            f"the videos are {reference.frames.shape[2]}x{reference.frames.shape[1]} and "
            f"{generated.frames.shape[2]}x{generated.frames.shape[1]} pixels; compare videos of one size"
        )
    real = Observed(reference.frames[:frames], reference.fps, reference.landmarks[:frames])
    made = Observed(generated.frames[:frames], generated.fps, generated.landmarks[:frames])
    baseline, mask = paste_first(real, made.landmarks)
    lag, best = lips.best_lag(made.opening, real.opening)
    unit = eye_distance(real.landmarks)[:, None, None]
    similar = [image.ssim(*three) for three in zip(made.frames, real.frames, mask, strict=True)]
    return {
        "frames": len(generated.frames),
        "frames_missing": len(reference.frames) - len(generated.frames),
        "lip_correlation": lips.correlation(made.opening, real.opening),
        "lip_lag": lag,
        "lip_correlation_at_lag": best,
        "lip_amplitude": lips.amplitude_ratio(made.opening, real.opening),
        "mouth_distance": lips.landmark_distance(
            made.landmarks[:, MOUTH, :2] / unit, real.landmarks[:, MOUTH, :2] / unit
        ),
        "psnr": image.psnr(made.frames, real.frames, mask),
        "first_psnr": image.psnr(baseline.frames, real.frames, mask),
        "ssim": float(np.nanmean(similar)),
        "seam": image.seam_ratio(made.frames, real.frames, mask),
        "flicker": image.flicker(made.frames, mask) / max(image.flicker(real.frames, mask), 1e-6),
    }


def leakage(generated: Observed, face: Observed, audio: Observed) -> dict[str, float]:
    """Whose mouth a video driven by another clip's sound follows (cross-driven).

    `audio_correlation`: with the clip that the sound is from; `leak`: with the clip that the face is from,
    once the other's opening is accounted for (partial correlation). Over the frames that all three have.
    """
    frames = min(len(one.frames) for one in (generated, face, audio))
    made, own, meant = (one.opening[:frames] for one in (generated, face, audio))
    return {
        "audio_correlation": lips.correlation(made, meant),
        "face_correlation": lips.correlation(made, own),
        "leak": lips.partial_correlation(made, own, meant),
    }


def summary(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median over clips of each figure."""
    return {key: float(np.nanmedian([one[key] for one in figures])) for key in figures[0]} if figures else {}
