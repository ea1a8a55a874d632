"""Changes to landmark motion that a user may ask for [ours]. Times are seconds, arrays (S, 68, 3) at 25 Hz.

A face is the sum of the face with its mouth shut (`shut_mouth`, which is linear) and the mouth's
opening. The mouth's gain scales the opening, the expression's strength scales the motion of the shut
face.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moditalker.config.limits import RATE
from moditalker.errors import UserError
from moditalker.geometry.points import shut_mouth, smooth_step
from moditalker.jobs.streams import Timeline
from moditalker.motion.dynamics import filtered, gaussian

Array = NDArray[np.float32]

RAMP = 4  # frames of a fade from one part to another
MAX_GAIN, MAX_SMOOTHING = 5.0, 1.0  # limit of both gains; seconds
MAX_SECONDS = 2 * 3600.0  # longest track


@dataclass(frozen=True)
class Style:
    """Gains and smoothing of a motion; the defaults change nothing.

    mouth: lip opening, times 0 to 5. expression: other motion, mainly of the mouth's corners, times 0 to
    5. smoothing: standard deviation of a Gaussian over time, 0 to 1 second.
    """

    mouth: float = 1.0
    expression: float = 1.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name, value, most in (
            ("mouth gain", self.mouth, MAX_GAIN),
            ("expression strength", self.expression, MAX_GAIN),
            ("smoothing", self.smoothing, MAX_SMOOTHING),
        ):
            if not 0 <= value <= most:
                raise UserError(f"{name} is {value:g}; it must be between 0 and {most:g}")

    @property
    def reach(self) -> int:
        """Frames at RATE to each side that smoothing looks at."""
        return math.ceil(3 * self.smoothing * RATE)


def styled(motion: Iterable[Array], identity: Array, style: Style) -> Iterable[Array]:
    """Apply a style to blocks (n, 68, 3) of a motion that was made for ``identity`` (68, 3)."""
    if style.smoothing > 0:
        motion = filtered(motion, gaussian(style.smoothing * RATE, style.reach))
    if style.mouth != 1 or style.expression != 1:
        motion = _scaled(motion, identity, style)
    return motion


def _scaled(motion: Iterable[Array], identity: Array, style: Style) -> Iterator[Array]:
    rest = shut_mouth(identity)
    for block in motion:
        shut = shut_mouth(block)
        face = rest + style.expression * (shut - rest) + style.mouth * (block - shut)
        yield face.astype(np.float32)


# The average motion of the lips of the people that AToM learnt from, and how much of a person's deviation
# from it recurs in their next sentences: slopes between logarithms (docs/lab/speech.md).
USUAL_MOVES = 0.053, 0.036  # deviation of lip opening and of mouth width, eye distances
TRUSTED_MOVES = 0.75, 0.54
LEAST_SIZE, MOST_SIZE = 0.75, 1.8  # limits of the scale for a person
SILENT = 0.35  # share of the usual motion below which the lips do not speak


def own_style(moves: tuple[float, float], strength: float) -> Style:
    """Return the style that makes motion as large as a person's own lip motion, ``moves``.

    Args:
        moves: as `Identity.moves`. If these lips hardly move, the motion stays unchanged.
        strength: 0 leaves the motion unchanged, 1 follows the person within fixed limits.
    """
    sizes = [
        float(np.clip((own / usual) ** (strength * trusted), LEAST_SIZE, MOST_SIZE))
        for own, usual, trusted in zip(moves, USUAL_MOVES, TRUSTED_MOVES, strict=True)
    ]
    if moves[0] < SILENT * USUAL_MOVES[0]:
        return Style()
    return Style(mouth=sizes[0], expression=sizes[1])


def hold(track: Array, start: float, end: float) -> Array:
    """Hold the face of ``start`` until ``end``."""
    first, last = _range(track, start, end)
    return _mixed(track, np.broadcast_to(track[first], track.shape), _weight(track, first, last, before=0))


def shut(track: Array, start: float, end: float) -> Array:
    """Shut the mouth from ``start`` to ``end``; it closes before and opens after."""
    first, last = _range(track, start, end)
    return _mixed(track, shut_mouth(track), _weight(track, first, last, before=RAMP))


def retime(track: Array, start: float, end: float, seconds: float) -> Array:
    """Stretch the part from ``start`` to ``end`` to ``seconds``; the rest moves in time."""
    first, last = _range(track, start, end)
    if not 1 / RATE <= seconds <= MAX_SECONDS:
        raise UserError(
            f"{seconds:g} s is no length for a part of a track; give {1 / RATE:g} to {MAX_SECONDS:g} s"
        )
    count = round(seconds * RATE)
    timeline = Timeline([track], RATE)
    step = (last - first) / count / RATE
    between = [timeline.at(first / RATE + i * step) for i in range(count)]
    return np.concatenate([track[:first], np.stack(between).astype(np.float32), track[last:]])


def splice(track: Array, other: Array, at: float) -> Array:
    """``track`` until ``at``, and from there ``other``, each at its own time; they fade within 0.16 s."""
    if not 0 <= at * RATE < min(len(track), len(other)):
        shorter = min(len(track), len(other)) / RATE
        raise UserError(f"the tracks cannot be joined at {at:g} s; the shorter one lasts {shorter:g} s")
    first = round(at * RATE)
    length = max(len(track), len(other))
    before, after = (
        np.concatenate([part, np.repeat(part[-1:], length - len(part), 0)]) for part in (track, other)
    )
    weight = smooth_step((np.arange(length) - first + RAMP / 2) / RAMP).astype(np.float32)
    return _mixed(before, after, weight)[: len(other)]


def _range(track: Array, start: float, end: float) -> tuple[int, int]:
    """Seconds -> the first frame, and the one after the last."""
    seconds = len(track) / RATE
    if not 0 <= start < end or start >= seconds:
        raise UserError(f"{start:g} to {end:g} s is no part of a track of {seconds:g} s")
    first = min(round(start * RATE), len(track) - 1)
    return first, min(max(round(min(end, seconds) * RATE), first + 1), len(track))


def _weight(track: Array, first: int, last: int, before: int) -> Array:
    """1 from first to last, 0 outside, with a ramp of ``before`` frames ahead of it and RAMP behind it."""
    frames = np.arange(len(track), dtype=np.float64)
    rise = (frames - first) / (before + 1) + 1
    fall = (last - 1 - frames) / (RAMP + 1) + 1
    weight: Array = smooth_step(np.minimum(rise, fall)).astype(np.float32)
    return weight


def _mixed(one: Array, other: Array, weight: Array) -> Array:
    """A mix: exactly `one` where the weight is 0, exactly `other` where it is 1."""
    share = weight[:, None, None]
    mixed = one + share * (other - one)
    return np.where(share == 1, other, mixed).astype(np.float32)
