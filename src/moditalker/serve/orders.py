"""What the processes that work are asked for, and what they answer: the service knows no more of them.

None of this loads a network, so the service starts at once and stays small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from moditalker.talker.options import Options

VIDEO, SOURCE, MOTION, REPORT, PICTURE = (
    "talking.mp4",
    "source.mp4",
    "motion.json",
    "report.json",
    "newest.jpg",
)

FRAME, WORDS = b"F", b"W"  # first byte of a live message: a time and a JPEG follow, or JSON

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Upload:
    """A visitor's file: its path here, and the name that the visitor gave it."""

    path: Path
    name: str


@dataclass(frozen=True)
class Inspection:
    """A file to be looked at, of which a picture is written to `out`, or listened to, for `most` seconds."""

    file: Upload
    out: Path | None = None
    most: float = 0.0


@dataclass(frozen=True)
class FoundFaces:
    """A face file as it was found to be.

    width, height: of its frames, in pixels; faces: boxes (x0, y0, x1, y1) in pixels of the frame, from left
    to right; second: of the frame that is shown; still: it is no video; largest: index of the face that is
    taken unless another is chosen.
    """

    width: int
    height: int
    faces: list[Box]
    second: float
    still: bool
    largest: int = 0


@dataclass(frozen=True)
class VideoJob:
    """A video to be made into a folder: of a face and speech, either recorded or typed.

    compare: also write the source as a video that browsers play, if it is none of a picture.
    """

    face: Upload
    folder: Path
    audio: Upload | None = None
    text: str = ""
    voice: str = ""
    model: str = ""
    options: Options = field(default_factory=Options)
    most: float = 60.0
    compare: bool = False
    head: Upload | None = None


@dataclass(frozen=True)
class LiveJob:
    """A live session: sound comes over the line as 16-bit samples, and frames go back."""

    face: Upload
    line: Connection
    rate: int
    deadline: float
    options: Options


def begin(worker: str, *settings: Any) -> Callable[[Any], Any]:
    """A worker of `serve.tasks` by its name; only the process that works imports that module."""
    start: Callable[..., Callable[[Any], Any]] = getattr(import_module("moditalker.serve.tasks"), worker)
    return start(*settings)
