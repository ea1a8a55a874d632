"""Matches the light of one picture to another's in places that show the same; Gaussian blurs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

DARK = 0.06  # share of white; for darker pixels a match adds rather than multiplies
GAINS = 0.5, 2.0  # limits of a match's factors


def light_gain(
    wanted: Tensor,
    seen: Tensor,
    weight: Tensor,
    blur: Callable[[Tensor], Tensor],
    *,
    odd: float,
    trust: float,
    least: int,
    floor: float,
) -> Tensor | None:
    """Factors (3, h', w') that bring `seen` to the light of `wanted`, both (3, h, w) in [0, 1]; see `relit`.

    Args:
        weight: (h, w) in [0, 1], 1 if both should show the same.
        blur: (C, h, w) -> (C, h', w'); its reach makes the match local.
        odd: share of white; pixels that differ more than this from the median difference count less.
        trust: weight of the match of the whole against the local one.
        least: fewest pixels for a match; with fewer it returns None.
        floor: weight of every pixel.
    """
    difference = wanted - seen
    inside = weight > 0.5
    if int(inside.sum()) < least:
        return None
    middle = difference[:, inside].median(dim=1).values
    # Pixels at which one shows something else (a hand, a moved jaw) do not count.
    unlike = (difference - middle[:, None, None]).square().sum(0)
    weight = weight * torch.exp(-unlike / (2 * odd**2)) + floor
    both = torch.cat([wanted, seen]) + DARK
    mean = (both * weight).sum((-2, -1), keepdim=True) / weight.sum()
    near = blur(torch.cat([both * weight, weight[None]]))
    local = (near[:-1] + trust * mean) / (near[-1] + trust)
    return (local[:3] / local[3:]).clamp(*GAINS)


def relit(picture: Tensor, gain: Tensor) -> Tensor:
    """Apply the factors `gain` to a picture (3, h, w) in [0, 1]."""
    return (picture + DARK) * gain - DARK


def blurred(image: Tensor, sigma: float, zeros: bool = False) -> Tensor:
    """Gaussian blur of (C, h, w); beyond the border its pixels are repeated, or are zeros."""
    down, across = (_blur_matrix(length, sigma, zeros) for length in image.shape[1:])
    return down @ image @ across.T


@lru_cache(maxsize=16)
def _blur_matrix(length: int, sigma: float, zeros: bool) -> Tensor:
    """(length, length), the weights of a line's pixels; much faster than a convolution."""
    radius = math.ceil(3 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    ones = F.pad(torch.eye(length)[:, None], (radius, radius), mode="constant" if zeros else "replicate")
    return F.conv1d(ones, (taps / taps.sum()).view(1, 1, -1))[:, 0].T.contiguous()


def wide_blurred(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of a small (C, h, w) by a Gaussian that does not end; zeros beyond the border."""
    down, across = (_gaussian(length, sigma) for length in image.shape[1:])
    return down @ image @ across


def _gaussian(length: int, sigma: float) -> Tensor:
    at = torch.arange(length, dtype=torch.float32)
    taps = torch.exp(-0.5 * ((at[:, None] - at) / sigma) ** 2)
    result: Tensor = taps / (sigma * (2 * torch.pi) ** 0.5)
    return result
