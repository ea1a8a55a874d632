"""Resamples frames by matrices without aliasing, and draws landmarks."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from moditalker.geometry.align import inverse

Array = NDArray[Any]  # of floats


def warp(
    frames: NDArray[np.generic], matrices: Array, size: int | tuple[int, int], padding: str = "border"
) -> NDArray[np.generic]:
    """Resample frames so that a source pixel p lands on matrix p, without aliasing when they shrink.

    frames: (S, H, W, C) or (S, H, W), uint8 (rounded back) or float; matrices: (S, 2, 3) source -> output;
    size: side or (height, width) of the output; padding: "border" repeats the edge, "zeros" is black.
    -> (S, height, width[, C]) of the same dtype. Bilinear; pixel centres at integers on both sides. A frame
    whose matrix is NaN (no face) becomes black.
    """
    height, width = (size, size) if isinstance(size, int) else size
    out = np.empty((len(frames), height, width, *frames.shape[3:]), frames.dtype)
    for frame, matrix, result in zip(frames, np.asarray(matrices, np.float64), out, strict=True):
        if not np.isfinite(matrix).all():
            result[...] = 0
            continue
        values = _warp_one(frame.reshape(*frame.shape[:2], -1), matrix, height, width, padding)
        if frames.dtype == np.uint8:
            values = values.round().clamp(0, 255)
        result[...] = values.numpy().reshape(result.shape).astype(frames.dtype)
    return out


def _warp_one(
    frame: NDArray[np.generic], matrix: NDArray[np.float64], height: int, width: int, padding: str
) -> torch.Tensor:
    """frame (H, W, C) -> (height, width, C) float32; only the part in use becomes float."""
    back = inverse(matrix)  # output -> source
    shrink = math.sqrt(abs(np.linalg.det(back[:, :2])))  # source pixels per output pixel
    # First means of pool x pool source pixels, then of taps x taps bilinear ones over a box (output pixels).
    # Whatever the pool, together they blur by the variance of an output pixel and of a bilinear source pixel.
    pool = max(1, int(math.sqrt((shrink**2 + 2) / 3)))
    box = math.sqrt(max(0.0, shrink**2 - 3 * pool**2 + 2)) / shrink if shrink > 0 else 0.0
    corners = np.array([[x, y, 1.0] for x in (-1, width) for y in (-1, height)]) @ back.T
    reach = 2 + math.ceil(shrink)
    limits = np.array([frame.shape[1], frame.shape[0]])
    low = np.clip(np.floor(corners.min(0)).astype(int) - reach, 0, limits - 1)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + reach + 1, low + 1, limits)
    part = frame[low[1] : high[1], low[0] : high[0]]
    back = back - np.array([[0, 0, low[0]], [0, 0, low[1]]])
    if pool > 1:
        part = _means(part, pool)
        back = (back - np.array([[0, 0, (pool - 1) / 2]] * 2)) / pool
        shrink /= pool
    image = planes(part)[None]
    taps = max(2, math.ceil(box * shrink)) if box > 0 else 1
    offsets = ((np.arange(taps) + 0.5) / taps - 0.5) * box
    x = (np.arange(width)[:, None] + offsets).ravel()  # (width taps,)
    y = (np.arange(height)[:, None] + offsets).ravel()
    rows, columns = image.shape[-2:]
    grid = sampling_grid(back, x, y, (rows, columns))
    values = F.grid_sample(image, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    if taps > 1:  # their mean; `avg_pool2d` takes several times as long
        values = reduce(torch.add, (values[:, :, i::taps] for i in range(taps)))
        values = reduce(torch.add, (values[..., i::taps] for i in range(taps))) / taps**2
    return values[0].permute(1, 2, 0)


def _means(frame: NDArray[np.generic], pool: int) -> NDArray[np.generic]:
    """Means of pool x pool pixels of (H, W, C), of fewer at the ends; uint8 is rounded."""
    if frame.dtype == np.uint8 and frame.shape[2] in (1, 3):
        small = np.asarray(Image.fromarray(frame.squeeze(2) if frame.shape[2] == 1 else frame).reduce(pool))
        return small.reshape(*small.shape[:2], -1)
    return F.avg_pool2d(planes(frame)[None], pool, ceil_mode=True)[0].permute(1, 2, 0).numpy()


def sampling_grid(
    matrix: NDArray[np.float64], x: NDArray[np.floating], y: NDArray[np.floating], size: tuple[int, int]
) -> torch.Tensor:
    """Map the points (x, y) of a grid by a matrix (2, 3), in the form that `grid_sample` takes.

    x: (width,), y: (height,); size: rows and columns of the picture to sample. -> (1, height, width,
    2) float32.
    """
    grid = np.empty((2, len(y), len(x)), np.float32)  # plane by plane, which `grid_sample` reads fastest
    for plane, (across, down, shift), length in zip(grid, matrix, reversed(size), strict=True):
        columns, rows = across * x * (2 / length), (down * y + shift + 0.5) * (2 / length) - 1
        np.add(columns.astype(np.float32), rows.astype(np.float32)[:, None], out=plane)
    return torch.from_numpy(grid).permute(1, 2, 0)[None]


def planes(pixels: NDArray[np.generic]) -> torch.Tensor:
    """(H, W, C) -> (C, H, W) float32, plane by plane in memory: arithmetic is three times as fast."""
    values = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy()).permute(2, 0, 1)
    return torch.empty(values.shape).copy_(values)  # a third of the time of a transposed copy


def draw(
    points: Array, height: int, width: int, radius: float = 0.0, antialias: bool = True
) -> NDArray[np.float32]:
    """Landmark frames, white discs on black: points (S, N, 2 or 3) in pixels -> (S, height, width) in [0, 1].

    radius: pixels; 0: 3 per 256 of the width [released code]. antialias: soft edges, so that motion below a
    pixel is visible; without, a pixel is white if its centre is within the radius.
    """
    radius = radius or 3.0 * width / 256
    xy = np.asarray(points, np.float32)
    dx = (np.arange(width, dtype=np.float32) - xy[..., 0:1]) ** 2  # (S, N, width)
    dy = (np.arange(height, dtype=np.float32) - xy[..., 1:2]) ** 2  # (S, N, height)
    nearest = np.full((len(xy), height, width), np.inf, np.float32)
    for n in range(xy.shape[1]):
        np.minimum(nearest, dy[:, n, :, None] + dx[:, n, None, :], out=nearest)
    distance = np.sqrt(nearest)
    discs = np.clip(radius + 0.5 - distance, 0, 1) if antialias else distance <= radius
    return discs.astype(np.float32)
