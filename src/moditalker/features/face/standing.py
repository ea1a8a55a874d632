"""What stands still in the picture while the face moves: captions, logos, a channel's name [ours].

A sharp edge that keeps its place in the frame, while a part of the face would have moved on, is in front of
it. Nothing has to be known of what it looks like.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from moditalker.geometry.align import inverse
from moditalker.geometry.raster import sampling_grid

Pixels = NDArray[np.uint8]
Array = NDArray[np.float32]
Floats = NDArray[np.floating]

# Lengths are pixels of the crop of 128.
ROWS, COLUMNS = slice(64, 128), slice(22, 106)  # of the crop that are looked at: what is around the mouth
SHAPE = ROWS.stop - ROWS.start, COLUMNS.stop - COLUMNS.start
EVERY = 0.12  # seconds between frames that are remembered
MEMORY = 25  # of these
MOVED = 2.0  # that the face went on across an edge, from which on an earlier frame tells
WITNESSES, AGREE = 5, 3  # earlier frames that are asked, those from which the face moved most; that agree
HELD = 3  # frames of what was found that are kept: a head that rests shows nothing new
SHARP = 40.0  # levels from one pixel to the next: an edge that is drawn
SAME = 12.0  # levels that a place may differ by and be the same
FEW, NEAR = 7, 13  # edge pixels in a square of so many: fewer are chance
WIDE = 2  # around edge pixels: letters have a body


class Standing:
    """Remembers a shot and finds what stands in its frames.

    Args:
        seen: crops (128, 128, 3) of the shot with their matrices (2, 3), frame -> crop pixel, to begin with.
    """

    def __init__(self, seen: Iterable[tuple[Pixels, Floats]] = (), fps: float = 25.0) -> None:
        self.memory = deque((_part(crop, matrix) for crop, matrix in seen), maxlen=MEMORY)
        self.found: deque[tuple[Array, Array, Floats]] = deque(maxlen=HELD)  # and the frame it stood in
        self.every, self.count = max(1, round(EVERY * fps)), len(self.memory)
        self.looked: tuple[Array, Floats] | None = None  # at last

    def forget(self) -> None:
        """Another shot begins."""
        self.memory.clear()
        self.found.clear()
        self.count = 0

    def remember(self) -> None:
        """The frame in which something was looked for last is the shot's next one."""
        if self.looked is not None and self.count % self.every == 0:
            self.memory.append(self.looked)
        self.count += 1

    def find(self, crop: Pixels, matrix: Floats) -> Array | None:
        """What stands around the mouth of a frame: (128, 128) in {0, 1}; None where nothing does.

        crop: (128, 128, 3) uint8; matrix: (2, 3), frame -> crop pixel.
        """
        grey, matrix = self.looked = _part(crop, matrix)
        steps = np.stack([np.diff(grey, axis=axis, append=grey.take([-1], axis)) for axis in (1, 0)])  # x, y
        steepness = np.sqrt(np.square(steps).sum(0))
        edges = steepness > SHARP
        middle = np.array(grey.shape[::-1]) / 2  # about where the mouth is
        back = inverse(matrix)
        frame = np.append(back[:, :2] @ middle + back[:, 2], 1.0)
        moved = np.array([own @ frame - middle for _, own in self.memory]).reshape(-1, 2)
        far = np.argsort(-np.linalg.norm(moved, axis=1))[:WITNESSES]
        # An edge tells nothing of a face that moves along it.
        across = np.abs(np.tensordot(moved[far], steps, 1)) > MOVED * np.maximum(steepness, 1e-6)
        asked = edges & across
        far, asked = far[some := asked.any((1, 2))], asked[some]
        earlier = _placed(matrix, [self.memory[i] for i in far], "border")
        stood = _placed(matrix, [(np.stack([other, was]), own) for was, other, own in self.found], "zeros")
        same = np.abs(earlier[:, 0] - grey) < SAME
        standing = np.where(asked, np.where(same, 1, -WITNESSES), 0).sum(0) >= AGREE
        if standing.sum() >= FEW:
            self.found.append((standing.astype(np.float32), grey, matrix))
        for there, still in stood:  # what stood stays as long as it looks the same
            standing = standing | ((still > 0.5) & (np.abs(there - grey) < 2 * SAME))
        if not standing.any():
            return None
        plane = torch.from_numpy(standing.astype(np.float32))[None, None]
        crowd = F.avg_pool2d(plane, NEAR, 1, NEAR // 2) * NEAR**2
        plane = plane * (crowd >= FEW)
        if not plane.any():
            return None
        whole = np.zeros(crop.shape[:2], np.float32)
        whole[ROWS, COLUMNS] = F.max_pool2d(plane, 2 * WIDE + 1, 1, WIDE)[0, 0].numpy()
        return whole


def _placed(matrix: Floats, parts: Sequence[tuple[Array, Floats]], outside: str) -> Array:
    """Parts of earlier frames where this one has what keeps its place in the picture: (n, C, h, w).

    matrix: (2, 3), frame -> pixel of this frame's part; parts: (h, w) or (C, h, w) with such matrices;
    outside: "border" repeats the edge, "zeros" is 0.
    """
    if not parts:
        return np.zeros((0, 2, *SHAPE), np.float32)
    pictures = np.stack([part.reshape(-1, *SHAPE) for part, _ in parts])
    back = np.vstack([inverse(matrix), [0, 0, 1]])
    onto = [own @ back for _, own in parts]
    x, y = np.arange(float(SHAPE[1])), np.arange(float(SHAPE[0]))
    grid = torch.cat([sampling_grid(one, x, y, SHAPE) for one in onto])
    seen = F.grid_sample(torch.from_numpy(pictures), grid, padding_mode=outside, align_corners=False)
    return np.asarray(seen.numpy())


def _part(crop: Pixels, matrix: Floats) -> tuple[Array, Floats]:
    """The lower middle of a crop in grey, and the matrix (2, 3), frame -> pixel of it."""
    moved = np.array(matrix, np.float64)
    moved[:, 2] -= [COLUMNS.start, ROWS.start]
    return np.asarray(crop[ROWS, COLUMNS].astype(np.float32).mean(-1)), moved
