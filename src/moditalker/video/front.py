"""Keeps things in front of a face: their pixels stay the source's."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray

from moditalker.geometry.align import inverse
from moditalker.geometry.raster import planes, warp

Pixels = NDArray[np.uint8]
Floats = NDArray[np.floating]

WIDER = 2  # crop pixels of 128 by which the front is widened: moved pixels next to it may show it too


def keep_front(image: Pixels, made: Pixels, matrix: Floats, front: Floats) -> Pixels:
    """Put the source's pixels of things in front of the face into a generated frame.

    Args:
        image, made: (H, W, 3) uint8, the source's frame and the generated one. Neither is changed.
        matrix: (2, 3) frame -> crop pixel.
        front: (size, size) in [0, 1], how much of each crop pixel is in front.
    """
    shown = planes(np.asarray(front, np.float32)[..., None])[None]
    reach = max(1, round(WIDER * len(front) / 128))
    wide = F.avg_pool2d(F.max_pool2d(shown, 2 * reach + 1, 1, reach), 3, 1, 1)[0, 0].numpy()
    rows, columns = (np.flatnonzero(wide.max(axis) > 0.01) for axis in (1, 0))
    if not len(rows):
        return made
    back = inverse(np.asarray(matrix, np.float64))
    corners = np.array([[x, y, 1.0] for x in columns[[0, -1]] for y in rows[[0, -1]]]) @ back.T
    margin = 1 + 1 / max(1e-6, float(np.sqrt(abs(np.linalg.det(matrix[:, :2])))))
    limits = np.array([image.shape[1], image.shape[0]])
    low = np.clip(np.floor(corners.min(0) - margin).astype(int), 0, limits)
    high = np.clip(np.ceil(corners.max(0) + margin).astype(int) + 1, low, limits)
    if (high == low).any():
        return made
    to_box = back - np.array([[0, 0, low[0]], [0, 0, low[1]]])
    width, height = (high - low).tolist()
    share = warp(wide[None], to_box[None], (height, width), "zeros")[0][..., None]
    # Pixels nearly all in front are all the source's; pixels hardly in front are not the source's at all.
    share = np.clip((np.asarray(share, np.float32) - 0.1) / 0.8, 0, 1)
    box = slice(low[1], high[1]), slice(low[0], high[0])
    out = made.copy()
    difference = image[box].astype(np.float32) - made[box]
    out[box] = (made[box] + share * difference).round().astype(np.uint8)
    result: Pixels = out
    return result
