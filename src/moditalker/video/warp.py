"""Landmarks as a spatial condition, and the head that warps the identity frame [ours].

Everything here is a smooth function of landmark positions, so motion finer than a cell reaches the picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moditalker.geometry.points import LIP_RELATED
from moditalker.geometry.raster import draw
from moditalker.video.triplane import PlaneShape

POINTS = 68
CROP = 128  # region width to which the pixels below refer; other widths scale them
NEAR = 4.0  # pixels: reach of a landmark in the coarse flow; about half the height of a lip
FAR = 0.02  # weight of the landmarks four times as far
SOFTNESS = 0.7  # pixels over which the edge of an open mouth fades
FLOW_STEP = 2  # pixels between the nodes of the coarse flow


def falloff(places: Tensor, length: int, step: int, reach: float) -> Tensor:
    """exp(-d^2 / 2 reach^2), d the distance along one axis between cell centres and landmarks.

    A Gaussian in the plane is the product of one along each axis: two short ones in place of a picture.

    Args:
        places: (..., K) x or y of the landmarks, pixels (centres of pixels at integers).
        length: cells along the axis; step: pixels of a cell.
        reach: standard deviation, pixels.

    Returns:
        (..., length, K); at least 1e-18, since arithmetic on the tiniest of numbers is slow.
    """
    centre = torch.arange(length, device=places.device, dtype=places.dtype) * step + (step - 1) / 2
    exponent = (centre[:, None] - places[..., None, :]).square() * (-0.5 / reach**2)
    return exponent.clamp_min(-41.0).exp()


def affinity(points: Tensor, grid: tuple[int, int], step: int, reach: float) -> Tensor:
    """exp(-|cell - point|^2 / 2 reach^2) over cells of ``step`` pixels: (..., K, 2) -> (..., rows, columns,
    K).
    """
    rows, columns = grid
    down, across = falloff(points[..., 1], rows, step, reach), falloff(points[..., 0], columns, step, reach)
    return down[..., :, None, :] * across[..., None, :, :]


def coarse_flow(landmarks: Tensor, identity_landmarks: Tensor, height: int, width: int) -> Tensor:
    """Compute the coarse flow from target pixels to the identity frame, from landmarks alone.

    A Gaussian-weighted mean of the landmarks' displacements, fading to none far from them.

    Args:
        landmarks: (N, 68, 2) target, pixels.
        identity_landmarks: (N, 68, 2).
        height, width: size of the region, pixels.

    Returns:
        (N, 2, height, width) displacement x, y in pixels, to be added to a pixel's own position.
    """
    rows, columns, near = height // FLOW_STEP, width // FLOW_STEP, NEAR * width / CROP
    shift = identity_landmarks - landmarks  # N K 2
    across, down = (
        torch.cat([falloff(places, length, FLOW_STEP, reach) for reach in (near, 4 * near)], dim=-1)
        for places, length in zip(landmarks.unbind(-1), (columns, rows), strict=True)
    )  # N cells 2K
    pulls = torch.cat([shift, torch.ones_like(shift[..., :1])], dim=-1)  # N K 3
    pulls = torch.cat([pulls, FAR * pulls], dim=1)  # N 2K 3
    sums = torch.einsum("nhk,nkc,nwk->nchw", down, pulls, across)
    flow = sums[:, :2] / (sums[:, 2:] + 0.005)
    return F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False)


def warp_by_flow(image: Tensor, flow: Tensor) -> Tensor:
    """Sample (N, C, H, W) at pixel + flow; flow (N, 2, H, W) in pixels; the border is repeated."""
    h, w = image.shape[-2:]
    unit = torch.tensor([2 / (w - 1), 2 / (h - 1)], device=flow.device, dtype=flow.dtype)
    x, y = (torch.arange(n, device=flow.device, dtype=flow.dtype) * (2 / (n - 1)) - 1 for n in (w, h))
    own = torch.stack([x.expand(h, w), y[:, None].expand(h, w)])
    grid = torch.addcmul(own, flow, unit[:, None, None])  # N 2 H W
    places = grid.permute(0, 2, 3, 1)
    return F.grid_sample(image, places, mode="bilinear", padding_mode="border", align_corners=True)


def mouth_interior(landmarks: Tensor, height: int, width: int) -> Tensor:
    """1 between the inner lips, 0 elsewhere, soft over about two pixels of a crop of 128.

    (N, 68, 2) pixels -> (N, 1, height, width). The crop is upright, so each column has one upper and one
    lower edge.
    """
    softness = SOFTNESS * width / CROP
    x = torch.arange(width, device=landmarks.device, dtype=landmarks.dtype)
    y = torch.arange(height, device=landmarks.device, dtype=landmarks.dtype)[:, None]

    def edge(points: Tensor) -> Tensor:
        """Height of a line through points (N, K, 2) ordered from left to right, at each column: (N, 1,
        width).
        """
        (x0, y0), (x1, y1) = points[:, :-1, None].unbind(-1), points[:, 1:, None].unbind(-1)  # N K-1 1
        along = (x - x0) / (x1 - x0).clamp_min(1e-3)
        inside = ((along >= 0) & (along < 1)).to(x)
        line = y0 + along.clamp(0, 1) * (y1 - y0)
        return (line * inside).sum(1, keepdim=True) / inside.sum(1, keepdim=True).clamp_min(1)

    left, right = landmarks[:, None, 60:61, 0], landmarks[:, None, 64:65, 0]  # N 1 1
    upper, lower = edge(landmarks[:, [60, 61, 62, 63, 64]]), edge(landmarks[:, [60, 67, 66, 65, 64]])
    # Over a column it adds up to the gap, however narrow; touching lips have nothing between them.
    between = ((y - upper) / softness).sigmoid() - ((y - lower) / softness).sigmoid()
    return (between.clamp_min(0) * ((x > left) & (x < right)))[:, None]


class LandmarkTokens(nn.Module):
    """Adds to tokens (B, S, H', W', D) the landmarks near each cell, and all landmarks of each frame."""

    lip_related: Tensor

    def __init__(self, shape: PlaneShape, patch: int, dim: int) -> None:
        super().__init__()
        self.shape, self.patch = shape, patch
        self.near = nn.Linear(4 * POINTS, dim)
        self.frame = nn.Sequential(
            nn.Linear(4 * len(LIP_RELATED), 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim)
        )
        self.register_buffer("lip_related", torch.tensor(LIP_RELATED), persistent=False)

    def forward(self, landmarks: Tensor, identity_landmarks: Tensor) -> Tensor:
        p, (height, width) = self.patch, self.shape.grids[0]
        shift = (landmarks - identity_landmarks[:, None]) / p  # B S K 2
        here = affinity(landmarks, (height, width), p, p).flatten(2, 3)  # B S N K
        before = affinity(identity_landmarks, (height, width), p, p).flatten(1, 2)[:, None].expand_as(here)
        near = torch.cat([here, before, here * shift[..., None, :, 0], here * shift[..., None, :, 1]], dim=-1)
        lips = landmarks[:, :, self.lip_related] / (p * height) - 0.5
        frame = torch.cat([lips, shift[:, :, self.lip_related]], dim=-1).flatten(-2)  # B S 4K
        return (self.near(near) + self.frame(frame)[:, :, None]).unflatten(2, (height, width))


class WarpHead(nn.Module):
    """Turns tokens into flow, mask and residual on the identity frame, and a picture between the lips if the
    identity shows none; then two convolutions.
    """

    FLOW_LIMIT = 8.0  # pixels that the learned flow may add to the coarse one
    EXTRA = 4  # channels from tokens to the convolutions, in addition to the residual
    INTERIOR = -0.5  # initial colour between the lips: dark

    def __init__(self, dim: int, patch: int, hidden: int = 16) -> None:
        super().__init__()
        self.patch = patch
        self.norm = nn.LayerNorm(dim)
        self.fine = nn.Linear(dim, (6 + self.EXTRA) * patch**2)  # residual, extra, interior
        self.coarse = nn.Linear(dim, 3 * (patch // 2) ** 2)  # flow x, y and mask at half resolution
        first = nn.Conv2d(7 + self.EXTRA, hidden, 3, padding=1)
        last = nn.Conv2d(hidden, 3, 3, padding=1)
        self.refine = nn.Sequential(first, nn.SiLU(inplace=True), last)
        self.refine.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # three times as fast
        for layer in (self.coarse, self.fine, last):  # starts as the warped identity frame
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            layer.weight.data.mul_(0.1)

    def forward(self, x: Tensor, identity: Tensor, landmarks: Tensor, identity_landmarks: Tensor) -> Tensor:
        b, s = x.shape[:2]
        height, width = identity.shape[-2:]
        x = self.norm(x).flatten(0, 1)  # BS H' W' D
        fine = self._pixels(self.fine, x, self.patch).float()  # BS 10 H W; mixed precision ends here
        coarse = self._pixels(self.coarse, x, self.patch // 2).float()  # BS 3 H/2 W/2
        coarse = coarse.flatten(0, 1)[:, None]  # torch is slow with three channels
        coarse = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
        coarse = coarse.view(b * s, 3, height, width)
        start = identity_landmarks[:, None].expand_as(landmarks).flatten(0, 1)
        flow = coarse_flow(landmarks.flatten(0, 1), start, height, width)
        flow = flow + self.FLOW_LIMIT * (width / CROP) * coarse[:, :2].tanh()
        # If the identity's own mouth is open, its teeth can be warped.
        frames = torch.cat([identity, mouth_interior(identity_landmarks, height, width)], dim=1)
        frames = frames[:, None].expand(-1, s, -1, -1, -1).flatten(0, 1)
        warped, shown = warp_by_flow(frames, flow).split([3, 1], dim=1)
        keep = (coarse[:, 2:] + 3.0).sigmoid()  # starts near 1: the warped frame unchanged
        residual, extra, interior = fine.split([3, self.EXTRA, 3], dim=1)
        gap = mouth_interior(landmarks.flatten(0, 1), height, width) * (1 - shown)
        mixed = torch.lerp(keep * warped + residual, interior + self.INTERIOR, gap)
        # One mask for three colours is quick to apply plane by plane; only convolutions like channels last.
        parts = torch.cat([warped, mixed, extra, gap], dim=1).contiguous(memory_format=torch.channels_last)
        out = mixed + self.refine(parts)  # BS 3 H W
        return out.unflatten(0, (b, s)).transpose(1, 2)

    @staticmethod
    def _pixels(layer: nn.Linear, x: Tensor, side: int) -> Tensor:
        """Each cell's output as side x side pixels: (N, rows, columns, D) -> (N, C, rows side, columns side).

        The layer's outputs are ordered (channel, row, column), as `pixel_shuffle` has them.
        """
        n, rows, columns, _ = x.shape
        cells = layer(x).view(n, rows, columns, -1, side, side)
        return cells.permute(0, 3, 1, 4, 2, 5).reshape(n, -1, rows * side, columns * side)


PARTS = (
    LIP_RELATED[:17],
    LIP_RELATED[17:29],
    LIP_RELATED[29:],
)  # jaw, outer lips, inner lips: one colour each


def landmark_frames(landmarks: Tensor, height: int, width: int, style: str) -> Tensor:
    """Landmarks drawn as a clip for E_L: (B, S, 68, 2) pixels -> (B, 3, S, height, width) in [-1, 1].

    ``discs``: all points as white discs of radius 3 per 256 pixels of width on black [released code].
    ``gaussians``: jaw, outer and inner lips as soft spots in three colours, so that motion below a pixel
    shows and touching lips can be told apart [ours].
    """
    if style == "discs":
        discs = draw(landmarks.detach().cpu().flatten(0, 1).numpy(), height, width)
        drawn = torch.from_numpy(discs).to(landmarks)[:, None].expand(-1, 3, -1, -1)
    else:
        reach = 1.5 * width / 128
        x, y = landmarks.flatten(0, 1).unbind(-1)  # N K each
        spots = [
            falloff(y[:, part], height, 1, reach) @ falloff(x[:, part], width, 1, reach).transpose(1, 2)
            for part in map(list, PARTS)
        ]
        drawn = torch.stack(spots, dim=1).clamp(max=1)
    return 2 * drawn.unflatten(0, landmarks.shape[:2]).transpose(1, 2) - 1
