"""Does every metric get worse as a video does? Real clips, damaged step by step; a table in Markdown.

    python tools/sanity_curves.py [--workers 2] clip.mpg ...

Each clip (2 s of it) is damaged on purpose and held against itself through `moditalker.evaluate`. A row is a
metric under one kind of damage, its mean over the clips at each level; it has to move one way only.
docs/lab/benchmark.md has the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from moditalker.evaluate.measures import MEASURES, measure
from moditalker.evaluate.observe import MEASURED, Case, Observed, observe
from moditalker.features.face.tracker import FaceTracker
from moditalker.geometry.align import transform
from moditalker.geometry.raster import warp
from moditalker.jobs.pool import work
from moditalker.media import through_codec
from moditalker.video.blend import Blender
from moditalker.weights.named import MissingWeights, find_given

SECONDS = 2.0
Frames = NDArray[np.uint8]
Damage = Callable[[Case, Observed, float], Frames]


def in_region(case: Case, damaged: NDArray[np.floating]) -> Frames:
    """The clip with its generated region replaced."""
    soft = case.mask[..., None]
    mixed = case.generated.frames * (1 - soft) + damaged * soft
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def blur(case: Case, other: Observed, sigma: float) -> Frames:
    return in_region(case, gaussian_filter(case.generated.frames.astype(np.float32), (0, sigma, sigma, 0)))


def noise(case: Case, other: Observed, sigma: float) -> Frames:
    drawn = np.random.default_rng(0).normal(0, 1, case.generated.frames.shape).astype(np.float32)
    return in_region(case, case.generated.frames + sigma * drawn)


def late(case: Case, other: Observed, frames: float) -> Frames:
    at = np.clip(np.arange(len(case.generated.frames)) - int(frames), 0, None)
    return case.generated.frames[at]


def frozen(case: Case, other: Observed, share: float) -> Frames:
    count = len(case.generated.frames)
    still = np.random.default_rng(1).permutation(count) < round(share * count)
    result = case.generated.frames.copy()
    result[still] = case.first_mouth()[still]
    return result


def identity(case: Case, other: Observed, share: float) -> Frames:
    """Another person's lower face, aligned to this one's, mixed in."""
    face, result = case.generated, case.generated.frames.astype(np.float32)
    region_top, size = MEASURED.region_top, (MEASURED.size - MEASURED.region_top, MEASURED.size)
    matrices = other.matrices[: len(face.frames)] - np.array([[0, 0, 0], [0, 0, region_top]])
    theirs = warp(other.frames[: len(matrices)].astype(np.float32), matrices, size) / 127.5 - 1
    blender, points = (
        Blender(MEASURED, face.fps, colours=False, grain=False),
        transform(face.landmarks, face.matrices),
    )
    for t in range(min(len(result), len(theirs))):
        pasted = blender.paste(face.frames[t], theirs[t], face.matrices[t], points[t], points[t]).frame
        result[t] = (1 - share) * result[t] + share * pasted
    return np.round(result).astype(np.uint8)


def moved(case: Case, other: Observed, pixels: float) -> Frames:
    return in_region(case, np.roll(case.generated.frames, int(pixels), axis=1))


def tinted(case: Case, other: Observed, levels: float) -> Frames:
    return in_region(case, case.generated.frames + np.float32(levels))


def fading(case: Case, other: Observed, levels: float) -> Frames:
    ramp = np.linspace(0, levels, len(case.generated.frames), dtype=np.float32)
    return in_region(case, case.generated.frames - ramp[:, None, None, None])


# Damage, its unit, its levels, and the metrics that it must move.
DAMAGES: dict[str, tuple[Damage, str, tuple[float, ...], str]] = {
    "blur": (blur, "sigma, px", (0, 1, 2, 4), "psnr ssim lpips cpbd psnr_frame ssim_frame lpips_frame"),
    "noise": (noise, "sigma, grey levels", (0, 8, 16, 32), "psnr ssim lpips flicker"),
    "late": (late, "frames", (0, 2, 4, 8), "lip_correlation lip_lag lmd_mouth background head_motion"),
    "frozen mouth": (
        frozen,
        "share of frames",
        (0, 0.3, 0.6, 1),
        "lip_correlation psnr lmd_mouth lmd_mouth_px",
    ),
    "other identity": (identity, "share", (0, 0.3, 0.6, 1), "psnr ssim lpips lmd_face lmd_face_px csim"),
    "moved": (moved, "px", (0, 1, 2, 4), "seam psnr ssim lmd_mouth"),
    "tinted": (tinted, "grey levels", (0, 8, 16, 32), "seam psnr lpips"),
    "fading": (fading, "grey levels in 2 s", (0, 8, 16, 32), "drift psnr"),
}


def here(name: str) -> bool:
    """Whether there is such a metric, and its weights are here."""
    try:
        return name in MEASURES and (not MEASURES[name].weights or bool(find_given(MEASURES[name].weights)))
    except MissingWeights:
        return False


def curves(tracker: FaceTracker, clips: tuple[Path, Path]) -> dict[tuple[str, str], list[float]]:
    """For each damage and metric the values of one clip at each level; the second clip lends its face."""
    clip, other = (observe(path, tracker, SECONDS) for path in clips)
    found: dict[tuple[str, str], list[float]] = {}
    for name, (damage, _, levels, wanted) in DAMAGES.items():
        for level in levels:
            made = clip
            if level:
                frames = through_codec(damage(Case(clip, clip, clip, clip), other, level), clip.fps)
                faces = tracker.track(iter(frames), clip.fps)
                missing = np.full((68, 3), np.nan, np.float32)
                points = np.stack([missing if face is None else face.landmarks for face in faces])
                made = replace(clip, frames=frames, landmarks=points)
            names = [metric for metric in wanted.split() if here(metric)]
            values, reasons = measure(Case(made, clip, clip, clip), names)
            assert not reasons, reasons
            for metric, value in values.items():
                found.setdefault((name, metric), []).append(float(value or 0.0))
    return found


def start() -> Callable[[tuple[Path, Path]], dict[tuple[str, str], list[float]]]:
    return partial(curves, FaceTracker())


def monotone(values: list[float]) -> bool:
    steps = np.diff(values)
    return bool((steps > 0).all() or (steps < 0).all())


def table(found: list[dict[tuple[str, str], list[float]]]) -> str:
    lines = [
        "| damage (levels) | metric | undamaged | | | worst | monotone, clips |",
        "|---|---|---|---|---|---|---|",
    ]
    for key in found[0]:
        all_values = np.array([one[key] for one in found])
        _, unit, levels, _ = DAMAGES[key[0]]
        steps = ", ".join(f"{level:g}" for level in levels)
        cells = [f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" for value in all_values.mean(0)]
        good = sum(monotone(list(values)) for values in all_values)
        lines.append(
            f"| {key[0]} ({steps} {unit}) | {key[1]} | {' | '.join(cells)} | {good} of {len(found)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path, nargs="+", help="the next one lends its face, so at least two")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    pairs = list(zip(options.clips, options.clips[1:] + options.clips[:1], strict=True))
    outcomes = list(work(start, pairs, options.workers))
    for outcome in outcomes:
        if outcome.result is None:
            raise SystemExit(f"{outcome.item[0]}: {outcome.error}\n{outcome.details}")
    print(table([outcome.result for outcome in outcomes if outcome.result is not None]))
