"""How close pictures are, and whether one can see that a part was replaced: arrays in, number out.

Pictures are (H, W, 3) or (S, H, W, 3), uint8 or float in [0, 255]. Masks are (H, W) or (S, H, W), bool, or
float in [0, 1]; the generated region is where a mask exceeds 0.5.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def _region(mask: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask, or none, as bool of the given shape."""
    region = np.ones(shape, bool) if mask is None else np.asarray(mask) > 0.5
    return np.broadcast_to(region, shape)


def psnr(a: ArrayLike, b: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Peak signal-to-noise ratio over the mask in dB, peak 255; equal pictures: inf, empty mask: nan.

    The error is averaged over all pixels of all frames before the logarithm.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape:
        raise ValueError(f"pictures must be of one shape, not {x.shape} and {y.shape}")
    region = _region(mask, x.shape[:-1])
    if not region.any():
        return float("nan")
    error = float(np.mean((x[region] - y[region]) ** 2))
    return float(10 * np.log10(255**2 / error)) if error > 0 else float("inf")


def _blur(image: Array, sigma: float = 1.5, radius: int = 5) -> Array:
    """Gaussian blur of (..., H, W, C) over H and W, edges mirrored."""
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (-3, -2):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (radius, radius)
        padded = np.moveaxis(np.pad(image, pad, mode="symmetric"), axis, 0)
        length = image.shape[axis]
        image = np.moveaxis(sum(tap * padded[i : i + length] for i, tap in enumerate(taps)), 0, axis)
    return image


def ssim(a: ArrayLike, b: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Structural similarity, mean over channels and mask; 11x11 Gaussian, sigma 1.5 [Wang et al. 2004]."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape:
        raise ValueError(f"pictures must be of one shape, not {x.shape} and {y.shape}")
    region = _region(mask, x.shape[:-1])
    if not region.any():
        return float("nan")
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    score = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return float(score[region].mean())


def seam_ratio(frames: ArrayLike, source: ArrayLike, mask: ArrayLike) -> float:
    """Strength of edges along the border of the generated region over the source's in the same places.

    1: the border shows no more edges than the source did there; a visible box or colour step is well above 1.
    The border is where a float mask lies within (0.02, 0.98), and one pixel each side of a change of region.
    """
    x, y = np.asarray(frames, dtype=np.float64), np.asarray(source, dtype=np.float64)
    soft = np.broadcast_to(np.asarray(mask, dtype=np.float64), x.shape[:-1])
    inside = soft > 0.5
    border = (soft > 0.02) & (soft < 0.98)
    for axis in (-1, -2):
        change = inside != np.roll(inside, 1, axis)
        edge = [slice(None)] * change.ndim
        edge[axis] = slice(0, 1)
        change[tuple(edge)] = False  # what np.roll carried around
        border |= change | np.roll(change, -1, axis)
    if not border.any():
        return float("nan")

    def strength(image: Array) -> float:
        luma = image @ np.array([0.299, 0.587, 0.114])
        rows, columns = np.gradient(luma, axis=(-2, -1))
        return float(np.hypot(rows, columns)[border].mean())

    return strength(x) / max(strength(y), 1e-6)


def flicker(frames: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Mean |f[t-1] - 2 f[t] + f[t+1]| over the mask in grey levels: quivering counts, steady motion little.

    frames (S, H, W, 3), S >= 3. It depends on the clip: read it next to the source's in the same mask.
    """
    x = np.asarray(frames, dtype=np.float64)
    if x.ndim != 4 or len(x) < 3:
        raise ValueError(f"flicker needs at least 3 frames (S, H, W, 3), not {x.shape}")
    region = _region(mask, x.shape[:-1])
    region = region[:-2] & region[1:-1] & region[2:]
    if not region.any():
        return float("nan")
    return float(np.abs(x[:-2] - 2 * x[1:-1] + x[2:])[region].mean())
