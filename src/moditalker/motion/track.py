"""Motion tracks: files of landmarks, to edit and to render.

docs/motion.md describes the format. A file is not trusted: it is JSON of a bounded size, each number is
checked, and no path or name in it is opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moditalker.config.limits import RATE, sampling
from moditalker.errors import UserError
from moditalker.jobs.files import write_whole
from moditalker.motion import edit
from moditalker.motion.edit import MAX_SECONDS, Style

Array = NDArray[np.float32]

FORMAT, VERSION = "moditalker-motion", 1
POINTS = 68
MAX_BYTES = 192 << 20  # about an hour of JSON
FARTHEST = 10.0  # canonical units (eye distances): no point of a face is further from its middle
MAX_MADE = 100_000  # characters of provenance


@dataclass(frozen=True)
class Track:
    """Frontal landmarks over time, and the face they were made for. Iterating yields them in blocks.

    landmarks: (S, 68, 3) float32, canonical units, 25 Hz; identity: (68, 3), the l_id; made: provenance,
    plain JSON (seed, steps, weights, names of files). Changes return a new track.

    Raises:
        UserError: impossible points.
    """

    identity: Array
    landmarks: Array
    made: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", checked_points(self.identity, "identity", 2))
        object.__setattr__(self, "landmarks", checked_points(self.landmarks, "landmarks", 3))

    def __iter__(self) -> Iterator[Array]:
        yield self.landmarks

    @property
    def seconds(self) -> float:
        return len(self.landmarks) / RATE

    @property
    def seed(self) -> int:
        """The seed of the motion; the video's default."""
        return int(self.made.get("seed") or 0)

    @property
    def steps(self) -> int | None:
        steps: int | None = self.made.get("steps")
        return steps

    def styled(self, style: Style) -> Track:
        """Change mouth gain, expression strength or smoothing."""
        blocks = list(edit.styled(self, self.identity, style))
        return self._with(np.concatenate(blocks), str(style))

    def hold(self, start: float, end: float) -> Track:
        """Hold the face of ``start`` until ``end`` (seconds)."""
        return self._with(edit.hold(self.landmarks, start, end), f"hold {start:g}-{end:g}")

    def shut(self, start: float, end: float) -> Track:
        """Shut the mouth from ``start`` to ``end`` (seconds)."""
        return self._with(edit.shut(self.landmarks, start, end), f"shut {start:g}-{end:g}")

    def retime(self, start: float, end: float, seconds: float) -> Track:
        """Stretch the part from ``start`` to ``end`` to ``seconds``."""
        changed = edit.retime(self.landmarks, start, end, seconds)
        return self._with(changed, f"retime {start:g}-{end:g}={seconds:g}")

    def splice(self, other: Track, at: float) -> Track:
        """Join this track until ``at`` (seconds) and the other one from there, on this one's face."""
        moved = other.landmarks - other.identity + self.identity
        return self._with(edit.splice(self.landmarks, moved, at), f"splice {at:g}")

    def _with(self, landmarks: Array, change: str) -> Track:
        if len(landmarks) > MAX_SECONDS * RATE:
            raise UserError(f"a track of {len(landmarks) / RATE:g} s; the longest is {MAX_SECONDS:g} s")
        edits = [*self.made.get("edits", []), change]
        return replace(self, landmarks=landmarks, made=self.made | {"edits": edits})

    def save(self, path: str | Path) -> None:
        """Write the track as JSON, one line a frame.

        Raises:
            UserError: the file cannot be written.
        """
        about = {
            "format": FORMAT,
            "version": VERSION,
            "fps": RATE,
            "units": "eye distances of an average face; x right, y up, z towards the viewer",
            "points": "68, iBUG order",
            "made": self.made,
            "identity": _plain(self.identity),
        }
        frames = ",\n".join(json.dumps(_plain(frame)) for frame in self.landmarks)
        text = json.dumps(about, allow_nan=False)[:-1] + ',\n"frames": [\n' + frames + "\n]}\n"
        try:
            write_whole(Path(path), text.encode())
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error

    @classmethod
    def load(cls, path: str | Path) -> Track:
        """Read a track.

        Raises:
            UserError: no such file, or not a track that this version reads.
        """
        try:
            with Path(path).open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UserError(f"{path}: the track cannot be read ({error.strerror})") from error
        if len(content) > MAX_BYTES:
            raise UserError(f"{path}: more than {MAX_BYTES >> 20} MiB, which no track needs; cut it in parts")
        try:
            tree = json.loads(content, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: is no motion track (JSON: {str(error)[:100]})") from None
        try:
            return cls(*_checked(tree))
        except (ValueError, UserError) as error:
            raise UserError(f"{path}: is no motion track that can be used: {error}") from None


def checked_points(value: Any, name: str, dimensions: int) -> Array:
    """Check landmarks and return them as float32 (68, 3) or (S, 68, 3), canonical units, S at least 1.

    Raises:
        UserError: another shape, or impossible numbers.
    """
    try:
        points = np.asarray(value, dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        points = np.zeros(0, np.float32)
    if points.ndim != dimensions or points.shape[-2:] != (POINTS, 3) or not len(points):
        raise UserError(f"{name} must hold {POINTS} points of 3 numbers{' a frame' * (dimensions > 2)}")
    if not (np.abs(points) <= FARTHEST).all():
        raise UserError(f"{name} holds numbers beyond {FARTHEST:g} eye distances")
    return points


def _plain(points: Array) -> Any:
    """Write numbers in the fewest digits that give the same float32."""
    return points.astype(np.float32).astype(str).astype(float).tolist()


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


def _checked(tree: Any) -> tuple[Array, Array, dict[str, Any]]:
    """Read the arguments of `Track` from JSON. Raises ValueError or UserError."""
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise ValueError(f'"format" must be "{FORMAT}"')
    if tree.get("version") != VERSION:
        raise ValueError(f'"version" is {str(tree.get("version"))[:20]}; this program reads {VERSION}')
    if tree.get("fps") != RATE:
        raise ValueError(f'"fps" is {str(tree.get("fps"))[:20]}; it must be {RATE:g}')
    identity = checked_points(tree.get("identity"), '"identity"', 2)
    frames = checked_points(tree.get("frames"), '"frames"', 3)
    if not 1 <= len(frames) <= MAX_SECONDS * RATE:
        raise ValueError(f"{len(frames)} frames; 1 to {MAX_SECONDS * RATE:g} are expected")
    made = tree.get("made", {})
    if not isinstance(made, dict) or len(json.dumps(made)) > MAX_MADE:
        raise ValueError(f'"made" must be an object of at most {MAX_MADE} characters')
    if not isinstance(made.get("edits", []), list):
        raise ValueError('"made.edits" must be a list')
    sampling(0 if made.get("seed") is None else made["seed"], made.get("steps"))
    return identity, frames, made
