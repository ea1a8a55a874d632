"""The recordings that AToM learns from, on disk: in parts, so that a stopped run keeps what it made."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from moditalker.config import RecordingsConfig
from moditalker.data.recordings import MotionClip, Recording, count_recordings, make_recordings
from moditalker.features.speech.encoders import SpeechEncoder
from moditalker.jobs.files import write_whole

PART = 50  # recordings in a file
LOG_SECONDS = 5.0  # between two lines that say how far the making is
BAR = 24  # characters of the bar in such a line


@dataclass(frozen=True)
class RecordingsFolder:
    """A folder of parts, 00000.safetensors and so on.

    origin: what the recordings are made of. A part of another origin, or a damaged one, is made again.
    """

    path: Path
    origin: str

    def parts(self) -> list[Path]:
        """The files that are there."""
        return sorted(self.path.glob("[0-9]*.safetensors"))

    def other(self) -> bool:
        """Whether it holds recordings of another origin."""
        return any(read_origin(part) not in ("", self.origin) for part in self.parts())

    def make(
        self,
        clips: list[MotionClip],
        encoder: SpeechEncoder,
        config: RecordingsConfig,
        seed: int,
        log: Callable[[str], None],
    ) -> None:
        """Make the parts that are missing; parts of another origin are deleted."""
        count, begun = count_recordings(clips, config), time.monotonic()
        firsts = range(0, count, PART)
        wanted = {self.path / f"{first // PART:05d}.safetensors": first for first in firsts}
        for part in self.parts():
            if part not in wanted or read_origin(part) != self.origin:
                part.unlink()
        missing = {part: first for part, first in wanted.items() if not part.exists()}
        if not missing:
            return
        todo = sum(min(PART, count - first) for first in missing.values())
        log(f"atom: making {todo} recordings of about {config.seconds:g} s out of {len(clips)} clips, once")
        self.path.mkdir(parents=True, exist_ok=True)
        for rest in self.path.glob(".*.part"):  # of a run that was killed
            rest.unlink()
        before, said = 0, begun

        def progress(made: int) -> None:
            nonlocal said
            now, done = time.monotonic(), before + made
            if now - said >= LOG_SECONDS or done == todo:
                said = now
                bar = "#" * round(BAR * done / todo)
                left = (now - begun) / done * (todo - done) / 60
                log(f"atom: recordings [{bar:<{BAR}}] {done}/{todo}, {left:.1f} min left")

        for part, first in missing.items():
            numbers = range(first, min(first + PART, count))
            save_recordings(
                make_recordings(clips, encoder, config, seed, numbers, progress), part, self.origin
            )
            before += len(numbers)

    def load(self) -> list[Recording]:
        """All recordings, in order."""
        return [recording for part in self.parts() for recording in load_recordings(part)]


def save_recordings(recordings: list[Recording], path: Path, origin: str = "") -> None:
    """To one safetensors file, whose metadata says what they were made of."""
    tensors: dict[str, NDArray[np.floating]] = {}
    for number, recording in enumerate(recordings):
        tensors[f"{number:05d}.{recording.speaker}.landmarks"] = np.ascontiguousarray(recording.landmarks)
        tensors[f"{number:05d}.{recording.speaker}.speech"] = recording.speech
    write_whole(path, save(tensors, {"origin": origin}))


def read_origin(path: Path) -> str:
    """The origin of a file's recordings; "" if it has none, or cannot be read."""
    try:
        with safe_open(path, "numpy") as file:
            result: str = (file.metadata() or {}).get("origin", "")
            return result
    except (OSError, SafetensorError):
        return ""


def load_recordings(path: Path) -> list[Recording]:
    """Read what :func:`save_recordings` wrote."""
    tensors = load_file(path)
    names = sorted({name.rsplit(".", 1)[0] for name in tensors})
    return [
        Recording(name.split(".", 1)[1], tensors[f"{name}.landmarks"], tensors[f"{name}.speech"])
        for name in names
    ]
