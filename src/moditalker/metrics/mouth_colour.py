"""Measures how far the colours inside a mouth are from those of this person's real mouth."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moditalker.metrics.polygon import outlined
from moditalker.metrics.region import Array

INNER = slice(60, 68)  # the inner outline of the lips
WITHIN = 0.85  # scale of the outline: the lips' own edge stays out
FEWEST = 12  # least pixels for a colour
OPEN = 0.05  # least eye distances between the lips at which a mouth shows its inside
ALIKE = 0.25  # share by which the openings of two compared mouths may differ
NEAREST = 5  # real frames that are compared with a generated one
TEETH = 0.25  # the brightest share of the inside counts as teeth
_TO_XYZ = np.array(  # from linear sRGB [IEC 61966-2-1], over the white D65
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
) / np.array([[0.95047], [1.0], [1.08883]])


def mouth_colours(frames: ArrayLike, landmarks: ArrayLike) -> NDArray[np.float64]:
    """Mean colours between the lips of each frame, (S, 2, 3) in CIELAB: of all of it, and of its brightest
    quarter, which is teeth where teeth show. [ours]

    frames: (S, H, W, 3) in grey levels, sRGB; landmarks: (S, 68, 2 or 3) pixels. Fewer than FEWEST pixels
    between the lips, or no face: nan. Raises ValueError for other shapes.
    """
    x, points = np.asarray(frames), np.asarray(landmarks, np.float64)[..., :2]
    if x.ndim != 4 or points.shape != (len(x), 68, 2):
        raise ValueError(
            f"frames (S, H, W, 3) and (S, 68, 2) landmarks are needed, not {x.shape}, {points.shape}"
        )
    found = np.full((len(x), 2, 3), np.nan)
    for colours, frame, own in zip(found, x, points, strict=True):
        box, inside = outlined(own[INNER], (frame.shape[0], frame.shape[1]), WITHIN)
        if inside.sum() >= FEWEST:
            pixels = lab(frame[box][inside])
            bright = pixels[:, 0] >= np.quantile(pixels[:, 0], 1 - TEETH)
            colours[:] = pixels.mean(0), pixels[bright].mean(0)
    return found


def colour_distance(
    generated: ArrayLike, generated_opening: ArrayLike, real: ArrayLike, real_opening: ArrayLike
) -> float:
    """Mean colour difference CIEDE2000 of generated mouths from real ones that are open as far, >= 0. [ours]

    1 is just noticeable side by side, 5 is seen at once. Colours are (S, 3) in CIELAB, openings (S,) in eye
    distances (`lip_opening`); the real video may have another length. Each generated frame that is
    open by OPEN or more is compared with the mean of up to five real ones of the nearest openings, which
    differ by a quarter at most. Frames without any are left out; none left: nan. Raises ValueError for
    other shapes.
    """
    made, meant = (np.asarray(colours, np.float64) for colours in (generated, real))
    wide, opened = (np.asarray(opening, np.float64) for opening in (generated_opening, real_opening))
    if made.shape != (len(wide), 3) or meant.shape != (len(opened), 3):
        raise ValueError(f"a colour (S, 3) for each opening is needed, not {made.shape} and {meant.shape}")
    known = np.isfinite(meant).all(1) & (opened >= OPEN * (1 - ALIKE))
    meant, opened = meant[known], opened[known]
    found = []
    for colour, opening in zip(made, wide, strict=True):
        if np.isfinite(colour).all() and opening >= OPEN:
            apart = np.abs(opened - opening)
            nearest = np.argsort(apart, kind="stable")[:NEAREST]
            nearest = nearest[apart[nearest] <= ALIKE * opening]
            if len(nearest):
                found.append(float(ciede2000(colour, meant[nearest].mean(0))))
    return float(np.mean(found)) if found else float("nan")


def lab(rgb: ArrayLike) -> Array:
    """sRGB (..., 3) in grey levels -> CIELAB (..., 3) for the white D65: L* in [0, 100], a*, b*."""
    share = np.asarray(rgb, np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _TO_XYZ.T
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1
    )


def ciede2000(a: ArrayLike, b: ArrayLike) -> Array:
    """Colour difference of CIELAB colours (..., 3) -> (...), >= 0 [CIE 142-2001; Sharma, Wu, Dalal 2005]."""
    (l1, a1, b1), (l2, a2, b2) = (np.moveaxis(np.asarray(x, np.float64), -1, 0) for x in (a, b))
    seventh = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    g = (1 - np.sqrt(seventh / (seventh + 25**7))) / 2
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.arctan2(b1, a1) % (2 * np.pi), np.arctan2(b2, a2) % (2 * np.pi)
    grey = c1 * c2 == 0
    turn = np.where(grey, 0, (h2 - h1 + np.pi) % (2 * np.pi) - np.pi)  # the shorter way around
    hue = np.where(grey, h1 + h2, h1 + turn / 2)
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    t = (
        1
        - 0.17 * np.cos(hue - np.radians(30))
        + 0.24 * np.cos(2 * hue)
        + 0.32 * np.cos(3 * hue + np.radians(6))
        - 0.20 * np.cos(4 * hue - np.radians(63))
    )
    s_l = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    s_c, s_h = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    degrees = np.degrees(hue) % 360
    bend = np.radians(60) * np.exp(-(((degrees - 275) / 25) ** 2))
    seventh = chroma**7
    twist = -2 * np.sqrt(seventh / (seventh + 25**7)) * np.sin(bend)
    d_l, d_c = (l2 - l1) / s_l, (c2 - c1) / s_c
    d_h = 2 * np.sqrt(c1 * c2) * np.sin(turn / 2) / s_h
    squared: Array = d_l**2 + d_c**2 + d_h**2 + twist * d_c * d_h
    return np.sqrt(np.maximum(squared, 0))
