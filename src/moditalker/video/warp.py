"""Landmarks as a spatial condition, and the head that warps the identity frame [ours].

Everything here is a smooth function of landmark positions, so motion finer than a cell reaches the picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moditalker.landmarks import LIP_RELATED, draw
from moditalker.video.triplane import PlaneShape

POINTS = 68
NEAR = 4.0  # pixels: reach of a landmark in the coarse flow; about half the height of a lip at crop size 128
FLOW_STEP = 2  # pixels between the nodes of the coarse flow


def cell_grid(height: int, width: int, step: int, reference: Tensor) -> Tensor:
    """(height * width, 2) x, y of cell centres in pixels (centres of pixels at integers)."""
    y = torch.arange(height, device=reference.device, dtype=reference.dtype) * step + (step - 1) / 2
    x = torch.arange(width, device=reference.device, dtype=reference.dtype) * step + (step - 1) / 2
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


def affinity(grid: Tensor, points: Tensor, reach: float) -> Tensor:
    """exp(-|grid - point|^2 / 2 reach^2): (N, 2), (..., K, 2) -> (..., N, K)."""
    squared = (
        grid.square().sum(-1)[:, None]
        - 2 * grid @ points.transpose(-1, -2)
        + points.square().sum(-1)[..., None, :]
    )
    return torch.exp(squared.clamp_min(0) * (-0.5 / reach**2))


def coarse_flow(landmarks: Tensor, identity_landmarks: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel of the target looks in the identity frame, from the landmarks alone.

    A Gaussian-weighted mean of the landmarks' displacements, fading to none far from them.

    Args:
        landmarks: (N, 68, 2) target, pixels.
        identity_landmarks: (N, 68, 2).
        height, width: of the region, pixels.

    Returns:
        (N, 2, height, width) displacement x, y in pixels, to be added to a pixel's own position.
    """
    rows, columns = height // FLOW_STEP, width // FLOW_STEP
    grid = cell_grid(rows, columns, FLOW_STEP, landmarks)
    shift = identity_landmarks - landmarks  # N K 2
    near, far = affinity(grid, landmarks, NEAR), affinity(grid, landmarks, 4 * NEAR)
    weight = near + 0.02 * far
    flow = weight @ shift / (weight.sum(-1, keepdim=True) + 0.005)  # N cells 2
    flow = flow.transpose(1, 2).unflatten(-1, (rows, columns))
    return F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False)


def warp_by_flow(image: Tensor, flow: Tensor) -> Tensor:
    """Sample (N, C, H, W) at pixel + flow; flow (N, 2, H, W) in pixels; the border is repeated."""
    h, w = image.shape[-2:]
    y = torch.arange(h, device=image.device, dtype=image.dtype)[:, None]
    x = torch.arange(w, device=image.device, dtype=image.dtype)
    grid = torch.stack([(x + flow[:, 0]) * (2 / (w - 1)) - 1, (y + flow[:, 1]) * (2 / (h - 1)) - 1], dim=-1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


def mouth_interior(landmarks: Tensor, height: int, width: int, softness: float = 0.7) -> Tensor:
    """Where the mouth is open: 1 between the inner lips, 0 elsewhere, soft over about two pixels.

    (N, 68, 2) pixels -> (N, 1, height, width). The crop is upright, so each column has one upper and one
    lower edge.
    """
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
    between = ((y - upper) / softness).sigmoid() * ((lower - y) / softness).sigmoid()
    open_ = ((lower - upper) / softness - 1).clamp(0, 1)  # touching lips have nothing between them
    return (between * open_ * ((x > left) & (x < right)))[:, None]


class LandmarkTokens(nn.Module):
    """Tokens (B, S, H', W', D) that tell each cell of the landmarks near it, and each frame of all of
    them.
    """

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
        grid = cell_grid(height, width, p, landmarks)
        shift = (landmarks - identity_landmarks[:, None]) / p  # B S K 2
        here = affinity(grid, landmarks, p)  # B S N K
        before = affinity(grid, identity_landmarks, p)[:, None].expand_as(here)
        near = torch.cat([here, before, here * shift[..., None, :, 0], here * shift[..., None, :, 1]], dim=-1)
        lips = landmarks[:, :, self.lip_related] / (p * height) - 0.5
        frame = torch.cat([lips, shift[:, :, self.lip_related]], dim=-1).flatten(-2)  # B S 4K
        return (self.near(near) + self.frame(frame)[:, :, None]).unflatten(2, (height, width))


class WarpHead(nn.Module):
    """Tokens -> flow, mask and residual on the identity frame, a picture between the lips where the identity
    shows none, and two convolutions.
    """

    FLOW_LIMIT = 8.0  # pixels that the learned flow may add to the coarse one
    EXTRA = 4  # channels that tokens hand to the convolutions beside the residual
    INTERIOR = -0.5  # where the colour between the lips starts: dark

    def __init__(self, dim: int, patch: int, hidden: int = 16) -> None:
        super().__init__()
        self.patch = patch
        self.norm = nn.LayerNorm(dim)
        self.fine = nn.Linear(dim, (6 + self.EXTRA) * patch**2)  # residual, extra, interior
        self.coarse = nn.Linear(dim, 3 * (patch // 2) ** 2)  # flow x, y and mask at half resolution
        last = nn.Conv2d(hidden, 3, 3, padding=1)
        self.refine = nn.Sequential(nn.Conv2d(7 + self.EXTRA, hidden, 3, padding=1), nn.SiLU(), last)
        for layer in (self.coarse, self.fine, last):  # starts as the warped identity frame
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            layer.weight.data.mul_(0.1)

    def forward(self, x: Tensor, identity: Tensor, landmarks: Tensor, identity_landmarks: Tensor) -> Tensor:
        b, s = x.shape[:2]
        height, width = identity.shape[-2:]
        x = self.norm(x).flatten(0, 1).permute(0, 3, 1, 2)  # BS D H' W'
        fine = F.pixel_shuffle(self._per_cell(self.fine, x), self.patch)
        coarse = F.pixel_shuffle(self._per_cell(self.coarse, x), self.patch // 2)
        coarse = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
        start = identity_landmarks[:, None].expand_as(landmarks).flatten(0, 1)
        flow = coarse_flow(landmarks.flatten(0, 1), start, height, width)
        flow = flow + self.FLOW_LIMIT * coarse[:, :2].tanh()
        frames = identity[:, None].expand(-1, s, -1, -1, -1).flatten(0, 1)
        warped = warp_by_flow(frames, flow)
        keep = (coarse[:, 2:] + 3.0).sigmoid()  # starts near 1: the warped frame as it is
        residual, extra, interior = fine.split([3, self.EXTRA, 3], dim=1)
        # Where the identity's own mouth is open, its teeth are there to be warped.
        shown = warp_by_flow(mouth_interior(start, height, width), flow)
        gap = mouth_interior(landmarks.flatten(0, 1), height, width) * (1 - shown)
        mixed = torch.lerp(keep * warped + residual, interior + self.INTERIOR, gap)
        out = mixed + self.refine(torch.cat([warped, mixed, extra, gap], dim=1))  # BS 3 H W
        return out.unflatten(0, (b, s)).transpose(1, 2)

    @staticmethod
    def _per_cell(layer: nn.Linear, x: Tensor) -> Tensor:
        return F.conv2d(x, layer.weight[..., None, None], layer.bias)


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
        y = torch.arange(height, device=landmarks.device, dtype=landmarks.dtype)
        x = torch.arange(width, device=landmarks.device, dtype=landmarks.dtype)
        points = landmarks.flatten(0, 1)
        across = torch.exp(-0.5 * ((x - points[..., :1]) / reach).square())  # N K W
        down = torch.exp(-0.5 * ((y - points[..., 1:]) / reach).square())  # N K H
        spots = [down[:, list(part)].transpose(1, 2) @ across[:, list(part)] for part in PARTS]
        drawn = torch.stack(spots, dim=1).clamp(max=1)
    return 2 * drawn.unflatten(0, landmarks.shape[:2]).transpose(1, 2) - 1
