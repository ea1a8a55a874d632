"""How the head of a still picture moves, and when its eyes blink [ours].

A head motion is a function of time: seconds -> (yaw, pitch, roll) in degrees beside the picture's own pose,
in the senses of `geometry.pose.Pose.angles`. Times are asked for in rising order.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moditalker.config.limits import BLINKS, RATE
from moditalker.errors import UserError
from moditalker.features.face.identity import ANCHOR_FACES, ANCHOR_SECONDS
from moditalker.features.face.shape import default_model, frontalize
from moditalker.features.face.tracker import FaceTracker
from moditalker.geometry.points import smooth_step
from moditalker.jobs import spreadsheets
from moditalker.jobs.streams import beside
from moditalker.media import Length, VideoReader, plan_frames

Angles = NDArray[np.float64]  # (3,) degrees: yaw (positive: nose to the viewer's right), pitch (down), roll
HeadMotion = Callable[[float], Angles]

IDLE = np.array([3.0, 2.0, 1.0])  # degrees that idle motion never exceeds
SLOWEST, FASTEST, WAVES = 0.1, 0.4, 4  # Hz and number of the sinusoids that idle motion is made of
SETTLE = 1.0  # s in which idle motion sets in: the first frame is the picture
MAX_BLINKS = 60.0  # a minute
SHUTTING, SHUT, OPENING = 0.08, 0.04, 0.12  # s of a blink: lids fall faster than they rise
UNEVEN = 0.35  # of the mean interval: how much earlier or later than evenly a blink comes
LIMIT = 12.0  # degrees, beyond which a picture cannot be turned without looking bent
CSV_RATE = RATE  # rows a second where no row says its time
MAX_ROWS = 180_000  # two hours of them
MAX_BYTES = 32 << 20


def still(seconds: float) -> Angles:
    """No motion at all."""
    return np.zeros(3)


def idle(seed: int = 0) -> HeadMotion:
    """The small, slow motion of a head at rest: a few sinusoids for each angle, drawn by the seed."""
    chance = np.random.default_rng([seed, 1])
    spread = (np.arange(WAVES) + chance.random((3, WAVES))) / WAVES
    rates = SLOWEST * (FASTEST / SLOWEST) ** spread  # Hz
    sizes = 1 / rates
    sizes *= IDLE[:, None] / sizes.sum(1, keepdims=True)
    phases = 2 * math.pi * chance.random((3, WAVES))

    def motion(seconds: float) -> Angles:
        swing = (sizes * np.sin(2 * math.pi * rates * seconds + phases)).sum(1)
        return np.asarray(swing * smooth_step(seconds / SETTLE))

    return motion


@dataclass(frozen=True)
class Blinks:
    """How far the eyes are shut over time: `rate` blinks a minute, unevenly spaced by the seed.

    One blink falls into each interval of 60 / rate seconds. Raises UserError for a rate that is not 0 to 60.
    """

    rate: float = BLINKS
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= MAX_BLINKS:
            raise UserError(f"{self.rate:g} blinks a minute; it must be between 0 and {MAX_BLINKS:g}")

    def start(self, number: int) -> float:
        """Second at which a blink begins, counted from 0."""
        late = np.random.default_rng([self.seed, 2, number]).uniform(-UNEVEN, UNEVEN)
        return float(number + 0.5 + late) * 60 / self.rate

    def closure(self, seconds: float) -> float:
        """0: open as in the picture, 1: shut."""
        if self.rate == 0:
            return 0.0
        number = int(seconds * self.rate / 60)
        return max(_lids(seconds - self.start(k)) for k in (max(0, number - 1), number))


def _lids(seconds: float) -> float:
    """How far the eyes are shut this many seconds after a blink's beginning."""
    return float(smooth_step(seconds / SHUTTING) - smooth_step((seconds - SHUTTING - SHUT) / OPENING))


def read_poses(path: str | Path) -> HeadMotion:
    """Head motion from a CSV file: a header, then one pose a row.

    Columns by name, in any order: yaw, pitch, roll in degrees beside the picture's own pose, and optionally
    seconds, rising; without them there are 25 rows a second. Between rows the motion is linear, after the
    last one it stays.

    Raises:
        UserError: an unreadable file, another header, a cell that is no number, an angle beyond 12 degrees,
            seconds that do not rise, no row or more than 180 000.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: has more than {MAX_BYTES >> 20} MiB; it is no table of head poses")
        separator, text = spreadsheets.divided(spreadsheets.decoded(path.read_bytes()))
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV file ({error})") from error
    header = [name.strip().lower() for name in rows[0]] if rows else []
    if sorted(header) not in (["pitch", "roll", "yaw"], ["pitch", "roll", "seconds", "yaw"]):
        raise UserError(f"{path}: the first line must be yaw,pitch,roll or seconds,yaw,pitch,roll")
    if not 1 <= len(rows) - 1 <= MAX_ROWS:
        raise UserError(f"{path}: {len(rows) - 1} poses; there must be 1 to {MAX_ROWS}")
    poses = enumerate(rows[1:], 1)
    table = np.array([_numbers(path, number, row, len(header), separator) for number, row in poses])
    columns = dict(zip(header, table.T, strict=True))
    angles = np.stack([columns[name] for name in ("yaw", "pitch", "roll")])
    times = columns.get("seconds", np.arange(len(table)) / CSV_RATE)
    size = np.abs(angles).max(0)
    if size.max() > LIMIT:
        raise UserError(
            f"{path}, pose {size.argmax() + 1}: {size.max():g} degrees; a picture can be turned by {LIMIT:g}"
        )
    if (np.diff(times) <= 0).any():
        raise UserError(f"{path}: seconds must rise from row to row")
    return lambda seconds: np.array([np.interp(seconds, times, angle) for angle in angles])


def _numbers(path: Path, number: int, row: list[str], count: int, separator: str) -> list[float]:
    try:
        numbers = [float(spreadsheets.number(cell, separator)) for cell in row]
    except ValueError:
        numbers = []
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise UserError(f"{path}, pose {number}: {','.join(row)[:80]!r} is not {count} numbers")
    return numbers


class Copied:
    """The head motion of a video, relative to its usual pose; a short video continues back and forth.

    The usual pose is the median of the first faces. Large angles are reduced, so that none exceeds LIMIT.
    While no face is seen, the head moves linearly to its next pose.

    Args:
        tracker: finds the face, the largest one.
        seconds: how long the motion will be.

    Raises:
        UserError: not a video, or no face in it.
    """

    def __init__(self, tracker: FaceTracker, path: str | Path, seconds: Length) -> None:
        self.tracker, self.seconds = tracker, seconds
        self.source = VideoReader(path, planes=False)
        stride = max(1, round(ANCHOR_SECONDS * self.source.info.fps))
        images = (frame.image for frame in islice(self.source, 0, None, stride))
        seen = (
            face.landmarks for face in tracker.track(images, float(self.source.info.fps / stride)) if face
        )
        points = list(islice(seen, ANCHOR_FACES))
        if not points:
            raise UserError(f"{path}: no face was found in it whose motion could be copied")
        self.neutral = default_model().neutral(np.stack(points))
        self.usual = np.median(self._angles(np.stack(points)), axis=0)
        self.time = math.inf

    def _angles(self, points: NDArray[np.float32]) -> NDArray[np.float64]:
        return frontalize(points, self.neutral)[1].angles()

    def _poses(self) -> Iterator[tuple[float, Angles]]:
        fps = float(self.source.info.fps)
        frames = plan_frames(self.source, self.seconds)
        for frame, face in beside(frames, lambda items: self.tracker.track((f.image for f in items), fps)):
            if face is not None:
                turned = self._angles(face.landmarks[None])[0] - self.usual
                yield float(frame.time), LIMIT * np.tanh(turned / LIMIT)

    def __call__(self, seconds: float) -> Angles:
        if seconds < self.time:  # from the start (again)
            self.poses = self._poses()
            self.before = self.after = next(self.poses)
        self.time = seconds
        while self.after[0] < seconds and (pose := next(self.poses, None)) is not None:
            self.before, self.after = self.after, pose
        (start, first), (end, last) = self.before, self.after
        share = min(max((seconds - start) / (end - start), 0.0), 1.0) if end > start else 1.0
        return first + share * (last - first)


def head_motion(head: str | Path, seed: int, tracker: FaceTracker, seconds: Length) -> HeadMotion:
    """ "still", "idle" (drawn by the seed), a CSV file of poses, or a video to copy for so many seconds."""
    if head == "still":
        return still
    if head == "idle":
        return idle(seed)
    if not Path(head).suffix and not Path(head).exists():
        raise UserError(f"head {str(head)!r}: idle, still, a .csv of poses or a video is expected")
    return read_poses(head) if Path(head).suffix.lower() == ".csv" else Copied(tracker, head, seconds)
