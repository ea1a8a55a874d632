"""Sharpness without a reference: the cumulative probability of blur detection, CPBD.

[Narvekar, Karam 2011, "A No-Reference Image Blur Metric Based on the Cumulative Probability of Blur Detection
(CPBD)", IEEE TIP 20(9)]
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moditalker.metrics.region import LUMA, Array

BLOCK = 64  # pixels: side of the blocks that have an edge or not
EDGES = 0.002  # share of edge pixels above which a block counts
WIDTH_JNB = ((50, 5.0), (255, 3.0))  # just noticeable edge width in pixels, up to this contrast of the block
THRESHOLD = 2.0  # gradient of an edge, over the picture's root mean square


def cpbd(frames: ArrayLike) -> float:
    """Share of edges whose blur cannot be noticed, in [0, 1], mean over frames; more is sharper.

    frames: (H, W, 3) or (S, H, W, 3) in grey levels, at least one block of 64x64. Blur of an edge of width w
    is seen with the probability 1 - exp(-(w / w_jnb)^3.6). Edges count if this is at most its value at w_jnb,
    63 %: if they are no wider than the just noticeable width of their block. Widths are measured along rows,
    between the luma's extrema on both sides of the edge [Marziliano et al. 2002]. Sobel's operator finds the
    edges, above twice the root mean square of the gradient. A picture without any edge is nan, which the mean
    leaves out. Raises ValueError for other shapes. The score depends on size and content: compare only
    pictures that agree in both.
    """
    x = np.asarray(frames)
    if x.ndim not in (3, 4) or min(x.shape[-3:-1]) < BLOCK:
        raise ValueError(f"CPBD needs pictures (S, H, W, 3) of at least {BLOCK}x{BLOCK}, not {x.shape}")
    scores = [_score(frame @ LUMA) for frame in x.reshape(-1, *x.shape[-3:])]
    scores = [score for score in scores if np.isfinite(score)]
    return float(np.mean(scores)) if scores else float("nan")


def _score(luma: Array) -> float:
    edges = _edges(luma)
    widths = _widths(luma, edges)
    unseen = total = 0
    for top in range(0, luma.shape[0] - BLOCK + 1, BLOCK):
        for left in range(0, luma.shape[1] - BLOCK + 1, BLOCK):
            block = (slice(top, top + BLOCK), slice(left, left + BLOCK))
            if edges[block].mean() <= EDGES:
                continue
            contrast = np.ptp(luma[block])
            noticeable = next((width for most, width in WIDTH_JNB if contrast <= most), WIDTH_JNB[-1][1])
            found = widths[block][edges[block]]
            unseen += int((found <= noticeable).sum())
            total += len(found)
    return unseen / total if total else float("nan")


def _edges(luma: Array) -> NDArray[np.bool_]:
    """Vertical edges, one pixel thin: Sobel's gradient along the row is strong and its row's maximum.

    An edge whose gradient points more than 22.5 degrees away from the row is left out: its width along the
    row would be too large.
    """
    padded = np.pad(luma, 1, mode="edge")
    column = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    strength = np.abs(column[:, 2:] - column[:, :-2]) / 8
    beside = np.pad(strength, ((0, 0), (1, 1)))
    thin = (strength > beside[:, :-2]) & (strength >= beside[:, 2:])
    down, across = np.gradient(luma)
    along = np.abs(down) <= np.tan(np.pi / 8) * np.abs(across)
    edges: NDArray[np.bool_] = thin & along & (strength > THRESHOLD * np.sqrt(np.mean(strength**2)))
    return edges


def _widths(luma: Array, edges: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pixels along the row between the extrema of luma around each edge; elsewhere 0."""
    rising = np.diff(luma, axis=1) > 0  # from column j to j + 1
    falling = np.diff(luma, axis=1) < 0
    widths = np.zeros(luma.shape)
    last = luma.shape[1] - 1
    for row, column in zip(*np.nonzero(edges), strict=True):
        before, after = max(column - 1, 0), min(column + 1, last)
        slope = rising[row] if luma[row, after] > luma[row, before] else falling[row]
        left, right = column, column
        while left > 0 and slope[left - 1]:
            left -= 1
        while right < last and slope[right]:
            right += 1
        widths[row, column] = right - left
    return widths
