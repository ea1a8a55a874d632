"""Composes each output frame at the source's own size from the person's own pixels.

Three layers, from below:
1. The current frame, moved from its own landmarks to the wanted ones. Pixels near its own mouth or the wanted
   one never come from it, so nothing that the source says shows through.
2. Lips and their surroundings: from other frames of the same person (`looks`), moved in the same way, in the
   light of the current one.
3. The inside of the mouth, if no look shows it: painted by `video.interior`, or from MToV's region.
If nothing moves and nothing is added, a pixel is the source's, exactly.

Lengths are in pixels of a crop whose eyes are 42 pixels apart, and grow with the crop's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from moditalker.config import CropConfig
from moditalker.geometry.align import inverse
from moditalker.geometry.looks import Look, scale_of
from moditalker.geometry.points import JAW, NOSE, smooth_step
from moditalker.geometry.raster import planes
from moditalker.video.flow import FACE, OUTLINE, SIDES, Gap, Spline, outline_distance
from moditalker.video.interior import Interior, skin_around
from moditalker.video.match import blurred, light_gain, relit, wide_blurred

Pixels = NDArray[np.uint8]
Floats = NDArray[np.floating]
Box = tuple[slice, slice]

NODE, MOUTH_NODE = 4.0, 2.0  # distance of a flow's nodes: on the face, on the mouth
RING = 22.0  # distance beyond the jaw at which motion ends
NECK = 1.6  # times RING below the chin
NEAR, FAR = 3.0, 8.0  # from the lips' outline: nearer pixels are the look's, farther ones the current frame's
MARGIN = 4.0  # width inside the face's edge over which a look fades out
AROUND_MOUTH = 14.0  # margin of the mouth's box around the outline
STILL = 0.0125  # smaller shifts count as no motion
TOP = 10.0  # rows above the nose's base over which motion fades out
EDGE = 0.35  # half the width over which one lip's flow becomes the other's
LIGHT_REACH = 7.0  # standard deviation of the Gaussian that makes the match of a look's light local
LIGHT_ODD = 0.12  # share of white; pixels that differ by more count less, as in `match.light_gain`
LIGHT_TRUST, LIGHT_LEAST = 0.02, 12  # see `match.light_gain`
BORDER = 4.0  # width of the fade at the other borders
LEAST_GAP = 1.0  # a look whose lips are less open does not show the inside
SLIT = 0.8, 1.6  # wanted openings: up to the first the slit shows nothing, from the second on all
PARTED = 0.25, 0.5  # wanted opening over a look's: lips hide the inside up to the first, not from the second
STRETCH = 0.25, 0.6  # a look's opening over the wanted one: no use up to the first, full use from the second


class Composer:
    """Composes the frames of one video.

    Args:
        crop: the aligned crop of landmarks and regions.
        interior: paints the inside of the mouth if no look shows it; None: not painted.
    """

    def __init__(self, crop: CropConfig, interior: Interior | None = None) -> None:
        self.crop, self.interior = crop, interior
        self.unit = crop.eye_distance / 42

    def compose(
        self,
        image: Pixels,
        matrix: NDArray[np.floating],
        crop: Pixels,
        own: Floats,
        wanted: Floats,
        looks: Sequence[tuple[Look, float]],
        rest: Floats | None = None,
        region: Tensor | None = None,
    ) -> Pixels:
        """Compose one frame, (H, W, 3) uint8.

        Args:
            image: (H, W, 3) uint8, the source at native size. Not changed.
            matrix: (2, 3) frame -> crop pixel; crop: (size, size, 3) uint8, the frame's.
            own, wanted: (68, 2 or 3) landmarks, crop pixels.
            looks: those that show their mouth, with weights that add up to 1.
            rest: (68, 2 or 3), the same face in the same pose with a shut mouth; None: nothing is painted.
            region: (3, h, w) in [-1, 1], MToV's picture of the crop's rows from crop.region_top on.
        """
        own, wanted = (np.asarray(points[:, :2], np.float64) for points in (own, wanted))
        frame: Pixels = image.copy()
        skin = _Skin(own, wanted, self.unit)
        if skin.flow is not None and (face := _Canvas.of(image, matrix, *skin.extent)) is not None:
            shift = skin.flow.shifting(face.matrix).at(face)
            frame[face.box] = _bytes(_sample(_floats(image[face.box]), shift.add_(face.own)))
        mouth = _Canvas.of(image, matrix, *_around(wanted, FAR * self.unit))
        if mouth is not None and looks:
            lips, share = self._mouth(mouth, crop, wanted, own, skin, looks, rest, region)
            part = _floats(frame[mouth.box])
            part += share * (lips - part)
            frame[mouth.box] = _bytes(part)
        return frame

    def _mouth(
        self,
        mouth: _Canvas,
        crop: Pixels,
        wanted: Floats,
        own: Floats,
        skin: _Skin,
        looks: Sequence[tuple[Look, float]],
        rest: Floats | None,
        region: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Lips and their surroundings, (3, h, w) in [0, 1], and their share of each pixel, (h, w)."""
        unit = self.unit
        field = _Field.over(*_around(wanted, AROUND_MOUTH * unit), MOUTH_NODE * unit)
        distance = outline_distance(field.places, wanted)
        beneath = field.places if skin.flow is None else field.places + skin.flow.lookup(field.places)
        # The current frame's pixels must be as far from its own lips too.
        either = np.minimum(distance, outline_distance(beneath, own))
        ring = smooth_step(distance / unit - 1) * smooth_step((AROUND_MOUTH - distance / unit) / 3)
        here = _sample(_floats(crop), _tensor(beneath))
        lips = _Lips(wanted, mouth, unit)
        halves = [Spline(wanted[points], unit**2).at(field.places) for points in SIDES]
        side = torch.from_numpy(lips.gap.is_below(field.places))
        share = 1 - smooth_step((either / unit - NEAR) / (FAR - NEAR))
        turned = np.linalg.norm(wanted[OUTLINE, None] - wanted[JAW], axis=-1).min() < (FAR + MARGIN) * unit
        if turned:  # beyond the face's edge the background differs
            share = share * self._within(field.places, wanted)
        total = torch.zeros(3, *mouth.places.shape[1:])
        for look, weight in looks:
            upper, lower = (
                _tensor(basis @ (look.landmarks - wanted)[points].astype(np.float32))
                for basis, points in zip(halves, SIDES, strict=True)
            )
            shift = torch.where(side, lower, upper)
            if turned:
                there = field.places + shift.permute(1, 2, 0).numpy()
                share = np.minimum(share, self._within(there, look.landmarks))
            seen = _sample(_floats(look.crop), _tensor(field.places) + shift)
            light = light_gain(
                here,
                seen,
                torch.from_numpy(ring).float(),
                partial(wide_blurred, sigma=LIGHT_REACH * unit / field.step),
                odd=LIGHT_ODD,
                trust=LIGHT_TRUST,
                least=LIGHT_LEAST,
                floor=1e-6,
            )
            light = torch.ones_like(here) if light is None else light
            fine = field.with_values(torch.cat([upper, lower, light])).at(mouth)
            picture = lips.drawn(look, fine[:2], fine[2:4])
            if (missing := lips.missing(look)) > 0:
                inside = self._inside(wanted, look, rest, lips, region)
                if inside is not None:
                    picture = torch.lerp(picture, inside, missing * lips.between)
            total += weight * relit(picture, fine[4:])
        return total, field.with_values(share).at(mouth)[0]

    def _within(self, places: Floats, landmarks: Floats) -> Floats:
        """How far places (..., 2) are within a face: 0 at its edge and beyond, 1 from MARGIN on."""
        return np.asarray(smooth_step(-outline_distance(places, landmarks, FACE) / (MARGIN * self.unit)))

    def _inside(
        self, wanted: Floats, look: Look, rest: Floats | None, lips: _Lips, region: Tensor | None
    ) -> Tensor | None:
        """The inside of the mouth, (3, h, w) in a look's light; None: unknown."""
        places = lips.mouth.places
        if region is not None:
            top = torch.tensor([0.0, float(self.crop.region_top)]).view(2, 1, 1)
            return (_sample(region, places - top) + 1) / 2
        if self.interior is None or rest is None:
            return None
        skin = skin_around(look, self.unit)
        inside = lips.between > 0
        at = places[:, inside].T.numpy()
        picture = torch.zeros(3, *inside.shape)
        picture[:, inside] = self.interior.paint(wanted, rest[:, :2], at, skin, self.unit, look.grey).T
        # What is painted is sharp, and shall be as soft as the look.
        soft = max(0.1, round(look.softness / look.scale * scale_of(lips.mouth.matrix), 1))
        weight = blurred(inside.float()[None], soft, zeros=True).clamp_min(1e-3)
        return blurred(picture, soft, zeros=True) / weight * inside


class _Lips:
    """The wanted lips on a canvas: places above, between and below them.

    below: (h, w) from 0 above the gap to 1 below it; between: (h, w), 1 between the lips.
    """

    def __init__(self, wanted: Floats, mouth: _Canvas, unit: float) -> None:
        self.mouth, self.unit, self.gap = mouth, unit, Gap.of(wanted)
        self.open = self.gap.open()
        x, y = mouth.places.numpy()
        upper, lower = self.gap.edges(x)
        beyond = self.gap.beyond(x)
        half = (lower - upper) / 2 + EDGE * unit + 0.5 * beyond
        self.below = _plane(np.clip(0.5 + (y - (upper + lower) / 2) / (2 * half), 0, 1))
        width = 2 * EDGE * unit
        between = smooth_step(0.5 + (y - upper) / width) * smooth_step(0.5 + (lower - y) / width)
        self.between = _plane(between * (beyond == 0))

    def missing(self, look: Look) -> float:
        """Share of the gap between the wanted lips that a look cannot show, 0 to 1."""
        through = float(smooth_step((self.open / self.unit - SLIT[0]) / (SLIT[1] - SLIT[0])))
        ratio = look.opening / max(self.open, 1e-3)
        shown = min(1.0, look.opening / (LEAST_GAP * self.unit))
        return through * (1 - shown * float(smooth_step((ratio - STRETCH[0]) / (STRETCH[1] - STRETCH[0]))))

    def drawn(self, look: Look, upper: Tensor, lower: Tensor) -> Tensor:
        """Draw a look, (3, h, w), with each lip moved to the wanted one by its flow."""
        source, to_pixels = _floats(look.pixels), inverse(look.matrix)

        def at(flow: Tensor) -> Tensor:
            return _sample(source, _through(to_pixels, self.mouth.places + flow))

        # Parting lips are one smooth flow; closing lips hide what was between them.
        wider = self.open / max(1e-3, look.opening)
        parted = float(smooth_step((wider - PARTED[0]) / (PARTED[1] - PARTED[0])))
        if parted >= 1:
            return at(torch.lerp(upper, lower, self.below))
        shut = torch.lerp(at(upper), at(lower), self.below)
        return shut if parted <= 0 else torch.lerp(shut, at(torch.lerp(upper, lower, self.below)), parted)


class _Skin:
    """The flow of the face without the lips: from wanted to own landmarks, none beyond jaw and nose.

    flow: None if nothing moves; extent: its corners in crop pixels.
    """

    extent: tuple[Floats, Floats]

    def __init__(self, own: Floats, wanted: Floats, unit: float) -> None:
        self.flow: _Field | None = None
        points = np.concatenate([JAW, OUTLINE])
        shifts = (own - wanted)[points]
        if np.abs(shifts).max() < STILL:
            return
        jaw = (own + wanted)[JAW] / 2
        middle = jaw[[4, 12]].mean(0)
        away = jaw - middle
        away = away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
        reach = RING * unit * np.where(np.abs(np.arange(17) - 8) < 4, NECK, 1.0)[:, None]
        ring = jaw + reach * away
        top = np.concatenate([wanted[NOSE], wanted[[36, 39, 42, 45]]])
        fixed = np.concatenate([ring, top])
        spline = Spline(np.concatenate([wanted[points], fixed]), unit**2)
        low, high = ring.min(0), ring.max(0)
        nose = min(own[33, 1], wanted[33, 1])
        low[1] = nose - TOP * unit
        field = _Field.over(low, high, NODE * unit)
        flow = spline.at(field.places)[..., : len(points)] @ shifts.astype(np.float32)
        x, y = field.places[..., 0], field.places[..., 1]
        ends = smooth_step((y - low[1]) / (TOP * unit)) * smooth_step((high[1] - y) / (BORDER * unit))
        ends = (
            ends * smooth_step((x - low[0]) / (BORDER * unit)) * smooth_step((high[0] - x) / (BORDER * unit))
        )
        flow = flow * ends[..., None]
        moving = np.abs(flow).max(-1) > STILL
        flow[~moving] = 0
        if moving.any():
            rows, columns = np.flatnonzero(moving.any(1)), np.flatnonzero(moving.any(0))
            self.extent = field.places[rows[0], columns[0]], field.places[rows[-1], columns[-1]]
            self.flow = field.with_values(_tensor(flow))


@dataclass(frozen=True)
class _Field:
    """Values (C, rows, columns) at the nodes of a grid in crop pixels. origin: (2,), the first node."""

    origin: Floats
    step: float
    places: Floats  # (rows, columns, 2)
    values: Tensor

    @classmethod
    def over(cls, low: Floats, high: Floats, step: float) -> _Field:
        columns, rows = (int(np.ceil((b - a) / step)) + 1 for a, b in zip(low, high, strict=True))
        x, y = low[0] + step * np.arange(columns), low[1] + step * np.arange(rows)
        places = np.stack(np.meshgrid(x, y), axis=-1)
        return cls(np.asarray(low, np.float64), step, places, torch.zeros(0, rows, columns))

    def with_values(self, values: Floats | Tensor) -> _Field:
        """The same nodes with values: an array (rows, columns) or a tensor (C, rows, columns)."""
        return replace(self, values=values if isinstance(values, Tensor) else _plane(values)[None])

    def shifting(self, matrix: Floats) -> _Field:
        """Turn shifts in crop pixels into shifts in frame pixels; matrix: (2, 3), frame -> crop pixel."""
        back = torch.from_numpy(inverse(matrix)[:, :2]).float()
        return replace(self, values=torch.einsum("ij,jrc->irc", back, self.values))

    def at(self, canvas: _Canvas) -> Tensor:
        """Interpolate at each pixel of a canvas: (C, h, w)."""
        origin = torch.from_numpy(self.origin).float().view(2, 1, 1)
        return _sample(self.values, (canvas.places - origin) / self.step, "bilinear")

    def lookup(self, places: Floats) -> Floats:
        """Interpolate at places (rows, columns, 2): (rows, columns, C)."""
        at = _tensor((places - self.origin) / self.step)
        return _sample(self.values, at, "bilinear").permute(1, 2, 0).numpy().astype(np.float64)


@dataclass(frozen=True)
class _Canvas:
    """A box of the frame. places: (2, h, w) crop pixel of each of its pixels; own: (2, h, w) its own x, y."""

    box: Box
    matrix: Floats  # frame -> crop pixel
    places: Tensor
    own: Tensor

    @classmethod
    def of(cls, image: Pixels, matrix: NDArray[np.floating], low: Floats, high: Floats) -> _Canvas | None:
        """The pixels under the rectangle from low to high, crop pixels; None if they are outside."""
        matrix = np.asarray(matrix, np.float64)
        if not np.isfinite(matrix).all():
            return None
        corners = np.array([[x, y, 1.0] for x in (low[0], high[0]) for y in (low[1], high[1])])
        corners = corners @ inverse(matrix).T
        limits = np.array([image.shape[1], image.shape[0]])
        first = np.clip(np.floor(corners.min(0)).astype(int), 0, limits)
        last = np.clip(np.ceil(corners.max(0)).astype(int) + 1, 0, limits)
        if (last - first < 2).any():
            return None
        (x0, y0), (x1, y1) = first.tolist(), last.tolist()
        x, y = (torch.arange(a, b, dtype=torch.float32) for a, b in ((x0, x1), (y0, y1)))
        own = torch.stack([(x - x[0]).expand(len(y), -1), (y - y[0])[:, None].expand(-1, len(x))])
        (a, b, c), (d, e, f) = matrix.tolist()
        places = torch.stack([a * x + (b * y + c)[:, None], d * x + (e * y + f)[:, None]])
        return cls((slice(y0, y1), slice(x0, x1)), matrix, places, own)


def _around(landmarks: Floats, margin: float) -> tuple[Floats, Floats]:
    lips = landmarks[OUTLINE]
    return lips.min(0) - margin, lips.max(0) + margin


def _through(matrix: NDArray[np.floating], places: Tensor) -> Tensor:
    """Map places (2, h, w) by a matrix (2, 3)."""
    (a, b, c), (d, e, f) = np.asarray(matrix, np.float64).tolist()
    return torch.stack([a * places[0] + b * places[1] + c, d * places[0] + e * places[1] + f])


def _tensor(values: Floats) -> Tensor:
    """(rows, columns, C) -> (C, rows, columns) float32."""
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32))


def _plane(values: Floats) -> Tensor:
    """(rows, columns) as float32."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _floats(pixels: Pixels) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) in [0, 1]."""
    return planes(pixels).div_(255)


def _bytes(image: Tensor) -> Pixels:
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8."""
    return (image * 255).round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def _sample(image: Tensor, places: Tensor, mode: str = "bicubic") -> Tensor:
    """Sample (C, H, W) at places (2, h, w), x and y in its pixels; its edge repeats beyond it."""
    lengths = torch.tensor([image.shape[2], image.shape[1]], dtype=torch.float32).view(2, 1, 1)
    # Plane by plane, which `grid_sample` reads fastest.
    grid = torch.addcmul(1 / lengths - 1, places, 2 / lengths).permute(1, 2, 0)
    return F.grid_sample(image[None], grid[None], mode=mode, padding_mode="border", align_corners=False)[0]
