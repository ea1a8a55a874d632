"""Differences between successive frames, and cuts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False)
class Change:
    """A frame against the one before.

    look: (32, 32) grey samples in [0, 1]; size: their mean difference; jump: far larger than usual, as
    at a cut.
    """

    look: Array
    size: float
    jump: bool


def changes(frames: Iterable[Image]) -> Iterator[Change]:
    """How much each frame differs from the one before."""
    before: Array | None = None
    usual = 3 * CUT_USUAL
    for frame in frames:
        rows, columns = (np.linspace(0, n - 1, 32).astype(int) for n in frame.shape[:2])
        look = np.asarray(frame[np.ix_(rows, columns)].mean(2, dtype=np.float32) / 255)
        size = 0.0 if before is None else float(np.abs(look - before).mean())
        jump = size > CUT_RATIO * usual
        usual = usual if jump else max(CUT_USUAL, 0.8 * usual + 0.2 * size)
        before = look
        yield Change(look, size, jump)
