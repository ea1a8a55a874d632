"""MToV, the motion-to-video diffusion network (paper section 3, Fig. 1, Eq. 6): a UNet over three planes.

The same 2D blocks serve the planes hw, ws and hs; attention over the cells of all three connects them.
Planes need not be square, nor their sides even.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moditalker.config import GROUPS, MToVConfig
from moditalker.diffusion.layers import timestep_embedding
from moditalker.video.triplane import PlaneShape

CONDITIONS = 3  # landmark, pose and identity planes
Planes = list[Tensor]  # hw, ws, hs, each (B, C, rows, columns)
Size = tuple[int, int]


def each(function: Callable[[Tensor], Tensor], planes: Iterable[Tensor]) -> Planes:
    return [function(plane) for plane in planes]


def each_size(planes: Planes) -> list[Size]:
    return [(plane.shape[2], plane.shape[3]) for plane in planes]


def zeroed(layer: nn.Module) -> nn.Module:
    """Set the weights to zero, so that a block starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def upsample(x: Tensor, size: Size) -> Tensor:
    """Double the sides, or one less if the way down rounded up."""
    return F.interpolate(x, scale_factor=2, mode="nearest")[..., : size[0], : size[1]]


def downsample(x: Tensor) -> Tensor:
    """Halve the sides, rounded up, so that no row of an odd plane is lost."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


class ResidualBlock(nn.Module):
    """Two convolutions, steered by the timestep; the first may halve or double the plane (both paths)."""

    def __init__(self, channels: int, out_channels: int, vector: int, resample: str = "") -> None:
        super().__init__()
        self.resample = resample  # "", "down" or "up"
        self.norm1 = nn.GroupNorm(GROUPS, channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.scale_and_shift = nn.Sequential(nn.SiLU(), nn.Linear(vector, 2 * out_channels))
        self.norm2 = nn.GroupNorm(GROUPS, out_channels)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, vector: Tensor, size: Size = (0, 0)) -> Tensor:
        """(B, C, rows, columns) -> (B, C', rows', columns'); ``size``: the output's, for "up"."""
        h = F.silu(self.norm1(x))
        if self.resample == "down":
            h, x = downsample(h), downsample(x)
        elif self.resample == "up":
            h, x = upsample(h, size), upsample(x, size)
        h = self.conv1(h)
        scale, shift = self.scale_and_shift(vector)[..., None, None].chunk(2, dim=1)  # B C' 1 1 each
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


class CellAttention(nn.Module):
    """Self-attention over all cells of an array (B, C, rows, columns), with its residual."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Linear(
            channels, 3 * channels
        )  # channels ordered (head, [q, k, v], dimension) [released]
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        cells = self.norm(x).flatten(2).transpose(1, 2)  # B N C
        q, k, v = (
            self.qkv(cells).unflatten(-1, (self.heads, 3, -1)).transpose(1, 2).unbind(3)
        )  # B heads N dim
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # B N C
        return x + self.out(attended).transpose(1, 2).unflatten(2, x.shape[2:])


class SpeechAttention(nn.Module):
    """Cells look at speech features, with a residual (Table 3, IV: audio by cross-attention)."""

    def __init__(self, channels: int, heads: int, speech_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(speech_width, 2 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor, speech: Tensor) -> Tensor:
        """(B, C, N, 1) cells, (B, T, D) features -> (B, C, N, 1)."""
        cells = self.norm(x).flatten(2).transpose(1, 2)  # B N C
        q = self.query(cells).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # B heads N dim
        k, v = self.key_value(speech).unflatten(-1, (2, self.heads, -1)).transpose(1, 3).unbind(2)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # B N C
        return x + self.out(attended).transpose(1, 2).unflatten(2, x.shape[2:])


class Stage(nn.Module):
    """A block, attention within each plane, perhaps a second block, attention across planes and to speech."""

    def __init__(
        self,
        block: ResidualBlock,
        within: bool,
        then: ResidualBlock | None,
        heads: int,
        speech_width: int = 0,
    ) -> None:
        super().__init__()
        self.block = block
        self.within = CellAttention(block.conv1.out_channels, heads) if within else None
        self.then = then
        channels = block.conv1.out_channels
        self.across = CellAttention(channels, heads)
        self.hear = SpeechAttention(channels, heads, speech_width) if speech_width else None

    def forward(
        self, planes: Planes, vector: Tensor, speech: Tensor | None = None, sizes: list[Size] | None = None
    ) -> Planes:
        """``sizes``: the planes' sizes after an upsampling second block."""
        planes = each(lambda plane: self.block(plane, vector), planes)
        if self.within is not None:
            planes = each(self.within, planes)
        if self.then is not None:
            sizes = each_size(planes) if sizes is None else sizes
            planes = [self.then(plane, vector, size) for plane, size in zip(planes, sizes, strict=True)]
        return self.together(planes, speech)

    def together(self, planes: Planes, speech: Tensor | None = None) -> Planes:
        """Attention over the cells of all planes as one sequence."""
        cells = torch.cat(each(lambda plane: plane.flatten(2).transpose(1, 2), planes), dim=1)  # B L C
        cells = self.across(cells.transpose(1, 2)[..., None])  # B C L 1
        if self.hear is not None and speech is not None:
            cells = self.hear(cells, speech)
        parts = cells.squeeze(-1).split([plane.shape[2] * plane.shape[3] for plane in planes], dim=2)
        return [part.unflatten(2, plane.shape[2:]) for part, plane in zip(parts, planes, strict=True)]


class MToV(nn.Module):
    """Denoiser of a clip's planes under landmark, pose and identity planes (Eq. 6).

    config: widths and levels; ``identity_planes="hw"`` keeps only that plane of the identity [released].
    shape: cells of the planes. plane_channels: C. speech_width: width of the speech features that every
        stage attends to; 0: none.
    """

    def __init__(
        self, config: MToVConfig, shape: PlaneShape, plane_channels: int, speech_width: int = 0
    ) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        vector = 4 * config.channels
        self.time = nn.Sequential(nn.Linear(config.channels, vector), nn.SiLU(), nn.Linear(vector, vector))

        widths = [config.channels * multiplier for multiplier in config.multipliers]
        last = len(widths) - 1
        channels = widths[0]
        self.input = nn.Conv2d((1 + CONDITIONS) * plane_channels, channels, 3, padding=1)
        self.encoder = nn.ModuleList()
        skips = [channels]
        for level, width in enumerate(widths):
            within = 2**level in config.attention
            for _ in range(config.blocks):
                block = ResidualBlock(channels, width, vector)
                self.encoder.append(Stage(block, within, None, config.heads, speech_width))
                channels = width
                skips.append(channels)
            if level != last:
                down = ResidualBlock(channels, channels, vector, "down")
                self.encoder.append(Stage(down, False, None, config.heads, speech_width))
                skips.append(channels)

        block, then = (ResidualBlock(channels, channels, vector) for _ in range(2))
        self.middle = Stage(block, True, then, config.heads, speech_width)

        self.decoder = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            within = 2**level in config.attention
            for i in range(config.blocks + 1):
                block = ResidualBlock(channels + skips.pop(), width, vector)
                closing = level > 0 and i == config.blocks
                up = ResidualBlock(width, width, vector, "up") if closing else None
                self.decoder.append(Stage(block, within, up, config.heads, speech_width))
                channels = width

        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, channels),
            nn.SiLU(),
            zeroed(nn.Conv2d(channels, plane_channels, 3, padding=1)),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on a CPU

    def identity_condition(self, identity: Tensor) -> Tensor:
        """(B, C, L) -> (B, C, L): all planes [paper], or zeros in ws and hs [released]."""
        if self.config.identity_planes == "all":
            return identity
        hw, ws, hs = self.shape.split(identity)
        return self.shape.join((hw, torch.zeros_like(ws), torch.zeros_like(hs)))

    def forward(
        self,
        zt: Tensor,
        t: Tensor,
        landmark: Tensor,
        pose: Tensor,
        identity: Tensor,
        speech: Tensor | None = None,
    ) -> Tensor:
        """zt (B, C, L) at timesteps t (B,), Z_L, Z_P, Z_I (B, C, L), perhaps speech (B, 2S, D) -> z0, or the
        noise, (B, C, L).
        """
        t = t.to(zt.device)
        vector = self.time(timestep_embedding(t, self.config.channels, cosine_first=True))  # B 4C
        stacked = torch.cat([zt, landmark, pose, self.identity_condition(identity)], dim=1)  # B 4C L
        planes = each(
            lambda plane: plane.contiguous(memory_format=torch.channels_last), self.shape.split(stacked)
        )

        planes = each(self.input, planes)
        skips = [planes]
        for stage in self.encoder:
            planes = stage(planes, vector, speech)
            skips.append(planes)
        planes = self.middle(planes, vector, speech)
        for stage in self.decoder:
            skip = skips.pop()
            planes = [torch.cat(pair, dim=1) for pair in zip(planes, skip, strict=True)]
            sizes = each_size(skips[-1]) if skips else None
            planes = stage(planes, vector, speech, sizes)
        return self.shape.join(each(self.out, planes))  # B C L
