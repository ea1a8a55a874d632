"""Pictures and the part of them that a metric looks at.

Throughout: pictures are (H, W, 3) or (S, H, W, 3), uint8 or float in [0, 255] (grey levels). Masks are (H,
W) or (S, H, W), bool, or float in [0, 1]; the generated region is where a mask exceeds 0.5. Metrics look at
frames one by one, so a long video needs no more memory than its frames.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
LUMA = np.array([0.299, 0.587, 0.114])  # weights of red, green, blue [ITU-R BT.601]


def pairs(
    a: ArrayLike, b: ArrayLike, mask: ArrayLike | None, margin: int = 0
) -> Iterator[tuple[Array, Array, NDArray[np.bool_]]]:
    """Yield frame by frame both pictures (H, W, 3) as float64, and the mask (H, W).

    With a mask: only frames in which it is not empty, cut to its box and a margin of so many pixels.
    Raises ValueError if the shapes differ.
    """
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape or x.ndim not in (3, 4):
        raise ValueError(f"pictures must be of one shape, (S, H, W, 3), not {x.shape} and {y.shape}")
    inside = region(mask, x.shape[:-1])
    if x.ndim == 3:
        x, y, inside = x[None], y[None], inside[None]
    for one, other, part in zip(x, y, inside, strict=True):
        if mask is None:
            yield one.astype(np.float64), other.astype(np.float64), part
        elif part.any():  # the rest of a large frame only costs time
            here = box(part, margin)
            yield one[here].astype(np.float64), other[here].astype(np.float64), part[here]


def region(mask: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return a mask, or all True if there is none, as bool of the given shape."""
    inside = np.ones(shape, bool) if mask is None else np.asarray(mask) > 0.5
    return np.broadcast_to(inside, shape)


def box(inside: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """Rows and columns of the True pixels of (H, W), with a margin as far as the picture reaches."""
    down, across = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return (
        slice(max(int(down[0]) - margin, 0), int(down[-1]) + margin + 1),
        slice(max(int(across[0]) - margin, 0), int(across[-1]) + margin + 1),
    )
