"""Divided space-time transformer over the patches of a clip (Bertasius et al. 2021) [released code]."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from moditalker.diffusion.layers import Attention, FeedForward, Rotary


def time_rotation(frames: int, head_dim: int) -> Rotary:
    """Base 10000; the table repeats the frequencies as [f, f] while pairs are adjacent [released code]."""
    frequencies = 10000 ** (-torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.arange(frames).float()[:, None] * frequencies.repeat(2)
    return angles.cos(), angles.sin()


def space_rotation(height: int, width: int, head_dim: int) -> Rotary:
    """Axial over linspace(-1, 1): half a head turns by row, half by column [released code]."""
    scales = torch.logspace(0.0, math.log2(5.0), head_dim // 4, base=2.0) * math.pi
    rows = torch.linspace(-1, 1, height)[:, None, None] * scales
    columns = torch.linspace(-1, 1, width)[None, :, None] * scales
    grid = torch.cat([rows.expand(height, width, -1), columns.expand(height, width, -1)], dim=-1)
    angles = grid.flatten(0, 1).repeat_interleave(2, dim=-1)
    return angles.cos(), angles.sin()


class SpaceTimeLayer(nn.Module):
    """Attention along time, then along space, then a feed-forward; each a residual."""

    def __init__(self, dim: int, heads: int, head_dim: int, feed_forward: int) -> None:
        super().__init__()
        self.time = Attention(dim, heads, head_dim)
        self.space = Attention(dim, heads, head_dim)
        self.feed_forward = FeedForward(dim, feed_forward * dim, gated=True)

    def forward(self, x: Tensor, time: Rotary, space: Rotary) -> Tensor:
        b, s, cells, d = x.shape
        h = x.transpose(1, 2).reshape(b * cells, s, d)
        x = x + self.time(h, time).reshape(b, cells, s, d).transpose(1, 2)
        x = x + self.space(x.reshape(b * s, cells, d), space).reshape(b, s, cells, d)
        return x + self.feed_forward(x)


class TimeSformer(nn.Module):
    """Space-time layers over tokens (B, S, H, W, D); no final norm."""

    time_cos: Tensor
    time_sin: Tensor
    space_cos: Tensor
    space_sin: Tensor

    def __init__(
        self,
        frames: int,
        height: int,
        width: int,
        dim: int,
        layers: int,
        heads: int,
        head_dim: int,
        feed_forward: int,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SpaceTimeLayer(dim, heads, head_dim, feed_forward) for _ in range(layers))
        for name, (cos, sin) in (
            ("time", time_rotation(frames, head_dim)),
            ("space", space_rotation(height, width, head_dim)),
        ):
            self.register_buffer(f"{name}_cos", cos, persistent=False)
            self.register_buffer(f"{name}_sin", sin, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[2:4]
        time = (self.time_cos[: x.shape[1]], self.time_sin[: x.shape[1]])
        x = x.flatten(2, 3)  # B S HW D
        for layer in self.layers:
            x = layer(x, time, (self.space_cos, self.space_sin))
        return x.unflatten(2, grid)
