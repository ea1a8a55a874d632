"""How a picture's head and eyes move, measured by the package's tracker: the figures in docs/lab/portrait.md.

    python benchmarks/picture.py PICTURE_OR_VIDEO ...

Each face is the picture, or the first frame of the video. Printed for each: slopes and correlations of the
poses found (yaw, pitch, roll) against those told, sinusoids of 8 degrees; blinks counted of those due; the
largest change further out than the head moves; flicker of an idle face, and of the real video's.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import numpy as np

from moditalker.features.face.shape import default_model, frontalize
from moditalker.features.face.tracker import FaceTracker
from moditalker.features.portrait.head import Blinks, idle
from moditalker.features.portrait.still import ABOVE, FALL_OFF, Still
from moditalker.geometry.points import EYE_LEFT, EYE_RIGHT
from moditalker.media import open_source
from moditalker.metrics.flicker import flicker

POSES, SECONDS, FPS = 24, 6, 25


def measure(tracker: FaceTracker, path: Path) -> None:
    source = open_source(path)
    picture = Still.found(tracker, source)
    face = picture.face

    told = 8 * np.sin(2 * np.pi * np.arange(POSES)[:, None] * [1, 2, 3] / POSES)
    seen = [tracker.again(picture.turned(pose)[0], face) for pose in told]
    points = np.stack([face.landmarks, *(s.landmarks for s in seen)])
    angles = frontalize(points, default_model().neutral(face.landmarks[None]))[1].angles()
    found = angles[1:] - angles[0]
    slopes = [(a @ b) / (b @ b) for a, b in zip(found.T, told.T, strict=True)]
    agree = [np.corrcoef(a, b)[0, 1] for a, b in zip(found.T, told.T, strict=True)]

    blinks, motion = Blinks(30, seed=1), idle(1)
    times = np.arange(FPS * SECONDS) / FPS
    frames = [picture.turned(motion(t), blinks.closure(t))[0] for t in times]
    opened = np.array([openness(tracker.again(frame, face).landmarks) for frame in frames])
    shut = opened < 0.7 * np.median(opened)
    counted = int((shut[1:] & ~shut[:-1]).sum())
    due = sum(blinks.start(k) + 0.12 < SECONDS for k in range(SECONDS))

    y, x = np.mgrid[: picture.image.shape[0], : picture.image.shape[1]]
    distance = np.hypot(x - face.centre[0], y - face.centre[1]) / face.size
    far = distance > FALL_OFF * ABOVE / 2
    outside = max(int(np.abs(frame.astype(int) - picture.image)[far].max(initial=0)) for frame in frames)

    near = distance < 0.45
    own = flicker(np.stack([picture.turned(motion(t))[0] for t in times[FPS : 4 * FPS]]), near)
    text = ""
    if source.info.kind == "video":
        text = f", real video {flicker(np.stack([f.image for f in islice(source, 3 * FPS)]), near):.2f}"
    print(f"{path}: slopes {np.round(slopes, 2)}, correlations {np.round(agree, 3)}")
    print(f"  blinks {counted} of {due}, outside {outside}, flicker {own:.2f}{text}", flush=True)


def openness(points: np.ndarray) -> float:
    """Height over width of the eyes, from the 68 landmarks."""
    heights, widths = 0.0, 0.0
    for eye in (points[EYE_RIGHT, :2], points[EYE_LEFT, :2]):
        heights += float(np.linalg.norm(eye[1] - eye[5]) + np.linalg.norm(eye[2] - eye[4]))
        widths += float(np.linalg.norm(eye[0] - eye[3]))
    return heights / widths / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("faces", nargs="+", type=Path)
    tracker = FaceTracker()
    for path in parser.parse_args().faces:
        measure(tracker, path)


if __name__ == "__main__":
    main()
