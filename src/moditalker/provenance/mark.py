"""An invisible mark in the generated region: a keyed pattern that changes slowly, found again by its key.

Spread spectrum [after Cox, Kilian, Leighton, Shamoon 1997, IEEE TIP 6(12)], in coordinates of the face: low
frequencies (cosines) of a window over mouth, cheeks and chin are raised or lowered by signs that a key gives,
other ones every `STEP` seconds. Since they belong to the face and to seconds, scaling, moving and coding
the video anew leave them; since they change, what stands still in a face cancels. The key is in this file:
the mark labels, it does not keep anyone from removing or forging it.

How sure a finding is needs no model of faces: to a video made without the key its signs are coin tosses. A
sum of coin tosses of any weights, divided by the root of the squares' sum, exceeds z with a probability of
at most 3.18 Q(z), Q being the normal distribution's tail [Bentkus, Dzindzalieta 2015, Bernoulli 21(2)].
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from moditalker.config import CropConfig
from moditalker.geometry.align import align, inverse
from moditalker.geometry.raster import warp

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]

KEY = b"moditalker mark 1"
FACE = CropConfig(size=128, region_top=60, eye_distance=42.0, eye_row=26.0)  # the mark's own crop of a face
ROWS, COLUMNS = slice(60, 112), slice(28, 100)  # the window in it: mouth, cheeks and chin
PERIODS = (9.0, 24.0)  # pixels of the crop: finer is lost in coding, coarser shows and is the face's own
STRENGTH = 1.65  # grey levels, root mean square over the window, at the moments that signs belong to
STEP = 0.16  # seconds from signs to signs
CYCLE = 64  # steps until signs come again
AROUND = 6  # steps to each side, whose mean is what stands still
CHANCE = 1e-6  # of a false alarm
LEAST = 8  # steps that a stretch must have to count
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Mark:
    """What was found. chance: at most, that a video without the mark looks so; z: of the statistic."""

    found: bool
    chance: float
    z: float
    seconds: float  # with a face in sight, that were looked at


def place(landmarks: NDArray[np.floating], aspect: float = 1.0) -> NDArray[np.float64]:
    """Where the mark belongs: landmarks (68, 3) of a frame, pixels -> matrix (2, 3), frame -> mark's crop.

    aspect: width of a pixel over its height. The mark is made for the picture as it is shown, so a video that
    is stretched to square pixels keeps it.
    """
    matrix: NDArray[np.float64] = align((landmarks * np.array([aspect, 1, 1]))[None], FACE)[0]
    matrix[:, 0] *= aspect
    return matrix


def embed(
    image: Pixels,
    mask: Array,
    landmarks: NDArray[np.floating],
    seconds: float,
    strength: float = 1.0,
    aspect: float = 1.0,
) -> Pixels:
    """A frame with the mark in it.

    Args:
        image: (H, W, 3) uint8. Not changed.
        mask: (H, W) in [0, 1], how much of a pixel was generated; where it is 0, the pixel stays.
        landmarks: (68, 3) of the face, pixels of the frame.
        seconds: from the video's beginning.
        strength: of the generated picture, in [0, 1].
        aspect: width of a pixel over its height.
    """
    rows, matrix = np.flatnonzero(mask.any(1)), place(landmarks, aspect)
    if not len(rows) or not np.isfinite(matrix).all():
        return image
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    to_box = inverse(matrix)
    # The pattern's own first pixel is the window's corner in the crop.
    to_box[:, 2] += to_box[:, :2] @ [COLUMNS.start, ROWS.start] - [columns[0], rows[0]]
    size = len(range(image.shape[0])[box[0]]), len(range(image.shape[1])[box[1]])
    change = warp(_pattern(seconds)[None], to_box[None], size, padding="zeros")[0] * mask[box] * strength
    marked: Pixels = image.copy()
    levels = np.rint(change).astype(np.int16)[..., None] + image[box]
    marked[box] = levels.clip(0, 255).astype(np.uint8)
    return marked


class Detector:
    """Looks for the mark, frame by frame, in constant memory.

    aspect: width of a pixel over its height.
    """

    def __init__(self, aspect: float = 1.0) -> None:
        self.aspect = aspect
        # Steps are counted from the beginning, and half a step later: a cut video may start anywhere.
        self.halves = [_Steps(0.0), _Steps(STEP / 2)]
        self.seconds, self.last = 0.0, 0.0

    def add(self, image: Pixels, landmarks: NDArray[np.floating] | None, seconds: float) -> None:
        """The next frame (H, W, 3) uint8, its face (68, 3) if it shows one, its time from the beginning."""
        elapsed, self.last = seconds - self.last, seconds
        matrix = None if landmarks is None else place(landmarks, self.aspect)
        if matrix is None or not np.isfinite(matrix).all():
            return
        self.seconds += min(elapsed, STEP)
        matrix[:, 2] -= [COLUMNS.start, ROWS.start]
        size = ROWS.stop - ROWS.start, COLUMNS.stop - COLUMNS.start
        grey = warp(image[None], matrix[None], size)[0].astype(np.float32) @ LUMA
        found = _Waves.get().analyse(grey)
        for half in self.halves:
            half.add(found, seconds)

    def result(self) -> Mark:
        """What has been found so far."""
        chance, best = 1.0, 0.0
        for number, half in enumerate(self.halves):
            scores = half.scores()
            # The file's own beginning is the likeliest of all: half of the doubt is left to it alone.
            tests = [(float(scores[0]), 2)] if number == 0 else []
            tests.append((float(scores.max()), 4 * CYCLE))
            for z, times in tests:
                if (doubt := times * _tail(z)) < chance:
                    chance, best = doubt, z
        return Mark(chance < CHANCE, chance, round(best, 2), round(self.seconds, 2))


class _Steps:
    """The waves' heights at every step, from an offset on; folded into one cycle."""

    def __init__(self, offset: float) -> None:
        self.offset = offset
        self.folded = np.zeros((CYCLE, len(_Waves.get().places)))
        self.begin(0)

    def begin(self, cycle: int) -> None:
        self.cycle = cycle
        self.sums = np.zeros_like(self.folded)
        self.weights = np.zeros(CYCLE)

    def add(self, found: Array, seconds: float) -> None:
        """A frame belongs to the steps before and after it, by its distance from them."""
        at = (seconds - self.offset) / STEP
        if at < 0:
            return
        if int(at) // CYCLE != self.cycle:
            self.folded = self.folded + self._stretch()
            self.begin(int(at) // CYCLE)
        step, after = int(at) % CYCLE, at % 1
        for place, weight in ((step, 1 - after), (step + 1, after)):
            if place < CYCLE:
                self.sums[place] += weight * found
                self.weights[place] += weight

    def _stretch(self) -> NDArray[np.float64]:
        """One cycle's heights without what stands still, and evened out: (CYCLE, waves), 0 where unknown.

        What the key says has no part in this, so the coin tosses stay fair. Evened out: a moving mouth is
        strong in few directions of time and waves, the mark is weak in all.
        """
        result = np.zeros_like(self.folded)
        known = np.flatnonzero(self.weights > 0.2 * self.weights.max(initial=1e-9))
        if len(known) < LEAST:
            return result
        heights = self.sums[known] / self.weights[known, None]
        still = [heights[max(0, k - AROUND) : k + AROUND + 1].mean(0) for k in range(len(known))]
        moved = heights - np.stack(still)
        moved = moved / np.sqrt((moved**2).mean(0) + 1e-6)
        left, sizes, right = np.linalg.svd(moved, full_matrices=False)
        result[known] = (left * np.minimum(sizes, np.median(sizes))) @ right
        return result

    def scores(self) -> NDArray[np.float64]:
        """z for a beginning at each step of the cycle, (CYCLE,)."""
        total = self.folded + self._stretch()
        agreement = total @ _Waves.get().signs.T  # of each step with the signs of each step
        steps = np.arange(CYCLE)
        sums = [agreement[steps, (steps + shift) % CYCLE].sum() for shift in steps]
        return np.array(sums) / max(float(np.sqrt((total**2).sum())), 1e-9)


@dataclass(frozen=True)
class _Waves:
    """Cosines of the window (type II, orthonormal) whose period is within `PERIODS`, and the key's signs."""

    rows: Array  # (h, h)
    columns: Array  # (w, w)
    places: NDArray[np.intp]  # (waves, 2)
    signs: Array  # (CYCLE, waves), -1 or 1
    taper: Array  # (h, w): the window's rim says little

    @staticmethod
    @cache
    def get() -> _Waves:
        height, width = ROWS.stop - ROWS.start, COLUMNS.stop - COLUMNS.start
        v, u = np.mgrid[:height, :width]
        frequency = np.hypot(v / (2 * height), u / (2 * width))
        places = np.argwhere((frequency > 1 / PERIODS[1]) & (frequency < 1 / PERIODS[0]))
        count = CYCLE * len(places)
        bits = np.unpackbits(np.frombuffer(hashlib.shake_256(KEY).digest(count // 8 + 1), np.uint8))[:count]
        signs = 2 * bits.astype(np.float32).reshape(CYCLE, -1) - 1
        sines = [np.sin(np.pi * (np.arange(n) + 1) / (n + 1)) for n in (height, width)]
        return _Waves(_cosines(height), _cosines(width), places, signs, np.outer(*sines).astype(np.float32))

    def synthesise(self, heights: Array) -> Array:
        """(waves,) -> (h, w)."""
        plane = np.zeros((len(self.rows), len(self.columns)), np.float32)
        plane[self.places[:, 0], self.places[:, 1]] = heights
        return np.asarray(self.rows.T @ plane @ self.columns, np.float32)

    def analyse(self, grey: Array) -> Array:
        """(h, w) -> (waves,)."""
        plane = self.rows @ ((grey - grey.mean()) * self.taper) @ self.columns.T
        heights: Array = plane[self.places[:, 0], self.places[:, 1]]
        return heights


def _cosines(n: int) -> Array:
    """The orthonormal cosine transform (n, n): frequencies down, places across."""
    k, x = np.mgrid[:n, :n]
    matrix: Array = (math.sqrt(2 / n) * np.cos(np.pi * k * (x + 0.5) / n)).astype(np.float32)
    matrix[0] /= math.sqrt(2)
    return matrix


def _pattern(seconds: float) -> Array:
    """The mark at a moment, (h, w) grey levels: from one step's signs evenly to the next's."""
    waves = _Waves.get()
    step, after = int(seconds / STEP), seconds / STEP % 1
    heights = (1 - after) * waves.signs[step % CYCLE] + after * waves.signs[(step + 1) % CYCLE]
    height, width = waves.taper.shape
    return waves.synthesise(heights * np.float32(STRENGTH * math.sqrt(height * width / len(waves.places))))


def _tail(z: float) -> float:
    """At most the probability that coin tosses of any weights exceed z."""
    return min(1.0, 3.18 * 0.5 * math.erfc(z / math.sqrt(2)))
