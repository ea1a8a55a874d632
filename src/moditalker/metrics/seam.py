"""Whether one can see where a part of the picture was replaced."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moditalker.metrics.region import LUMA, Array, box


def seam_ratio(frames: ArrayLike, source: ArrayLike, mask: ArrayLike) -> float:
    """Strength of edges along the generated region's border over the source's there; >= 0. [ours]

    1: the border shows no more edges than the source did there; a visible box or colour step is well above 1;
    below 1 it is smoother than the source. Strength is the mean length of the luma gradient, in grey levels a
    pixel. The border is where a float mask lies within (0.02, 0.98), and one pixel each side of a change of
    region. Frames and source (H, W, 3) or (S, H, W, 3); no border: nan.
    """
    x, y = np.asarray(frames), np.asarray(source)
    border = _border(np.broadcast_to(np.asarray(mask, dtype=np.float32), x.shape[:-1]))
    if not border.any():
        return float("nan")
    return _strength(x, border) / max(_strength(y, border), 1e-6)


def _border(soft: NDArray[np.float32]) -> NDArray[np.bool_]:
    inside = soft > 0.5
    border = (soft > 0.02) & (soft < 0.98)
    for axis in (-1, -2):
        change = inside != np.roll(inside, 1, axis)
        edge = [slice(None)] * change.ndim
        edge[axis] = slice(0, 1)
        change[tuple(edge)] = False  # what np.roll carried around
        border |= change | np.roll(change, -1, axis)
    return border


def _strength(frames: NDArray[np.generic], border: NDArray[np.bool_]) -> float:
    """Mean gradient over the border of all frames."""
    total = 0.0
    size = frames.shape[-3:]
    for frame, here in zip(frames.reshape(-1, *size), border.reshape(-1, *size[:2]), strict=True):
        if here.any():
            part = box(here, 1)  # a gradient reaches one pixel far
            luma: Array = frame[part] @ LUMA
            rows, columns = np.gradient(luma)
            total += float(np.hypot(rows, columns)[here[part]].sum())
    return total / int(border.sum())
