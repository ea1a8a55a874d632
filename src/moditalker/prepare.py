"""Videos -> prepared clips: ``python -m moditalker.prepare VIDEOS OUT``.

Each video becomes one safetensors file with what the training tasks read: aligned crops, landmarks in crop
pixels and in source pixels, the alignment, and the sound. Videos without a face on every frame are named and
left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from moditalker.config import CropConfig, load
from moditalker.errors import UserError
from moditalker.features.face import FaceTracker
from moditalker.landmarks import align, transform, warp
from moditalker.media import AudioReader, open_source

RATE = Fraction(25)  # frames a second that the models are trained at
SUFFIXES = {".mp4", ".mpg", ".mpeg", ".mov", ".mkv", ".avi", ".webm"}


def prepare_clip(
    video: Path, out: Path, tracker: FaceTracker, crop: CropConfig, seconds: float = 60.0
) -> None:
    """Prepare one video of at most ``seconds`` into the file ``out``, which appears whole or not at all.

    Raises:
        UserError: unreadable, another frame rate, or frames without a face.
    """
    source = open_source(video)
    if abs(source.info.fps - RATE) > Fraction(1, 10):
        raise UserError(
            f"{video.name}: {float(source.info.fps):.2f} frames a second; convert it to {RATE} first"
        )
    frames = []
    for frame in source:
        if frame.time >= seconds:
            break
        frames.append(frame.image)
    faces = list(tracker.track(iter(frames), float(RATE)))
    missing = sum(face is None for face in faces)
    if missing or not faces:
        raise UserError(f"{video.name}: no face on {missing} of {len(faces)} frames; cut these parts off")
    points = np.stack([face.landmarks for face in faces if face is not None])
    matrices = align(points, crop, float(RATE))
    images = np.stack(frames)
    tensors = {
        "crops": warp(images, matrices, crop.size),
        "landmarks": transform(points, matrices).astype(np.float32),
        "points": points,
        "matrices": matrices.astype(np.float32),
        "audio": AudioReader(video).read(seconds) if source.info.has_audio else np.zeros(0, np.float32),
    }
    part = out.with_suffix(".part")
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, part)
    part.replace(out)


def videos_below(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each video below a folder and the name of its clip: "speaker_clip" for speaker/clip.mp4."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            yield path, "_".join(path.relative_to(folder).with_suffix("").parts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m moditalker.prepare", description=__doc__)
    parser.add_argument("videos", type=Path, help="folder of videos, one folder below it for each speaker")
    parser.add_argument("out", type=Path, help="folder for the prepared clips; what is there already is kept")
    parser.add_argument("--preset", default="tiny")
    arguments = parser.parse_args()
    crop, tracker = load(arguments.preset).crop, FaceTracker()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for video, name in videos_below(arguments.videos):
        out = arguments.out / f"{name}.safetensors"
        if out.exists():
            continue
        try:
            prepare_clip(video, out, tracker, crop)
            print(f"{name}: done", flush=True)
        except UserError as error:
            print(f"{name}: left out: {error}", flush=True)


if __name__ == "__main__":
    main()
