"""Pastes the generated region into the source frame, at native size, without a visible border.

A mask follows the jaw. The generated colours are matched to the source's at pixels that show the same skin.
The mask, softened by a Gaussian blur [paper], blends the two. Beyond it pixels stay exactly the source's.
Lengths below are in pixels of a crop whose eyes are 42 pixels apart, and grow with the crop's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from moditalker.config import CropConfig
from moditalker.geometry.align import inverse
from moditalker.geometry.points import EYE_LEFT, EYE_RIGHT, JAW, MOUTH, smooth_step
from moditalker.geometry.raster import planes, sampling_grid, warp
from moditalker.video.match import blurred, light_gain, relit

EYE_SHARE = 42 / 128  # eye distance over crop width, if the configuration has none
FEATHER = 2.0  # standard deviation of the Gaussian that softens the mask [paper: Gaussian blur]
CHIN = 4.0  # mask's edge beyond the chin line: two FEATHERs, so that no chin of the source shines through
# Near the ears the outline hardly moves: the edge stays on the cheek, so the outline is the source's.
_SIDE = {2: -6.0, 3: -5.0, 4: -2.0, 5: 2.0}
EDGE = _SIDE | {16 - point: edge for point, edge in _SIDE.items()} | dict.fromkeys(range(6, 11), CHIN)
TOP_RAMP = 12.0  # rows over which the mask fades in below the region's first row
BORDER_RAMP = 4.0  # pixels over which it fades in at the other borders
LIPS = 7.0  # distance from the lips within which colours may differ
COLOUR_REACH = 8.0  # standard deviation of the Gaussian that makes a colour match local
COLOUR_ODD = 0.15  # share of white; pixels that differ by more count less, as in `match.light_gain`
COLOUR_SECONDS = 0.15  # memory of the colour match
COLOUR_STEP = 0.15  # a change of brightness beyond this within one frame is a cut, which resets the match
GRAIN_ODD = 0.06  # share of white; pixels that differ by more get hardly any detail back
CELL = 2  # pixels between the places at which distances to the skin's borders are computed
COLOUR_TRUST, COLOUR_LEAST = 0.05, 50  # see `match.light_gain`

_JAW_EDGE = torch.tensor(list(EDGE))
_MOUTH = torch.from_numpy(MOUTH)
_ANGLES = torch.arange(32) * (2 * math.pi / 64)
_DIRECTIONS = torch.stack([_ANGLES.cos(), _ANGLES.sin()], dim=1)  # (32, 2), and their opposites


@dataclass(frozen=True)
class Pasted:
    """frame: (H, W, 3) uint8; mask: (H, W) float32 in [0, 1]; generated is where it exceeds 0.5."""

    frame: NDArray[np.uint8]
    mask: NDArray[np.float32]


class Blender:
    """Pastes generated regions into the frames of one clip, in order: the colour match has a short memory.

    Args:
        crop: the aligned crop; the generated region is its rows from crop.region_top to the bottom.
        fps: frames a second.
        colours: match the generated colours to the source's.
        grain: restore detail of matching skin that the crop is too coarse for.
    """

    def __init__(self, crop: CropConfig, fps: float = 25.0, colours: bool = True, grain: bool = True) -> None:
        self.crop, self.colours, self.grain = crop, colours, grain
        self.unit = (crop.eye_distance or EYE_SHARE * crop.size) / 42
        self.height, self.width = crop.size - crop.region_top, crop.size
        self.keep = math.exp(-1 / (COLOUR_SECONDS * fps))
        rows = torch.arange(self.height, dtype=torch.float32)
        columns = torch.arange(self.width, dtype=torch.float32)
        self.x, self.y = columns, rows + crop.region_top  # crop pixels
        side = smooth_step(torch.minimum(columns, columns.flip(0)) / (BORDER_RAMP * self.unit))
        ends = smooth_step(rows / (TOP_RAMP * self.unit)) * smooth_step(
            rows.flip(0) / (BORDER_RAMP * self.unit)
        )
        self.hull = Hull(self.x, self.y)
        self.coarse = Hull(
            *(F.avg_pool1d(place[None], CELL, ceil_mode=True)[0] for place in (self.x, self.y))
        )
        self.window = ends[:, None] * side  # h w: zero at the region's borders
        margins = torch.tensor([*EDGE.values(), *[CHIN] * len(MOUTH)]) * self.unit
        self.margins = margins.repeat(2)  # the mask's margins around jaw and mouth of two faces
        self.gain: Tensor | None = None

    def reset(self) -> None:
        """Forget the colour match (another clip, a cut)."""
        self.gain = None

    def mask(self, source_landmarks: Tensor, generated_landmarks: Tensor) -> Tensor:
        """Soft mask (h, w) in [0, 1] over both faces below the nose: the source's and the generated one's.

        Wherever the source's chin shows, the generated picture covers it, so no chin doubles.
        landmarks: (68, 2), crop pixels.
        """
        both = (source_landmarks, generated_landmarks)
        points = torch.cat(
            [face[part] for face in both for part in (_JAW_EDGE, _MOUTH)]
        )  # profile: lips lead
        above = torch.minimum(*(self._above_nose(face) for face in both))
        hard = (0.5 - torch.maximum(self.hull(points, self.margins), above)).clamp(0, 1)
        result: Tensor = blurred(hard[None], FEATHER * self.unit)[0] * self.window
        return result

    def native_mask(
        self,
        size: tuple[int, int],
        matrix: NDArray[np.floating],
        source_landmarks: NDArray[np.floating],
        generated_landmarks: NDArray[np.floating],
    ) -> NDArray[np.float32]:
        """Return the mask (H, W) that `paste` would use on a frame of `size` (H, W)."""
        result = np.zeros(size, np.float32)
        soft = self.mask(_points(source_landmarks), _points(generated_landmarks))
        placed = self._place(soft, matrix, size)
        if placed is not None:
            rows, columns, to_region = placed
            grid = self._grid(to_region, rows.stop - rows.start, columns.stop - columns.start)
            result[rows, columns] = _sample(soft[None], grid, "bilinear")[0].numpy()
        return result

    def _place(
        self, soft: Tensor, matrix: NDArray[np.floating], size: tuple[int, ...]
    ) -> tuple[slice, slice, NDArray[np.float64]] | None:
        """The mask's box in the frame: rows, columns, and the matrix from box to region."""
        to_region = np.asarray(matrix, np.float64) - [[0, 0, 0], [0, 0, self.crop.region_top]]
        box = _box(soft.numpy() > 0, to_region, size) if np.isfinite(to_region).all() else None
        if box is None:
            return None
        to_region[:, 2] += to_region[:, :2] @ [box[1].start, box[0].start]
        return *box, to_region

    def paste(
        self,
        frame: NDArray[np.uint8],
        generated: NDArray[np.floating],
        matrix: NDArray[np.floating],
        source_landmarks: NDArray[np.floating],
        generated_landmarks: NDArray[np.floating],
    ) -> Pasted:
        """Paste a region into one frame.

        Args:
            frame: (H, W, 3) uint8, the source at native size. Not changed.
            generated: (h, w, 3) in [-1, 1], the region of the aligned crop.
            matrix: (2, 3) source pixel -> crop pixel, as `geometry.align.align` gives it.
            source_landmarks: (68, 2 or 3), the source frame's, crop pixels.
            generated_landmarks: (68, 2 or 3), the generated region's, crop pixels.

        Returns:
            The frame with the region, and the mask; at 0 the frame is the source, exactly.

        Raises:
            ValueError: the region's shape is not the crop's.
        """
        if generated.shape != (self.height, self.width, 3):
            raise ValueError(f"generated must be {(self.height, self.width, 3)}, not {generated.shape}")
        mask = np.zeros(frame.shape[:2], np.float32)
        source_points, generated_points = _points(source_landmarks), _points(generated_landmarks)
        soft = self.mask(source_points, generated_points)
        placed = self._place(soft, matrix, frame.shape)
        if placed is None:
            return Pasted(frame.copy(), mask)
        rows, columns, to_region = placed
        part = frame[rows, columns].astype(np.float32) / 255
        source = planes(part)  # 3 H' W'
        aligned = planes(warp(part[None], to_region[None], (self.height, self.width))[0])  # 3 h w
        region = ((planes(generated) + 1) / 2).clamp(0, 1)
        skin = self._skin(source_points, generated_points)
        if self.colours:
            region = self._match(region, aligned, skin)
        grid = self._grid(to_region, *source.shape[1:])
        if self.grain:
            same = self._same(region, aligned, skin)
            alpha, same = _sample(torch.stack([soft, same]), grid, "bilinear").split(1)
            native, coarse = _sample(torch.cat([region, aligned]), grid, "bicubic").split(3)
            native = native + same * (source - coarse)
        else:
            alpha, native = _sample(soft[None], grid, "bilinear"), _sample(region, grid, "bicubic")
        mixed = (source + alpha * (native - source)).clamp(0, 1)
        mask[rows, columns] = alpha[0].numpy()
        result = frame.copy()
        result[rows, columns] = (mixed * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        return Pasted(result, mask)

    def _grid(self, to_region: NDArray[np.float64], height: int, width: int) -> Tensor:
        """The place of each pixel of the box in the region, (1, height, width, 2) for `grid_sample`."""
        return sampling_grid(
            to_region, np.arange(0.0, width), np.arange(0.0, height), (self.height, self.width)
        )

    def _above_nose(self, points: Tensor) -> Tensor:
        """(h, w) how far above the nose base; "up" is square to the eyes, which are steadier than the jaw."""
        across = points[EYE_LEFT].mean(0) - points[EYE_RIGHT].mean(0)
        x, y = (across / across.norm().clamp_min(1e-6)).tolist()
        nose_x, nose_y = points[33].tolist()
        result: Tensor = (self.x - nose_x) * y - ((self.y - nose_y) * x)[:, None]
        return result

    def _skin(self, source_points: Tensor, generated_points: Tensor) -> Tensor:
        """(h, w) in [0, 1]: skin that both show, inside both jaws and away from both mouths."""
        both = (source_points, generated_points)
        jaw = torch.maximum(*(self.coarse(points[JAW], -2 * self.unit) for points in both))
        lips = torch.minimum(*(self.coarse(points[MOUTH], LIPS * self.unit) for points in both))
        # Distances are smooth enough to compute on every second pixel; their thresholds are not.
        jaw, lips = F.interpolate(
            torch.stack([jaw, lips])[None], scale_factor=CELL, mode="bilinear", align_corners=False
        )[0, :, : self.height, : self.width]
        result: Tensor = (0.5 - jaw / (2 * self.unit)).clamp(0, 1) * (0.5 + lips / (4 * self.unit)).clamp(
            0, 1
        )
        return result

    def _match(self, region: Tensor, aligned: Tensor, skin: Tensor) -> Tensor:
        """Give the region (3, h, w) in [0, 1] the aligned source's colours at low frequencies."""
        step = 4

        def blur(image: Tensor) -> Tensor:
            small = F.avg_pool2d(image, step, ceil_mode=True)
            return blurred(small, COLOUR_REACH * self.unit / step, zeros=True)

        gain = light_gain(
            aligned,
            region,
            skin,
            blur,
            odd=COLOUR_ODD,
            trust=COLOUR_TRUST,
            least=COLOUR_LEAST,
            floor=1e-8,
        )
        if gain is None:
            return region
        gain = F.interpolate(gain[:, None], size=region.shape[1:], mode="bilinear", align_corners=False)[:, 0]
        if self.gain is not None and float((gain - self.gain).mean().abs()) < COLOUR_STEP:
            gain = self.keep * self.gain + (1 - self.keep) * gain
        self.gain = gain
        return relit(region, gain).clamp(0, 1)

    def _same(self, region: Tensor, aligned: Tensor, skin: Tensor) -> Tensor:
        """(h, w) in [0, 1]: 1 if generated and source show the same skin."""
        odd = (aligned - region).square().sum(0)
        return blurred((skin * torch.exp(-odd / (2 * GRAIN_ODD**2)))[None], self.unit)[0]


class Hull:
    """Signed distances of pixels to the convex hull of discs around points, negative inside.

    The hull is described by its support in 64 directions, so that it moves as smoothly as the points do.
    x, y: the pixels' columns and rows.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        along = _DIRECTIONS[:, :1] * x, _DIRECTIONS[:, 1:] * y
        self.extent = along[0][:, None] + along[1][:, :, None]  # pixels along each direction, (32, h, w)
        # Allocation would take as long as the arithmetic.
        self.scratch = torch.empty_like(self.extent)

    def __call__(self, points: Tensor, margins: Tensor | float) -> Tensor:
        """Points (N, 2) and the discs' radii -> (h, w)."""
        reach = _DIRECTIONS @ points.T
        ahead, behind = (reach + margins).amax(dim=1), (margins - reach).amax(dim=1)  # 32 each
        middle, half = (ahead - behind) / 2, (ahead + behind) / 2
        torch.sub(self.extent, middle[:, None, None], out=self.scratch)
        return self.scratch.abs_().sub_(half[:, None, None]).amax(dim=0)


def _points(landmarks: NDArray[np.floating]) -> Tensor:
    """(68, 2 or 3) -> (68, 2) float32."""
    return torch.from_numpy(np.ascontiguousarray(landmarks[:, :2], dtype=np.float32))


def _box(
    touched: NDArray[np.bool_], to_region: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[slice, slice] | None:
    """Rows and columns of the frame that hold all pixels of the touched part of the region."""
    if not touched.any():
        return None
    down, across = np.flatnonzero(touched.any(1)), np.flatnonzero(touched.any(0))
    corners = np.array(
        [[x, y, 1.0] for x in (across[0] - 1, across[-1] + 1) for y in (down[0] - 1, down[-1] + 1)]
    )
    corners = corners @ inverse(to_region).T
    limits = np.array([shape[1], shape[0]])
    low = np.clip(np.floor(corners.min(0)).astype(int), 0, limits)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 1, 0, limits)
    if (high - low < 2).any():
        return None
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def _sample(image: Tensor, grid: Tensor, mode: str) -> Tensor:
    """(C, h, w) at the grid's places -> (C, H', W')."""
    padding = "zeros" if mode == "bilinear" else "border"
    return F.grid_sample(image[None], grid, mode=mode, padding_mode=padding, align_corners=False)[0]
