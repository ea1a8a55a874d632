"""Chooses the look for each frame's mouth: the most similar one, with a cost for changes.

Looks are collected while the shot streams and kept as unlike each other as they can be. Each frame takes
the one whose lips, nose and size are nearest to the wanted ones. A change has a cost, so that changes
are rare. It fades.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from moditalker.geometry.looks import Look
from moditalker.geometry.points import INNER_LOWER, INNER_UPPER, MOUTH

Floats = NDArray[np.floating]
T = TypeVar("T")

UNLIKE = 2.0  # squared crop pixels (of 128) by which a look must differ from all others to be worth keeping
INSIDE = 3.5  # pixels of a crop of 128: a look whose lips are more open shows teeth and tongue
FADE = np.array([0.25, 0.5, 0.25])  # weights of a change, spread over frames
LEND_SECONDS = 0.08  # seconds between frames that lend their mouths
CALM_SECONDS = 0.3  # seconds before and after an untrusted frame in which none does
SCALE = 60.0  # weight of the squared log ratio of sizes
NOSE, SIDE, GAP = 0.7, 0.7, 2.0  # weights of head pose and opening; a lip point's place has 1


def describe(landmarks: Floats, size: int) -> Floats:
    """Describe lips and pose: (..., 68, 2) crop pixels -> (..., D), in pixels of a crop of 128."""
    p = np.asarray(landmarks, np.float32)[..., :2] * np.float32(128 / size)
    lips = p[..., MOUTH, :] - p[..., MOUTH, :].mean(-2, keepdims=True)
    gap = GAP * (p[..., INNER_UPPER, :] - p[..., INNER_LOWER, :])
    nose = NOSE * (p[..., 30:31, :] - p[..., 27:28, :])
    side = SIDE * (p[..., 33:34, :1] - (p[..., 2:3, :1] + p[..., 14:15, :1]) / 2)
    parts = [part.reshape(*part.shape[:-2], -1) for part in (lips, gap, nose, side)]
    return np.concatenate(parts, axis=-1)


class Gallery:
    """The looks of one shot, as different as possible.

    Args:
        looks: those at the start.
        size: crop size.
        most: most looks to keep.
    """

    def __init__(self, looks: Iterable[Look], size: int, most: int) -> None:
        self.size, self.most = size, most
        self.looks: list[Look] = []
        self.described = np.zeros((0, 49), np.float32)
        for look in looks:
            self.add(look)

    def add(self, look: Look) -> None:
        """Keep a look if it is new. If there are too many, drop one of the two most similar."""
        own = describe(look.landmarks, self.size)
        if not self.looks:
            self.looks, self.described = [look], own[None]
            return
        if float(((self.described - own) ** 2).sum(1).min()) < UNLIKE:
            return
        looks, described = [*self.looks, look], np.concatenate([self.described, own[None]])
        if len(looks) > self.most:
            apart = ((described[:, None] - described) ** 2).sum(-1) + 1e9 * np.eye(len(looks))
            a, b = np.unravel_index(int(apart.argmin()), apart.shape)
            out = int(a if np.sort(apart[a])[1] < np.sort(apart[b])[1] else b)
            looks.pop(out)
            described = np.delete(described, out, axis=0)
        self.looks, self.described = looks, described

    @property
    def shows_inside(self) -> bool:
        """Whether any look is open wide enough to show the inside of the mouth."""
        return any(look.opening * 128 / self.size > INSIDE for look in self.looks)

    def costs(self, wanted: Floats, scale: float, seconds: float, away: float) -> Floats:
        """Costs (K,) of the looks for landmarks (68, 2); infinite for looks nearer in time than `away`."""
        cost = ((self.described - describe(wanted, self.size)) ** 2).sum(1).astype(np.float64)
        cost += SCALE * np.log(np.array([look.scale for look in self.looks]) / scale) ** 2
        if away > 0:
            near = np.array([abs(look.seconds - seconds) < away for look in self.looks])
            if not near.all():
                cost[near] = np.inf
        result: Floats = cost
        return result


class Lender:
    """Adds frames to a gallery if the frames around them are trusted too.

    A hand's tip is in the picture some frames before the hand is detected.
    """

    def __init__(self, gallery: Gallery, fps: float) -> None:
        self.gallery = gallery
        self.step, self.calm = max(1, round(LEND_SECONDS * fps)), round(CALM_SECONDS * fps)
        self.number, self.free = 0, self.calm
        self.waiting: deque[tuple[int, Look]] = deque()

    def offer(self, trusted: bool, look: Callable[[], Look]) -> None:
        """Offer the next frame of a run; look: makes its look."""
        self.free = self.free + 1 if trusted else 0
        if not trusted:
            self.waiting.clear()
        if self.number % self.step == 0 and self.free > self.calm:
            self.waiting.append((self.number, look()))
        while self.waiting and self.waiting[0][0] <= self.number - self.calm:
            self.gallery.add(self.waiting.popleft()[1])
        self.number += 1


@dataclass
class _Step(Generic[T]):
    item: T
    looks: list[Look]
    total: Floats  # cost of the cheapest way to each look
    back: NDArray[np.int64]  # the look of that way one frame before


@dataclass
class Chooser(Generic[T]):
    """Chooses a look for each item of a run, `lag` items late [Viterbi 1967, with a fixed lag].

    change: cost of a change of the look.
    """

    change: float
    lag: int
    steps: deque[_Step[T]] = field(default_factory=deque)

    def push(self, item: T, looks: list[Look], cost: Floats) -> Iterator[tuple[T, Look]]:
        """Add the next item with the cost of each look; yields the item decided by now, if any."""
        if self.steps:
            before = self.steps[-1]
            best = int(before.total.argmin())
            at = {id(look): i for i, look in enumerate(before.looks)}
            stay = np.array([at.get(id(look), best) for look in looks])
            other = before.total[best] + self.change
            kept = np.where([id(look) in at for look in looks], before.total[stay], np.inf)
            total = cost + np.minimum(kept, other)
            back = np.where(kept <= other, stay, best)
            total -= total.min()
        else:
            total, back = cost.copy(), np.zeros(len(looks), np.int64)
        self.steps.append(_Step(item, looks, total, back))
        if len(self.steps) > self.lag:
            yield self._decide()

    def finish(self) -> Iterator[tuple[T, Look]]:
        """Yield the items that are left."""
        while self.steps:
            yield self._decide()

    def _decide(self) -> tuple[T, Look]:
        at = int(self.steps[-1].total.argmin())
        for number in range(len(self.steps) - 1, 0, -1):
            at = int(self.steps[number].back[at])
        first = self.steps.popleft()
        return first.item, first.looks[at]


def faded(chosen: Iterable[tuple[T, Look]]) -> Iterator[tuple[T, list[tuple[Look, float]]]]:
    """Yield each item with its looks and their weights, which add up to 1: changes fade over 3 items."""
    window: deque[tuple[T, Look]] = deque(maxlen=3)

    def mixed(middle: int) -> tuple[T, list[tuple[Look, float]]]:
        weights: dict[int, float] = {}
        looks: dict[int, Look] = {}
        for offset, weight in zip((-1, 0, 1), FADE, strict=True):
            at = min(max(middle + offset, 0), len(window) - 1)
            look = window[at][1]
            weights[id(look)] = weights.get(id(look), 0.0) + float(weight)
            looks[id(look)] = look
        return window[middle][0], [(looks[key], weight) for key, weight in weights.items()]

    for item in chosen:
        window.append(item)
        if len(window) == 2:
            yield mixed(0)
        elif len(window) == 3:
            yield mixed(1)
            window.popleft()
    if window:
        yield mixed(len(window) - 1)
