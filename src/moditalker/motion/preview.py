"""Draws a motion track: the face's lines on white."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from moditalker.config.limits import RATE
from moditalker.geometry.points import BROWS, EYE_LEFT, EYE_RIGHT, JAW, LIP_INNER, MOUTH, NOSE
from moditalker.media import Frame, VideoWriter, plain_info
from moditalker.motion.track import Track

SIZE = 320  # pixels of a side
EXTENT = 3.2  # eye distances that fit into it
LINES = [JAW, BROWS[:5], BROWS[5:], NOSE[:4], NOSE[4:]]
LOOPS = [EYE_RIGHT, EYE_LEFT, MOUTH[:12], LIP_INNER]


def draw_face(points: NDArray[np.float32], middle: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draw frontal landmarks (68, 3); middle: (2,), the picture's centre. -> (320, 320, 3) uint8."""
    pixels = (points[:, :2] - middle) * np.array([1, -1]) * SIZE / EXTENT + SIZE / 2
    picture = Image.new("RGB", (SIZE, SIZE), "white")
    pen = ImageDraw.Draw(picture)
    for line in LINES + [np.append(loop, loop[0]) for loop in LOOPS]:
        pen.line([(float(x), float(y)) for x, y in pixels[line]], fill=(30, 60, 110), width=2)
    return np.asarray(picture)


def save_preview(
    track: Track, out: str | Path, audio: str | Path | None = None, audio_track: int | None = None
) -> None:
    """Write a video of the landmarks with the sound of ``audio``; track: number of its sound track, from 1.

    Raises:
        UserError: the file cannot be written, or the sound cannot be read.
    """
    middle = (track.identity.max(0) + track.identity.min(0))[:2] / 2
    step = 1 / Fraction(RATE)
    with VideoWriter(out, plain_info(SIZE, SIZE, RATE), audio, track=audio_track) as writer:
        for number, points in enumerate(track.landmarks):
            writer.write(Frame(number, number * step, step, draw_face(points, middle)))
