"""Measures how visible the border of a replaced part of the picture is."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moditalker.metrics.region import LUMA, Array, box


def seam_ratio(frames: ArrayLike, source: ArrayLike, mask: ArrayLike) -> float:
    """Edge strength along the region's border in the result, divided by that in the source; >= 0. [ours]

    1: the border shows no more edges than the source did there; a visible box or colour step is well above 1;
    below 1 it is smoother than the source. Strength is the mean length of the luma gradient, in grey levels a
    pixel. The border is where a float mask lies within (0.02, 0.98), and the pixels on both sides of each
    place where the mask crosses 0.5. Frames and source (H, W, 3) or (S, H, W, 3); no border: nan.
    """
    x, y = np.asarray(frames), np.asarray(source)
    size = x.shape[-3:-1]
    masks = np.broadcast_to(np.asarray(mask, dtype=np.float32), x.shape[:-1]).reshape(-1, *size)
    made, own, count = 0.0, 0.0, 0
    for one, other, soft in zip(x.reshape(-1, *size, 3), y.reshape(-1, *size, 3), masks, strict=True):
        if (soft > 0.02).any():
            part = box(soft > 0.02, 2)  # the border, and as far as a gradient reaches
            border = _border(soft[part])
            made, own = made + _strength(one[part], border), own + _strength(other[part], border)
            count += int(border.sum())
    return made / max(own, 1e-6 * count) if count else float("nan")


def _border(soft: NDArray[np.float32]) -> NDArray[np.bool_]:
    inside = soft > 0.5
    border: NDArray[np.bool_] = (soft > 0.02) & (soft < 0.98)
    for axis in (0, 1):
        change = inside != np.roll(inside, 1, axis)
        edge = [slice(None)] * 2
        edge[axis] = slice(0, 1)
        change[tuple(edge)] = False  # np.roll wraps the last line to the front; ignore it
        border |= change | np.roll(change, -1, axis)
    return border


def _strength(frame: NDArray[np.generic], border: NDArray[np.bool_]) -> float:
    """Sum of the gradient's length over the border."""
    luma: Array = frame @ LUMA
    rows, columns = np.gradient(luma)
    return float(np.hypot(rows, columns)[border].sum())
