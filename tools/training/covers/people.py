"""Faces with nothing in front of them, found once and kept in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moditalker.config import CropConfig
from moditalker.features.face.tracker import FaceTracker, largest
from moditalker.geometry.align import align, transform
from moditalker.geometry.raster import warp
from moditalker.jobs.files import appearing
from moditalker.media import open_source

Floats = NDArray[np.floating]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class People:
    """Free faces: names (N,), crops (N, 128, 128, 3) uint8, landmarks (N, 68, 2) float32 in crop pixels."""

    names: NDArray[np.str_]
    crops: Pixels
    landmarks: NDArray[np.float32]

    def of(self, names: Iterable[str], without: bool = False) -> People:
        """Those of some people, or of all others."""
        chosen = np.isin(self.names, sorted(names), invert=without)
        return People(self.names[chosen], self.crops[chosen], self.landmarks[chosen])

    def save(self, path: Path) -> None:
        with appearing(path) as file:
            np.savez_compressed(file, names=self.names, crops=self.crops, landmarks=self.landmarks)

    @classmethod
    def load(cls, path: Path) -> People:
        with np.load(path) as file:
            return cls(file["names"], file["crops"], file["landmarks"])


def find_people(
    files: Iterable[tuple[str, Path]], most: int, crop: CropConfig, log: Callable[[str], None] = print
) -> People:
    """Up to `most` faces out of each picture or video, evenly in time; files: of a person's name."""
    tracker = FaceTracker()
    names: list[str] = []
    crops: list[Pixels] = []
    landmarks: list[NDArray[np.floating]] = []
    for name, path in files:
        source = open_source(path)
        picture = source.info.kind == "picture"
        frames = 1 if picture else max(1, int(float(source.info.seconds or 3) * float(source.info.fps)))
        stride = max(1, frames // most)
        before = len(names)
        for number, frame in enumerate(source):
            if number >= (1 if picture else stride * most):
                break
            if number % stride or not (faces := tracker.detect(frame.image, 0)):
                continue
            points = faces[largest(faces)].landmarks
            matrix = align(points[None], crop)[0]
            names.append(name)
            crops.append(warp(frame.image[None], matrix[None], crop.size)[0])
            landmarks.append(transform(points[None], matrix[None])[0, :, :2])
        log(f"cover: {name} {path.name}: {len(names) - before} faces")
    return People(np.array(names), np.stack(crops), np.stack(landmarks).astype(np.float32))
