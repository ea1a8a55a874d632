"""Shuts the eyes of a still picture: the lids' skin is drawn over the eye [ours].

Each eye has coordinates of its own: x from -1 at one corner to 1 at the other, y downwards in the same unit.
The lids' edges are smooth curves y(x) that meet in the corners. The upper lid falls to a line just above the
lower one, which rises a little; the skin behind a moving edge is stretched up to the fold below the brow.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]

# Vertices of the mesh, from the corner at the viewer's left to the other one.
EYES = (
    {
        "upper": [33, 246, 161, 160, 159, 158, 157, 173, 133],
        "lower": [33, 7, 163, 144, 145, 153, 154, 155, 133],
        "brow": [46, 53, 52, 65, 55],
    },
    {
        "upper": [362, 398, 384, 385, 386, 387, 388, 466, 263],
        "lower": [362, 382, 381, 380, 374, 373, 390, 249, 263],
        "brow": [285, 295, 282, 283, 276],
    },
)
RISE = 0.12  # of the opening: how far the lower lid comes up
SKIN = 0.85  # of the way to the brow: how far up the upper lid's skin is stretched
BELOW = 0.5  # units below the lower lid, likewise
LASHES = 0.12  # units above the edge that move with it as they are
BARE = 0.7  # share of plain skin colour in what an open eye's fold hides


class Eye:
    """One eye of a picture.

    points: (478, 2 or 3) the mesh, pixels; names: the vertices, one of `EYES`; shape: (H, W) of the picture.
    """

    def __init__(self, points: Array, names: dict[str, list[int]], shape: tuple[int, ...]) -> None:
        mesh = points[:, :2].astype(np.float64)
        first, last = mesh[names["upper"][0]], mesh[names["upper"][-1]]
        self.axis = (last - first) / 2  # of x; y's is square to it
        self.centre = (first + last) / 2
        self.unit = float(np.hypot(*self.axis))  # pixels
        self.upper = self._edge(mesh[names["upper"]])
        self.lower = self._edge(mesh[names["lower"]])
        self.brow = float(self._own(mesh[names["brow"]])[:, 1].mean())
        corners = np.array([[x, y] for x in (-1.2, 1.2) for y in (self.brow, 1.2)])
        corners = self.centre + self._picture(corners)
        limits = np.array([shape[1], shape[0]])
        low = np.clip(np.floor(corners.min(0)).astype(int), 0, limits)
        high = np.clip(np.ceil(corners.max(0)).astype(int) + 1, 0, limits)
        self.rows, self.columns = slice(low[1], high[1]), slice(low[0], high[0])
        y, x = np.mgrid[self.rows, self.columns]
        own = self._own(np.stack([x, y], -1).astype(np.float64))
        self.x, self.y = own[..., 0], own[..., 1]  # of each pixel of the patch

    def _own(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels -> the eye's coordinates."""
        across, down = self.axis / self.unit**2, np.array([-self.axis[1], self.axis[0]]) / self.unit**2
        return np.asarray((points - self.centre) @ np.stack([across, down], 1))

    def _picture(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Vectors in the eye's coordinates -> pixels."""
        return np.asarray(vectors @ np.stack([self.axis, np.array([-self.axis[1], self.axis[0]])]))

    def _edge(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """A lid's edge: the polynomial p of degree 3 in y = (1 - x^2) p(x), by least squares."""
        x, y = self._own(points).T
        basis = (1 - x**2)[:, None] * x[:, None] ** np.arange(4)
        return np.asarray(np.linalg.lstsq(basis, y, rcond=None)[0])

    def _at(self, edge: NDArray[np.float64]) -> NDArray[np.float64]:
        """y of an edge in each pixel's column of the eye; 0 beyond the corners."""
        x = np.clip(self.x, -1, 1)
        return np.asarray((1 - x**2) * np.polynomial.polynomial.polyval(x, edge))

    def shut(self, image: Pixels, closure: float) -> None:
        """Draw the lids into the picture (H, W, 3); closure: 0 open as in the picture, 1 shut."""
        if closure <= 0 or self.x.size == 0:
            return
        upper, lower = self._at(self.upper), self._at(self.lower)
        gap = np.maximum(lower - upper, 0)
        fall, rise = closure * (1 - RISE) * gap, closure * RISE * gap
        edge = upper + fall
        top = SKIN * self.brow  # the fold, above which nothing moves
        above = np.clip((edge - LASHES - self.y) / np.maximum(edge - LASHES - top, 1e-3), 0, 1)
        below = np.clip((self.y - lower + rise) / BELOW, 0, 1)
        patch = image[self.rows, self.columns]
        eye = patch.astype(np.float32)
        lid = self._sampled(eye, self.y - fall * (1 - above) ** 1.2)
        plain = self._plain(eye, upper, lower)
        share = (
            np.clip((edge - self.y) / LASHES - 0.5, 0, 1) * (1 - above) * fall / np.maximum(gap.max(), 1e-3)
        )
        lid = lid + BARE * share[..., None] * (plain - lid)
        bag = self._sampled(eye, self.y + rise * (1 - below) ** 1.5)
        under_upper = np.clip(0.5 + (edge - self.y) * self.unit, 0, 1)[..., None]
        under_lower = np.clip(0.5 + (self.y - lower + rise) * self.unit, 0, 1)[..., None]
        drawn = eye + under_lower * (bag - eye)
        drawn = drawn + under_upper * (lid - drawn)
        inside = (gap > 0)[..., None]
        image[self.rows, self.columns] = np.where(inside, drawn.round().clip(0, 255), patch).astype(np.uint8)

    def _plain(self, eye: Array, upper: NDArray[np.float64], lower: NDArray[np.float64]) -> Array:
        """The colour of bare skin around the eye."""
        spots = [upper + part * (self.brow - upper) for part in (0.35, 0.5, 0.65)]
        spots += [lower + 0.25, lower + 0.4]
        return np.asarray(np.mean([self._sampled(eye, y) for y in spots], axis=0))

    def _sampled(self, patch: Array, y: NDArray[np.float64]) -> Array:
        """The patch at (x, y) of the eye's coordinates, bicubic."""
        at = self.centre + self._picture(np.stack([self.x, y], -1))
        at = at - [self.columns.start, self.rows.start]
        grid = (at + 0.5) * (2 / np.array([patch.shape[1], patch.shape[0]])) - 1
        return sample(patch, torch.from_numpy(grid.astype(np.float32)))


def sample(image: Array, grid: Tensor) -> Array:
    """(H, W, 3) at a grid (h, w, 2) in grid_sample's units -> (h, w, 3), bicubic, the edge repeated."""
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    found = F.grid_sample(planes, grid[None], mode="bicubic", padding_mode="border", align_corners=False)
    return np.asarray(found[0].permute(1, 2, 0).numpy())


def shut_eyes(image: Pixels, eyes: list[Eye], closure: float) -> Pixels:
    """A copy of the picture with both eyes shut by this share."""
    result = image.copy()
    for eye in eyes:
        eye.shut(result, closure)
    made: Pixels = result
    return made
