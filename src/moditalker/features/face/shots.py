"""Differences between successive frames: cuts, and shots that dissolve into each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, repeat

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Image = NDArray[np.uint8]  # (H, W, 3) RGB

# Cuts: neighbouring frames differ (mean grey difference, of 1) this many times more than usual, and the face
# has moved by this part of its size, or they differ by so much that it does not matter.
CUT_RATIO, CUT_MOVE, CUT_DIFFERENCE = 5.0, 0.04, 0.2
CUT_PART = (
    0.4  # and where the face was lost: this part of the picture is new (something in its way is smaller)
)
CUT_USUAL = 0.006  # the least that counts as usual: people talking before a fixed camera

# Dissolves [ours]: a frame is the mean of those before and after it, although nearly all of the picture
# changes, and neither light nor a moving camera says why. 52 videos of people have no such frame.
REACH_SECONDS = 0.08  # before and after
CHANGED, CHANGED_PART = 0.012, 0.75  # of white: more is a change; how much of the picture has to
STRAIGHT = 0.38  # the most that a frame may miss the mean by, as a share of half the change
FINE, FARTHEST = 128, 8  # samples along a side; so many is the farthest that a camera moves in between
SHIFTED = 0.6  # the most that a camera's move leaves of a change
UNEXPLAINED = 0.02  # of white, root mean square: the least change that light and camera leave


@dataclass(frozen=True, eq=False)
class Change:
    """A frame against the one before.

    look: (32, 32) grey samples in [0, 1]; size: their mean difference; jump: far larger than usual, as
    at a cut; dissolving: two shots are mixed.
    """

    look: Array
    size: float
    jump: bool
    dissolving: bool = False


def changes(frames: Iterable[Image], fps: float = 25.0) -> Iterator[Change]:
    """How much each frame differs from the one before. Looks REACH_SECONDS ahead; fps: of the frames."""
    reach = max(1, round(REACH_SECONDS * fps))
    seen: deque[tuple[Change, Array] | None] = deque([None] * (2 * reach + 1), maxlen=2 * reach + 1)
    since = reach + 1  # frames since the last that was the mean of others
    ends: Iterator[tuple[Change, Array] | None] = repeat(None, reach)
    for number, item in enumerate(chain(_changes(frames), ends)):
        seen.append(item)
        if number < reach or (middle := seen[reach]) is None:
            continue
        first, last = seen[0], seen[-1]
        cut = any(one is not None and one[0].jump for one in seen)
        mixed = first is not None and last is not None and not cut
        since = 0 if mixed and first and last and dissolves(first[1], middle[1], last[1]) else since + 1
        yield replace(middle[0], dissolving=since <= reach)


def dissolves(before: Array, now: Array, after: Array) -> bool:
    """Whether a picture is a mix of two others. All are (FINE, FINE) in [0, 1]."""
    whole = before, after
    before, now, after = (_coarse(picture) for picture in (before, now, after))
    change = after - before
    if (np.abs(change) > CHANGED).mean() < CHANGED_PART:
        return False
    missed = now - (before + after) / 2
    if np.square(missed).mean() > np.square(STRAIGHT * change / 2).mean():
        return False
    down, across = np.gradient((before + after) / 2)
    y, x = np.mgrid[: len(now), : len(now)] / len(now) - 0.5
    moved = [down, across, down * x, down * y, across * x, across * y]  # by a camera
    causes = np.stack([*moved, before, np.ones_like(now)], axis=-1).reshape(-1, 8)
    left = change.ravel() - causes @ np.linalg.lstsq(causes, change.ravel(), rcond=None)[0]
    return bool(np.sqrt(np.square(left).mean()) > UNEXPLAINED) and not _shifted(*whole)


def _shifted(before: Array, after: Array) -> bool:
    """Whether a shift of the whole picture explains most of a change."""
    side = FINE - 2 * FARTHEST
    inner = after[FARTHEST : FARTHEST + side, FARTHEST : FARTHEST + side]
    steps = range(2 * FARTHEST + 1)
    left = [np.square(inner - before[y : y + side, x : x + side]).mean() for y in steps for x in steps]
    return bool(min(left) < SHIFTED**2 * left[len(left) // 2])


def _coarse(picture: Array) -> Array:
    """(FINE, FINE) -> (32, 32), means."""
    return np.asarray(picture.reshape(32, FINE // 32, 32, FINE // 32).mean((1, 3)))


def _changes(frames: Iterable[Image]) -> Iterator[tuple[Change, Array]]:
    """Each with a small picture, (FINE, FINE) grey samples in [0, 1]."""
    before: Array | None = None
    usual = 3 * CUT_USUAL
    for frame in frames:
        rows, columns = (np.linspace(0, n - 1, FINE).astype(int) for n in frame.shape[:2])
        fine = frame[np.ix_(rows, columns)].mean(2, dtype=np.float32) / 255
        rows, columns = (np.linspace(0, n - 1, 32).astype(int) for n in frame.shape[:2])
        look = np.asarray(frame[np.ix_(rows, columns)].mean(2, dtype=np.float32) / 255)
        size = 0.0 if before is None else float(np.abs(look - before).mean())
        jump = size > CUT_RATIO * usual
        usual = usual if jump else max(CUT_USUAL, 0.8 * usual + 0.2 * size)
        before = look
        yield Change(look, size, jump), fine
