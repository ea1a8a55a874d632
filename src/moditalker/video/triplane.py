"""The tri-plane latent of a clip: three planes, each with one axis of (time, height, width) collapsed.

A latent is kept as one sequence of cells (B, C, L): plane ``hw``, then ``ws`` (rows are frames, height is
collapsed), then ``hs`` (rows are frames, width is collapsed), as the released code stores it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moditalker.diffusion.layers import Attention, FeedForward


@dataclass(frozen=True)
class PlaneShape:
    """Cells along time, height and width."""

    frames: int
    height: int
    width: int

    @property
    def grids(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Rows and columns of the planes hw, ws, hs."""
        return (self.height, self.width), (self.frames, self.width), (self.frames, self.height)

    @property
    def cells(self) -> int:
        """L, the cells of all three planes."""
        return sum(rows * columns for rows, columns in self.grids)

    def split(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, L) -> hw (B, C, H, W), ws (B, C, S, W), hs (B, C, S, H)."""
        parts = z.split([rows * columns for rows, columns in self.grids], dim=-1)
        hw, ws, hs = (part.unflatten(-1, grid) for part, grid in zip(parts, self.grids, strict=True))
        return hw, ws, hs

    def join(self, planes: Iterable[Tensor]) -> Tensor:
        """Inverse of :meth:`split`."""
        return torch.cat([plane.flatten(-2) for plane in planes], dim=-1)


class CollapseTransformer(nn.Module):
    """Turns the tokens along the collapsed axis into one cell, by a small transformer [released code].

    A learned token is appended, learned positions are added, and the output at index 0 is the cell.
    """

    def __init__(self, dim: int, length: int, layers: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.position = nn.Parameter(torch.randn(1, length + 1, dim) * 0.02)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [Attention(dim, heads, max(1, dim // 8)), FeedForward(dim, feed_forward, gated=False)]
            )
            for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, length, D) -> (N, D)."""
        x = torch.cat([x, self.token.expand(x.shape[0], -1, -1)], dim=1)
        x = x + self.position[:, : x.shape[1]]
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            for part in layer:  # attention, feed-forward
                x = x + part(x)
        return x[:, 0]


class CollapseMean(nn.Module):
    """The mean over the collapsed axis [ours: 30 times cheaper]."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, length, D) -> (N, D)."""
        return x.mean(dim=1)


class ToPlanes(nn.Module):
    """Tokens (B, S, H, W, D) -> planes (B, C, L), before they are squashed into (-1, 1)."""

    def __init__(
        self,
        shape: PlaneShape,
        dim: int,
        channels: int,
        collapse: str,
        layers: int,
        heads: int,
        feed_forward: int,
    ) -> None:
        super().__init__()
        self.shape = shape

        def build(length: int) -> nn.Module:
            if collapse == "mean":
                return CollapseMean()
            return CollapseTransformer(dim, length, layers, heads, feed_forward)

        self.collapse = nn.ModuleList([build(shape.frames), build(shape.height), build(shape.width)])
        self.project = nn.ModuleList(nn.Linear(dim, channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        b, s, h, w, d = x.shape
        columns = (
            x.permute(0, 2, 3, 1, 4).reshape(b * h * w, s, d),  # hw: along time
            x.permute(0, 1, 3, 2, 4).reshape(b * s * w, h, d),  # ws: along height
            x.reshape(b * s * h, w, d),  # hs: along width
        )
        cells = [
            project(collapse(column)).reshape(b, -1, project.out_features)
            for collapse, project, column in zip(self.collapse, self.project, columns, strict=True)
        ]
        return torch.cat(cells, dim=1).transpose(1, 2)  # B C L


class FromPlanes(nn.Module):
    """Planes (B, C, L) -> tokens (B, S, H, W, D): each plane through its own Linear, broadcast, summed."""

    def __init__(self, shape: PlaneShape, channels: int, dim: int) -> None:
        super().__init__()
        self.shape = shape
        self.project = nn.ModuleList(nn.Linear(channels, dim) for _ in range(3))

    def forward(self, z: Tensor) -> Tensor:
        hw, ws, hs = (
            project(plane.permute(0, 2, 3, 1))
            for project, plane in zip(self.project, self.shape.split(z), strict=True)
        )
        return hw[:, None] + ws[:, :, None] + hs[:, :, :, None]  # B S H W D
