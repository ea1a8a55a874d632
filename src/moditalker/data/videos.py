"""The videos to prepare, and a record of each."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from moditalker.config import limits
from moditalker.data.split import Split
from moditalker.errors import UserError
from moditalker.media import Frame

Array = NDArray[Any]

SUFFIXES = {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
RATE = Fraction(limits.RATE)  # frames a second of a sample [paper]


@dataclass(frozen=True)
class Job:
    """A video to prepare."""

    path: Path
    video: str  # below the folder of videos
    key: str  # its samples' names begin with this
    speaker: str
    split: str


@dataclass
class Record:
    """The record of a prepared video.

    dropped: stretches that no sample holds, {"from", "to": seconds, "why"}. error: why nothing of it
    could be used; failed: not for a reason of its own, so the next run tries again. split: its part of
    the dataset; shard: where its samples are. offset: frames of 25 Hz by which the lips lead the sound,
    and its confidence (`metrics.offset`); corrected: frames by which the samples' sound was advanced, 0
    where the offset is not known well enough or is small.
    """

    video: str
    bytes: int
    modified: int  # ns
    seconds: float = 0.0
    kept_seconds: float = 0.0
    samples: list[str] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str = ""
    failed: bool = False
    split: str = ""
    shard: str = ""
    offset: int = 0
    offset_confidence: float = 0.0
    corrected: int = 0

    @classmethod
    def of(cls, job: Job) -> Record:
        """The first record of a video; a video that is gone has failed."""
        try:
            state = job.path.stat()
        except OSError as error:
            why = f"it cannot be read ({error.strerror})"
            return cls(job.video, 0, 0, error=why, failed=True, split=job.split)
        return cls(job.video, state.st_size, state.st_mtime_ns, split=job.split)

    def drop(self, first: int, last: int, why: str) -> None:
        """Frames first to last belong to no sample."""
        start, stop = float(first / RATE), float((last + 1) / RATE)
        if self.dropped and self.dropped[-1]["why"] == why and self.dropped[-1]["to"] == start:
            self.dropped[-1]["to"] = stop
        else:
            self.dropped.append({"from": start, "to": stop, "why": why})


def at_rate(frames: Iterable[Frame], rate: Fraction = RATE) -> Iterator[Frame]:
    """For each multiple of 1 / rate up to the end of the last frame, the frame nearest to it in time."""
    number, before = 0, None
    for frame in frames:
        while before is not None and number / rate < (before.time + frame.time) / 2:
            yield before
            number += 1
        before = frame
    while before is not None and (number + Fraction(1, 2)) / rate < before.time + before.duration:
        yield before
        number += 1


def find_videos(folder: Path, split: Split | None = None) -> list[Job]:
    """The videos below a folder, in the order of their names; with a split, those that it gives a part.

    A video's speaker is the folder that it lies in; right in ``folder``, its name without trailing numbers.

    Raises:
        UserError: there is none; the split names a folder as if it were a video.
    """
    jobs: list[Job] = []
    for path in sorted(files_below(folder)):
        name = path.relative_to(folder)
        part = "" if split is None else split.part(name.as_posix())
        if path.suffix.lower() in SUFFIXES and path.is_file() and path.name[0] != ".":
            speaker = name.parent.as_posix() if name.parent.parts else re.sub(r"(_\d+)+$", "", name.stem)
            jobs.append(Job(path.absolute(), name.as_posix(), plain(name), speaker, part))
    if split is not None:
        split.check(job.video for job in jobs)
        jobs = [job for job in jobs if job.split]
    if not jobs:
        listed = "" if split is None else " that the split lists"
        raise UserError(f"{folder}: there is no video in it{listed} ({', '.join(sorted(SUFFIXES))})")
    keys = Counter(job.key.lower() for job in jobs)
    return [job if keys[job.key.lower()] == 1 else replace(job, key=unique(job)) for job in jobs]


def files_below(folder: Path) -> Iterator[Path]:
    """Files at any depth; what links to folders lead to comes last, and no folder twice."""
    seen: set[tuple[int, int]] = set()
    waiting = deque([folder])
    while waiting:
        for place, folders, files in os.walk(waiting.popleft()):
            try:
                state = Path(place).stat()
            except OSError:
                continue  # it is gone
            if (state.st_dev, state.st_ino) in seen:
                folders.clear()
                continue
            seen.add((state.st_dev, state.st_ino))
            folders.sort()
            waiting.extend(below for name in folders if (below := Path(place, name)).is_symlink())
            yield from (Path(place, name) for name in files)


def plain(name: Path) -> str:
    """A name for samples: letters, digits, "-" and "_" alone."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", "_".join(name.with_suffix("").parts))[-80:]


def unique(job: Job) -> str:
    """The key of a video that shares its plain name with another."""
    return f"{job.key}-{hashlib.sha256(os.fsencode(job.video)).hexdigest()[:8]}"
